"""Documents and their reference summaries: rows of a source become documents, checked and split once."""

import hashlib
import itertools
import json
import random
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from bakeoff.config.schema import TaskSettings
from bakeoff.core.disk_list import DiskList
from bakeoff.core.errors import UsageError
from bakeoff.core.writing import split_sentences
from bakeoff.data.sources import Row, Source, is_aclsum, source
from bakeoff.metrics.rouge import Scorer

SPLITS = ("train", "validation", "test")
PROMPT = "{document}\n\nSummary:"
INSTRUCTION = "Summarize the following text.\n\n{document}"
NAMED = 5
"""Rows that a complaint names, of all that it counts."""


@dataclass(frozen=True)
class Example:
    """What is asked once: a document, or one aspect of it, with its reference summaries."""

    id: str
    """Of the document. Examples of one document, its aspects, stand one after another."""
    document: str
    summary: str
    """The first reference."""
    aspect: str = ""
    """What the summary is about, where a task has several; fills `{aspect}` in the prompt."""
    given_sentences: tuple[str, ...] = ()
    """The document's sentences where the source marks them."""
    others: tuple[str, ...] = ()
    """The other references."""

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """The document's sentences, at least one."""
        return self.given_sentences or split_sentences(self.document)

    @property
    def references(self) -> tuple[str, ...]:
        """All references, at least one."""
        return (self.summary, *self.others)


@dataclass(frozen=True)
class Examples:
    """What a run sees, by split."""

    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    scorer: Scorer = field(default_factory=Scorer)
    """Scores as the run does: `scorer.rouge(summary, example.references)`."""


@dataclass(frozen=True)
class Task:
    """Examples with the words around them."""

    name: str
    prompt: str
    """Holds `{document}` once, ends with the separator."""
    instruction: str
    """The same for a chat."""
    examples: Examples
    sha256: str
    """Of every id, document and reference in order."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """rows: of the source; of them dropped: `empty` (without a text), `repeated` (the same document and summary once
    more), `two_splits` (of a document of an earlier split), `other_splits` (neither train, validation nor test);
    ids_made: documents whose id another one has, too; train, validation, test: documents that a run sees."""


def load(settings: TaskSettings, scorer: Scorer | None = None) -> Task:
    """The task of `settings`: sampled by `split_seed`, each document in one split; `scorer` is for its controls.

    Raises UsageError for a name that is not known, data that is not installed or reachable, and data that is malformed
    (with file and row).
    """
    prompt, instruction = settings.prompt or PROMPT, settings.instruction or INSTRUCTION
    if is_aclsum(settings.name):
        prompt = settings.prompt or "{document}\n\n{aspect}:"
        instruction = settings.instruction or (
            "Summarize the {aspect} of this paper in one sentence. Answer with the sentence only.\n\n{document}"
        )
    counts: Counter[str] = Counter()
    splits = draw(source(settings, counts), settings, counts)
    digest = hashlib.sha256()
    for e in itertools.chain(*(splits[split] for split in SPLITS)):
        for reference in e.references:
            digest.update(json.dumps([e.id, e.document, reference, e.aspect]).encode() + b"\n")
    examples = Examples(splits["train"], splits["validation"], splits["test"], scorer or Scorer())
    return Task(settings.name, prompt, instruction, examples, digest.hexdigest(), dict(counts))


def each_reference(examples: Iterable[Example]) -> Iterator[Example]:
    """What is trained on: every reference as an example of its own."""
    return (replace(e, summary=reference, others=()) for e in examples for reference in e.references)


class Rows:
    """Rows on disk; in memory are digests of what is compared, 25 bytes a row."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.shelf: DiskList[Row] = DiskList()
        self.splits, self.texts, self.contents, self.ids = array("B"), array("q"), array("q"), array("q")
        for row in rows:
            self.shelf.append(row)
            self.splits.append(SPLITS.index(row.split))
            self.texts.append(digest_of(row.document))
            self.contents.append(digest_of(f"{row.split} {row.aspect} {len(row.summary)} {row.summary}{row.document}"))
            self.ids.append(digest_of(row.id) if row.id else 0)


