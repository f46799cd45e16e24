"""ROUGE per document, to the bit what rouge-score says, and the signature that says how it was made."""

from collections import Counter
from functools import cache, lru_cache
from importlib.metadata import version
from itertools import pairwise
from typing import Any

from bakeoff.results import METRICS


@cache
def _tokens() -> Any:
    """rouge-score's tokenizer, whose stemmer remembers: a text of 100 words holds few that no other text has."""
    from rouge_score import tokenizers

    tokenizer = tokenizers.DefaultTokenizer(use_stemmer=True)
    tokenizer._stemmer.stem = lru_cache(maxsize=2**17)(tokenizer._stemmer.stem)
    return tokenizer.tokenize


def rouge(summary: str, reference: str) -> dict[str, float]:
    """F1 in 0..1 of ROUGE-1, ROUGE-2 and ROUGE-L, stemmer on; 0 for an empty summary."""
    ours, theirs = _tokens()(summary), _tokens()(reference)
    return {
        "rouge1": f1(shared(ours, theirs), len(ours), len(theirs)),
        "rouge2": f1(
            shared(list(pairwise(ours)), list(pairwise(theirs))),
            max(len(ours) - 1, 0),
            max(len(theirs) - 1, 0),
        ),
        "rougeL": f1(longest_common(ours, theirs), len(ours), len(theirs)),
    }


def f1(common: int, ours: int, theirs: int) -> float:
    """Harmonic mean of common / ours and common / theirs, rounded as rouge-score rounds it; 0 where nothing is."""
    precision, recall = common / max(ours, 1), common / max(theirs, 1)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def shared(ours: list[Any], theirs: list[Any]) -> int:
    """Size of the intersection of two multisets."""
    return (Counter(ours) & Counter(theirs)).total()


def longest_common(ours: list[str], theirs: list[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time in the bits of one integer.

    Hyyrö 2004, "Bit-parallel LCS-length computation revisited": a bit of `row` is 0 where the table's row steps up.
    """
    places: dict[str, int] = {}
    for place, token in enumerate(ours):
        places[token] = places.get(token, 0) | 1 << place
    everywhere = (1 << len(ours)) - 1
    row = everywhere
    for token in theirs:
        match = row & places.get(token, 0)
        row = (row + match | row - match) & everywhere
    return len(ours) - row.bit_count()


def score(summaries: list[str], references: list[str]) -> dict[str, list[float]]:
    """F1 by metric, one for each document in order. Raises ValueError when the lists differ in length."""
    rows = [rouge(summary, reference) for summary, reference in zip(summaries, references, strict=True)]
    return {metric: [row[metric] for row in rows] for metric in METRICS}


def signature() -> str:
    """Everything that a score depends on beside the texts: scorer, stemmer and their versions."""
    parts = {
        "rouge-score": version("rouge-score"),
        "nltk": version("nltk"),
        "metrics": ",".join(METRICS),
        "value": "f1",
        "stemmer": "yes",
        "average": "documents",
    }
    return "|".join(f"{key}:{value}" for key, value in parts.items())
