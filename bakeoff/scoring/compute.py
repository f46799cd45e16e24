"""The values of metrics over what runs wrote: a value for each test document, in the order of the scores of ROUGE."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bakeoff.core.errors import UsageError, first_line
from bakeoff.metrics.rouge import Prediction
from bakeoff.scoring.api import Beside, whole
from bakeoff.scoring.registry import facts

Runs = Sequence[Sequence[Prediction]]
"""What each seed of a method wrote."""


def beside(metrics: Sequence[Any], written: Mapping[str, Runs], documents: Sequence[str]) -> Beside:
    """Every metric over every run, `written` by method. Raises UsageError where a metric fails or breaks its word."""
    values = {
        name: {metric.name: [column(metric, run, documents) for run in runs] for metric in metrics}
        for name, runs in written.items()
    }
    return Beside({metric.name: facts(metric, scored=bool(written)) for metric in metrics}, values)


def column(metric: Any, predictions: Sequence[Prediction], documents: Sequence[str]) -> list[float | None]:
    """One value a document: the mean over its summaries, None where none of them has a value."""
    found: dict[str, list[float]] = {}
    for one, value in zip(predictions, scored(metric, predictions), strict=True):
        found.setdefault(one.id, []).extend([] if value is None else [float(value)])
    return [mean(found.get(name, ())) for name in documents]


def scored(metric: Any, predictions: Sequence[Prediction]) -> list[float | None]:
    """One value a summary, checked. Raises UsageError."""
    try:
        if hasattr(metric, "of"):
            values = list(metric.of(predictions))
        else:
            values = list(metric.score(
                [one.summary for one in predictions],
                [list(one.references) for one in predictions],
                [one.document for one in predictions],
            ))  # fmt: skip
    except UsageError:
        raise
    except Exception as error:  # of a metric of one's own
        raise UsageError(f"metric {metric.name!r}: {type(error).__name__}: {first_line(error)}") from None
    if len(values) != len(predictions):
        raise UsageError(f"metric {metric.name!r} gave {len(values)} values for {len(predictions)} summaries")
    low, high = metric.range
    for one, value in zip(predictions, values, strict=True):
        if value is not None and not (whole(value) and low <= value <= high):
            raise UsageError(f"metric {metric.name!r} gave {value!r:.40} for document {one.id!r:.40}; expected "
                             f"a number from {low:g} to {high:g}, or None")  # fmt: skip
    return values


def mean(values: Iterable[float]) -> float | None:
    """Of some values; None of none."""
    known = list(values)
    return sum(known) / len(known) if known else None