def digest_of(text: str) -> int:
    """64 bits that stand for a text: of a million texts two share them once in 40 million cases."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True) or 1


def first_alike(digests: Any) -> Any:
    """For each place of an array of numbers the first place that holds the same."""
    import numpy

    order = numpy.argsort(digests, kind="stable")
    ordered = digests[order]
    begins = numpy.ones(len(order), dtype=bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    found = numpy.empty_like(order)
    found[order] = order[begins][begins.cumsum() - 1]
    return found


class SortedNumbers:
    """Which numbers an array holds, in no more memory than its own."""

    def __init__(self, numbers: Any) -> None:
        self.numbers = numbers
        self.numbers.sort()

    def __contains__(self, number: int) -> bool:
        place = int(self.numbers.searchsorted(number))
        return place < len(self.numbers) and int(self.numbers[place]) == number


def draw(found: Source, settings: TaskSettings, counts: Counter[str]) -> dict[str, Sequence[Example]]:
    """Each split's sample: `settings.train` documents and so on, drawn by `split_seed`, in the order of the source.

    A document's rows make one document, in one split; `counts` takes what became of the rows. Raises UsageError for a
    document in two splits or an id of two documents, where they stand in the user's own file, and for more documents
    than there are. Texts stay on disk; a document is known by the number of its first row.
    """
    import numpy

    rows = Rows(found.rows)
    shelf, splits = rows.shelf, numpy.array(rows.splits, dtype=numpy.uint8)
    counts["rows"] += len(shelf)
    home = first_alike(numpy.array(rows.texts, dtype=numpy.int64))
    strayed = splits != splits[home]
    if strayed.any() and found.file:
        raise in_two_splits(settings.name, shelf, home, numpy.flatnonzero(strayed))
    repeated = first_alike(numpy.array(rows.contents, dtype=numpy.int64)) != numpy.arange(len(shelf))
    counts["two_splits"] += int(strayed.sum())
    counts["repeated"] += int((repeated & ~strayed).sum())

    ids = numpy.array(rows.ids, dtype=numpy.int64)
    ids[strayed] = 0
    owner = first_alike(ids)
    shared = (ids != 0) & (home != home[owner])
    if shared.any() and found.file:
        raise id_of_two(shelf, owner, numpy.flatnonzero(shared), len(numpy.unique(home[shared])))
    ids[shared] = 0
    kept = numpy.flatnonzero(~strayed & ~repeated)
    firsts = kept[home[kept] == kept]
    counts["ids_made"] += int(shared[firsts].sum())
    kept = kept[numpy.argsort(home[kept], kind="stable")]  # a document's rows stand together
    homes = home[kept]
    bounds = numpy.searchsorted(homes, firsts), numpy.searchsorted(homes, firsts, side="right")
    starts, ends = (numpy.zeros(len(shelf), dtype=numpy.int64) for _ in bounds)
    starts[firsts], ends[firsts] = bounds
    given = SortedNumbers(ids[ids != 0])

    def name(row: Row, number: int) -> str:
        if ids[number]:
            return row.id
        made = row.made_id
        while digest_of(made) in given:
            made += "-made"
        return made

    def examples(number: int) -> Iterator[Example]:
        together: dict[str, list[Row]] = {}
        for place in kept[starts[number] : ends[number]].tolist():
            row = shelf[place]
            together.setdefault(row.aspect, []).append(row)
        label = ""
        for aspect, (first, *others) in together.items():
            label = label or name(first, number)  # the first of all is the document's first row
            summaries = tuple(row.summary for row in others)
            yield Example(label, first.document, first.summary, aspect, first.sentences, summaries)

    documents = {split: array("q", firsts[splits[firsts] == code].tolist()) for code, split in enumerate(SPLITS)}
    if found.undivided:
        documents = deal(documents["train"], settings)
    chosen: dict[str, Sequence[Example]] = {}
    for split in SPLITS:
        wanted, there = getattr(settings, split), documents[split]
        if not there:
            raise UsageError(
                f"--task {settings.name}: the {split} split is empty; every split needs at least one document"
            )
        if wanted > len(there):
            raise UsageError(
                f"--task {settings.name}: task.{split} = {wanted}, but the {split} split has {len(there)} documents; "
                f"type --set task.{split}={len(there)}"
            )
        places: Sequence[int] = range(len(there))
        if wanted and wanted < len(there):
            places = sorted(random.Random(f"{settings.split_seed} {split}").sample(places, wanted))
        chosen[split] = DiskList(example for place in places for example in examples(there[place]))
        counts[split] = len(places)
    return chosen


def in_two_splits(name: str, shelf: DiskList[Row], home: Any, strayed: Any) -> UsageError:
    """The complaint about documents whose rows `strayed` into another split than that of their first row."""
    pairs = dict.fromkeys(int(home[number]) for number in strayed)
    where = {int(home[number]): int(number) for number in strayed[::-1]}
    said = [
        f"{shelf[where[first]].place} ({shelf[where[first]].split}) and {shelf[first].place} ({shelf[first].split})"
        for first in itertools.islice(pairs, NAMED)
    ]
    if len(pairs) == 1:
        return UsageError(f"--task {name}: one document stands in two splits: {said[0]}; remove one of them")
    few = f"the first {NAMED}: " if len(pairs) > NAMED else ""
    return UsageError(f"--task {name}: {len(pairs):,} documents stand in two splits; {few}{'; '.join(said)}; "
                      "remove one of each")  # fmt: skip


def id_of_two(shelf: DiskList[Row], owner: Any, shared: Any, documents: int) -> UsageError:
    """The complaint about rows whose id another document has, too."""
    row, first = shelf[int(shared[0])], shelf[int(owner[shared[0]])]
    more = f" ({documents:,} documents have another one's id)" if documents > 1 else ""
    return UsageError(
        f"{row.place}: the id {row.id!r} is that of another document at {first.place}{more}; give every document an id "
        "of its own, or type --set task.id_column= to have ids made"
    )


def deal(documents: "array[int]", settings: TaskSettings) -> "dict[str, array[int]]":
    """Splits for a file without a split column: shuffled by `split_seed`, then validation, test, the rest to train."""
    documents = documents[:]
    random.Random(f"{settings.split_seed} deal").shuffle(documents)
    if not settings.validation or not settings.test:
        raise UsageError(
            f"--task {settings.name}: without a split column task.validation and task.test must be at least 1; "
            "type --set task.validation=50 --set task.test=100"
        )
    cut, end = settings.validation, settings.validation + settings.test
    if end + max(1, settings.train) > len(documents):
        raise UsageError(
            f"--task {settings.name}: {len(documents)} documents are fewer than task.train + task.validation + "
            f"task.test = {max(1, settings.train)} + {cut} + {settings.test}; type --set task.train=0 for what is "
            "left, or lower the others"
        )
    return {"validation": documents[:cut], "test": documents[cut:end], "train": documents[end:]}
