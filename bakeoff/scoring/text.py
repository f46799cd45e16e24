"""Metrics of a summary that need no model: chrF++, length, new, copied and repeated words, empty and cut summaries.

`Words` splits a text into the words that ROUGE compares, so every metric but chrF++ knows the scripts that ROUGE knows.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, Literal

from bakeoff.metrics.rouge import Prediction
from bakeoff.scoring.api import Better

Words = Callable[[str], Sequence[str]]
Column = list[float | None]


class Chrf:
    """chrF++ as sacrebleu computes it: character 1- to 6-grams, word 1- and 2-grams, beta 2 (Popović, WMT 2017).

    It needs no tokenizer and knows every script. Of several references the best counts, or with
    `scoring.references = "mean"` their mean.
    """

    name: ClassVar[str] = "chrf"
    label: ClassVar[str] = "chrF++"
    better: ClassVar[Better] = "higher"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __init__(self, references: Literal["best", "mean"]) -> None:
        self.several = references
        self.counts: set[int] = set()

    @cached_property
    def chrf(self) -> Any:
        """sacrebleu's metric."""
        from sacrebleu.metrics import CHRF

        return CHRF(word_order=2)

    @property
    def signature(self) -> str:
        """sacrebleu's own, and how several references count."""
        self.chrf.num_refs = next(iter(self.counts)) if len(self.counts) == 1 else -1
        return f"{self.chrf.get_signature()}|references:{self.several}"

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]], documents: object) -> Column:
        """chrF++ in 0..1."""
        self.counts |= {len(known) for known in references}
        return [self.one(text, known) / 100 for text, known in zip(predictions, references, strict=True)]

    def one(self, text: str, references: Sequence[str]) -> float:
        """chrF++ in 0..100 of one summary."""
        if self.several == "best":
            return float(self.chrf.sentence_score(text, list(references)).score)
        return sum(float(self.chrf.sentence_score(text, [one]).score) for one in references) / len(references)


class Counted:
    """A metric over words; `tokenizer` names how texts are split, with versions."""

    name: ClassVar[str]
    definition: ClassVar[str] = ""

    def __init__(self, words: Words, tokenizer: str) -> None:
        self.words, self.tokenizer = words, tokenizer

    @property
    def signature(self) -> str:
        """Definition and tokenizer."""
        return f"value:{self.definition}|tokenizer:{self.tokenizer}"

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], documents: Sequence[str]
    ) -> Column:
        """One value a summary."""
        return [
            self.value(self.words(text), known, document)
            for text, known, document in zip(predictions, references, documents, strict=True)
        ]

    def value(self, summary: Sequence[str], references: Sequence[str], document: str) -> float | None:
        """Of one summary, given as words."""
        raise NotImplementedError


class LengthRatio(Counted):
    """Words of the summary over words of its reference; of several references over their mean length."""

    name = "length_ratio"
    label: ClassVar[str] = "length / reference"
    better: ClassVar[Better] = ""
    range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    definition = "words/mean(reference words)"

    def value(self, summary: Sequence[str], references: Sequence[str], document: str) -> float | None:
        """None where no reference has a word."""
        length = sum(len(self.words(text)) for text in references) / len(references)
        return len(summary) / length if length else None


class NewBigrams(Counted):
    """Share of the summary's different bigrams that its document does not hold (See et al., ACL 2017)."""

    name = "new_bigrams"
    label: ClassVar[str] = "new bigrams, %"
    better: ClassVar[Better] = ""
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    definition = "different bigrams not in the document"

    def value(self, summary: Sequence[str], references: Sequence[str], document: str) -> float | None:
        """None for a summary of fewer than two words, or a document without any."""
        ours, theirs = set(pairwise(summary)), self.words(document)
        return len(ours - set(pairwise(theirs))) / len(ours) if ours and theirs else None


class Coverage(Counted):
    """Share of the summary's words that stand in fragments copied from its document (Grusky et al., NAACL 2018)."""

    name = "coverage"
    label: ClassVar[str] = "copied words, %"
    better: ClassVar[Better] = ""
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    definition = "sum(fragment)/words"

    def value(self, summary: Sequence[str], references: Sequence[str], document: str) -> float | None:
        """None for an empty summary or document."""
        words = self.words(document)
        return sum(fragments(summary, words)) / len(summary) if summary and words else None


class Density(Counted):
    """Mean length of the copied fragment that a word of the summary stands in, in words (Grusky et al., NAACL 2018)."""

    name = "density"
    label: ClassVar[str] = "copied at a stretch, words"
    better: ClassVar[Better] = ""
    range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    definition = "sum(fragment^2)/words"

    def value(self, summary: Sequence[str], references: Sequence[str], document: str) -> float | None:
        """None for an empty summary or document."""
        words = self.words(document)
        return sum(n * n for n in fragments(summary, words)) / len(summary) if summary and words else None


class RepeatedTrigrams(Counted):
    """Share of the summary's trigrams that have stood in it before (Paulus et al., ICLR 2018, forbid them)."""

    name = "repeated_trigrams"
    label: ClassVar[str] = "repeated trigrams, %"
    better: ClassVar[Better] = "lower"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    definition = "1-different trigrams/trigrams"

    def value(self, summary: Sequence[str], references: Sequence[str], document: str) -> float | None:
        """None for a summary of fewer than three words."""
        every = list(zip(summary, summary[1:], summary[2:], strict=False))
        return 1 - len(set(every)) / len(every) if every else None


class Empty(Counted):
    """Whether the summary holds no character but spaces."""

    name = "empty"
    label: ClassVar[str] = "empty summaries, %"
    better: ClassVar[Better] = "lower"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    binary: ClassVar[bool] = True
    definition = "no character but spaces"

    @property
    def signature(self) -> str:
        """Definition."""
        return f"value:{self.definition}"

    def score(self, predictions: Sequence[str], references: object, documents: object) -> Column:
        """1 for an empty summary, else 0."""
        return [float(not text.strip()) for text in predictions]


class Cut(Empty):
    """Whether `task.max_target_tokens` ended the summary before the model did."""

    name = "cut"
    label = "cut summaries, %"
    definition = "ended by task.max_target_tokens"

    def of(self, predictions: Sequence[Prediction]) -> Column:
        """1 for a cut summary, else 0; None where no model wrote it, or an earlier version stored it."""
        return [None if one.cut is None else float(one.cut) for one in predictions]


def fragments(summary: Sequence[str], document: Sequence[str]) -> list[int]:
    """Lengths of the extractive fragments, in the order of the summary.

    Greedy, as Grusky et al. (NAACL 2018, figure 3): from each word on the longest run that the document holds, too,
    then on behind it.
    """
    places: dict[str, list[int]] = {}
    for place, word in enumerate(document):
        places.setdefault(word, []).append(place)
    found, at = [], 0
    while at < len(summary):
        longest = max((run(summary, at, document, place) for place in places.get(summary[at], ())), default=0)
        if longest:
            found.append(longest)
        at += max(longest, 1)
    return found


def run(summary: Sequence[str], at: int, document: Sequence[str], place: int) -> int:
    """How many words from `at` and from `place` on are the same."""
    length = 0
    while at + length < len(summary) and place + length < len(document) and (
        summary[at + length] == document[place + length]
    ):  # fmt: skip
        length += 1
    return length


COUNTED = {kind.name: kind for kind in (LengthRatio, NewBigrams, Coverage, Density, RepeatedTrigrams, Empty, Cut)}
