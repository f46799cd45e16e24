"""ROUGE per document with rouge-score, and the signature that says how it was made."""

from functools import cache
from importlib.metadata import version
from typing import Any

from bakeoff.results import METRICS


@cache
def _scorer() -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(list(METRICS), use_stemmer=True)


def rouge(summary: str, reference: str) -> dict[str, float]:
    """F1 in 0..1 of ROUGE-1, ROUGE-2 and ROUGE-L, stemmer on; 0 for an empty summary."""
    return {metric: float(score.fmeasure) for metric, score in _scorer().score(reference, summary).items()}


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
