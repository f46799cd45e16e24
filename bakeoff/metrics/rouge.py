"""ROUGE per document, to the bit what rouge-score says, and the signature that says how it was made."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.metadata import version
from itertools import pairwise
from typing import Any

from bakeoff.config.schema import ScoringSettings
from bakeoff.core import writing

METRICS = ("rouge1", "rouge2", "rougeL")
"""What verdicts, baselines and the gate judge."""
SCORED = (*METRICS, "rougeLsum")
"""What is computed and shown."""
FALLEN = 0.02
"""Share of the references' letters above which their loss is said. A letter that falls away cuts its word in two: at
five letters a word it is one word in ten. English stays below 0.1 %, German lies at it, French and Polish above."""
UNSAID = {"tokenizer": "rouge-score", "references": "best"}
"""What signatures of earlier versions leave out."""


@cache
def _tokens() -> Callable[[str], list[str]]:
    """rouge-score's tokenizer, whose stemmer remembers: a text of 100 words holds few that no other text has."""
    from rouge_score import tokenizers

    tokenizer = tokenizers.DefaultTokenizer(use_stemmer=True)
    tokenizer._stemmer.stem = lru_cache(maxsize=2**17)(tokenizer._stemmer.stem)
    found: Callable[[str], list[str]] = tokenizer.tokenize
    return found


@dataclass(frozen=True)
class Prediction:
    """One summary that a run wrote, beside its references."""

    id: str
    """Of the document; a document with several aspects has a summary for each."""
    document: str
    reference: str
    """The first reference."""
    summary: str
    references: tuple[str, ...] = ()
    """All references; empty stands for the one above."""
    aspect: str = ""
    """What the summary is about, where the task has several."""
    cut: bool | None = None
    """Whether `task.max_target_tokens` ended it; None where no model wrote it, or an earlier version stored it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "references", tuple(self.references) or (self.reference,))


@dataclass(frozen=True)
class Scorer:
    """ROUGE as the settings want it."""

    settings: ScoringSettings = field(default_factory=ScoringSettings)

    def tokens(self, text: str) -> list[str]:
        """The words that are compared."""
        return writing.words(text) if self.settings.tokenizer == "unicode" else _tokens()(text)

    def rouge(self, summary: str, references: Sequence[str], metrics: Sequence[str] = SCORED) -> dict[str, float]:
        """F1 in 0..1 by metric: the best of the references, metric by metric, or their mean; 0 for an empty summary."""
        ours = [self.tokens(line) for line in lines(summary)]
        rows = [f1_scores(ours, [self.tokens(line) for line in lines(text)], metrics) for text in references]
        if self.settings.references == "best":
            return {metric: max(row[metric] for row in rows) for metric in metrics}
        return {metric: sum(row[metric] for row in rows) / len(rows) for metric in metrics}

    def score(self, predictions: Iterable[Prediction]) -> tuple[list[str], dict[str, list[float]]]:
        """Ids of the documents, each once, in order, and F1 by metric, one a document: the mean over its summaries."""
        found: dict[str, list[dict[str, float]]] = {}
        for one in predictions:
            found.setdefault(one.id, []).append(self.rouge(one.summary, one.references))
        return list(found), {
            metric: [sum(row[metric] for row in rows) / len(rows) for rows in found.values()] for metric in SCORED
        }

    def coverage(self, documents: Iterable[tuple[str, Sequence[str]]]) -> "Coverage":
        """What the tokenizer leaves of references, from pairs of a document's id and its references."""
        tokens: dict[str, bool] = {}
        letters = fallen = 0
        for name, references in documents:
            for text in references:
                tokens[name] = tokens.get(name, False) or bool(self.tokens(text))
                count = writing.letters(text)
                letters += count
                if self.settings.tokenizer == "rouge-score":
                    fallen += count - sum("a" <= character.lower()[0] <= "z" for character in text)
        empty = [name for name, some in tokens.items() if not some]
        return Coverage(self.settings.tokenizer, len(tokens), tuple(empty), letters, fallen)

    def signature(self) -> str:
        """Everything that a score depends on beside the texts: scorer, tokenizer, stemmer and their versions."""
        stemmed = self.settings.tokenizer == "rouge-score"
        parts = {
            "rouge-score": version("rouge-score"),
            **({"nltk": version("nltk")} if stemmed else {"unicode": unicodedata.unidata_version}),
            "metrics": ",".join(SCORED),
            "value": "f1",
            "stemmer": "yes" if stemmed else "no",
            "average": "documents",
            "tokenizer": self.settings.tokenizer,
            "references": self.settings.references,
        }
        return "|".join(f"{key}:{value}" for key, value in parts.items())


@dataclass(frozen=True)
class Coverage:
    """What a tokenizer leaves of the references of test documents."""

    tokenizer: str
    documents: int
    empty: tuple[str, ...]
    """Ids of documents whose references hold no token: whatever is written, they score 0."""
    letters: int
    """Letters of all references, in Unicode's sense."""
    fallen: int
    """Of them those that are in no token."""

    @property
    def refusal(self) -> str:
        """Why nothing can be scored, in one line with what to type; empty where something can."""
        if not self.documents or len(self.empty) < self.documents:
            return ""
        return f"no reference holds a token under {self._setting()}: every score would be 0; {self._remedy()}"

    @property
    def note(self) -> str:
        """What is lost, in one line with what to type; empty where it is not worth a word."""
        said = []
        if self.fallen > FALLEN * self.letters:
            share = 100 * self.fallen / self.letters
            said.append(f"{share:.3g} % of the letters of the references fall away under {self._setting()}")
        if self.empty:
            said.append(
                f"{len(self.empty):,} of {self.documents:,} documents have references without a token"
                f"{'' if said else f' under {self._setting()}'} and score 0 whatever is written (first: "
                f"{self.empty[0]})"
            )
        return f"{', and '.join(said)}; {self._remedy()}" if said else ""

    def _setting(self) -> str:
        known = ", which knows a to z and 0 to 9" if self.tokenizer == "rouge-score" else ""
        return f"scoring.tokenizer = {self.tokenizer!r}{known}"

    def _remedy(self) -> str:
        if self.tokenizer == "rouge-score":
            return "type --set scoring.tokenizer=unicode"
        return "give references with letters or digits"


def lines(text: str) -> list[str]:
    """The lines of a text that are not empty: what ROUGE-Lsum takes for its sentences."""
    return [line for line in text.split("\n") if line]


def f1_scores(ours: list[list[str]], theirs: list[list[str]], metrics: Sequence[str]) -> dict[str, float]:
    """F1 by metric of a summary against one reference, both as lines of tokens."""
    a, b = ([token for line in lines for token in line] for lines in (ours, theirs))
    found = {}
    for metric in metrics:
        if metric == "rouge2":
            found[metric] = f1(shared(list(pairwise(a)), list(pairwise(b))), max(len(a) - 1, 0), max(len(b) - 1, 0))
        elif metric == "rouge1":
            found[metric] = f1(shared(a, b), len(a), len(b))
        elif metric == "rougeL" or (len(ours) < 2 and len(theirs) < 2):
            found[metric] = f1(longest_common(a, b), len(a), len(b))
        else:
            found[metric] = f1(summary_level(ours, theirs), len(a), len(b))
    return found


def f1(common: int, ours: int, theirs: int) -> float:
    """Harmonic mean of common / ours and common / theirs, rounded as rouge-score rounds it; 0 where nothing is."""
    precision, recall = common / max(ours, 1), common / max(theirs, 1)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def shared(ours: list[Any], theirs: list[Any]) -> int:
    """Size of the intersection of two multisets."""
    return (Counter(ours) & Counter(theirs)).total()


def longest_common(ours: list[str], theirs: list[str]) -> int:
    """Length of the longest common subsequence."""
    rows = common_rows(ours, theirs)
    return len(ours) - rows[-1].bit_count()


def common_rows(ours: list[str], theirs: list[str]) -> list[int]:
    """The table of the longest common subsequence, a row for each token of `theirs`, in the bits of integers.

    Hyyrö 2004, "Bit-parallel LCS-length computation revisited": a bit of a row is 0 where the table's row steps up, so
    table[i][j] is the number of zeros among the j lowest bits of rows[i].
    """
    indices: dict[str, int] = {}
    for index, token in enumerate(ours):
        indices[token] = indices.get(token, 0) | 1 << index
    everywhere = (1 << len(ours)) - 1
    rows = [everywhere]
    for token in theirs:
        match = rows[-1] & indices.get(token, 0)
        rows.append((rows[-1] + match | rows[-1] - match) & everywhere)
    return rows


def summary_level(ours: list[list[str]], theirs: list[list[str]]) -> int:
    """Common tokens of ROUGE-Lsum: of each line of the reference the union of its longest common subsequences with
    every line of the summary, no token counted more often than it stands in either text (as ROUGE 1.5.5 does)."""
    left = [Counter(token for line in text for token in line) for text in (ours, theirs)]
    hits = 0
    for line in theirs:
        for index in sorted(set().union(*(common_places(other, line) for other in ours))):
            token = line[index]
            if left[0][token] > 0 and left[1][token] > 0:
                hits += 1
                left[0][token] -= 1
                left[1][token] -= 1
    return hits


def common_places(ours: list[str], theirs: list[str]) -> list[int]:
    """Places in `theirs` of one longest common subsequence: of several the one that rouge-score finds."""
    rows = common_rows(ours, theirs)

    def table(i: int, j: int) -> int:
        return j - (rows[i] & ((1 << j) - 1)).bit_count()

    found = []
    i, j = len(theirs), len(ours)
    while i and j:
        if theirs[i - 1] == ours[j - 1]:
            i, j = i - 1, j - 1
            found.append(i)
        elif table(i, j - 1) > table(i - 1, j):
            j -= 1
        else:
            i -= 1
    return found


def rouge(summary: str, reference: str) -> dict[str, float]:
    """F1 in 0..1 by metric against one reference, as the default settings want it."""
    return Scorer().rouge(summary, (reference,))


def same_scores(one: str, other: str) -> bool:
    """Whether scores with these two signatures can be compared: all alike but the list of the metrics.

    A signature of an earlier version, which doesn't say its tokenizer, means the one that there was.
    """
    return comparable(one) == comparable(other)


def comparable(signature: str) -> dict[str, str]:
    """What a signature says, by name, without the metrics that were computed."""
    said = dict(part.partition(":")[::2] for part in signature.split("|"))
    return {key: value for key, value in {**UNSAID, **said}.items() if key != "metrics"}
