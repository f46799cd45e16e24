"""The values of metrics over what runs wrote: a value for each test document, in the order of the scores of ROUGE.

A folder of values that were computed before spares a report that is written again the seconds that metrics take. A
file is named after the texts that were scored, and may be deleted.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bakeoff.core.columns import numbers
from bakeoff.core.errors import UsageError, first_line
from bakeoff.core.files import replace
from bakeoff.metrics.rouge import Prediction
from bakeoff.scoring.api import Beside, whole
from bakeoff.scoring.registry import facts, identity

Runs = Iterable[Sequence[Prediction]]
"""What each seed of a method wrote. It is asked for once, and one run is held at a time."""


def beside(
    metrics: Sequence[Any], written: Mapping[str, Runs], documents: Sequence[str], folder: Path | None = None
) -> Beside:
    """Every metric over every run, `written` by method; `folder` keeps what was computed before.

    A metric that fails, or breaks its word, is left out with its reason: finished runs are not to be lost for it.
    """
    values: dict[str, dict[str, list[Sequence[float | None]]]] = {
        name: {metric.name: [] for metric in metrics} for name in written
    }
    signatures: dict[str, dict[str, None]] = {metric.name: {} for metric in metrics}
    failures: dict[str, str] = {}
    for name, runs in written.items():
        for run in runs:
            kept = Kept(run, folder)
            for metric in metrics:
                if metric.name in failures:
                    continue
                try:
                    values[name][metric.name].append(numbers(column(kept.of(metric), documents)))
                except UsageError as error:
                    failures[metric.name] = f"{error}; mend it and type the same command, which makes no run again"
                    continue
                signatures[metric.name][kept.signatures[metric.name]] = None
            kept.keep()
    known = {one.name: facts(one, "; ".join(signatures[one.name])) for one in metrics if one.name not in failures}
    for found in values.values():
        for metric in failures:
            del found[metric]
    return Beside(known, values, tuple(failures.values()))


class Kept:
    """The values of one run's summaries, by what decides them: the metric with its settings, and the texts."""

    def __init__(self, predictions: Sequence[Prediction], folder: Path | None) -> None:
        self.predictions = predictions
        texts = json.dumps([[one.summary, one.references, one.document, one.cut] for one in predictions])
        self.file = folder / f"{hashlib.sha256(texts.encode()).hexdigest()[:32]}.json" if folder else None
        self.values: dict[str, Any] = self.read()
        self.fresh = False
        self.signatures: dict[str, str] = {}

    def read(self) -> dict[str, Any]:
        """What the file holds; {} where there is none, or it is not what `keep` writes."""
        try:
            found = json.loads(self.file.read_bytes()) if self.file else {}
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def of(self, metric: Any) -> list[tuple[str, float | None]]:
        """The document's id and the value of each summary. Raises UsageError."""
        key = identity(metric)
        known: dict[str, Any] = self.values.get(key, {})
        if not self.fits(known, metric):
            known = {"values": scored(metric, self.predictions), "signature": str(metric.signature)}
            self.values[key], self.fresh = known, True
        self.signatures[metric.name] = known["signature"]
        return [(one.id, value) for one, value in zip(self.predictions, known["values"], strict=True)]

    def fits(self, known: Any, metric: Any) -> bool:
        """Whether values that were read are values of `metric`."""
        if not isinstance(known, dict) or not isinstance(known.get("signature"), str):
            return False
        values = known.get("values")
        return (
            isinstance(values, list)
            and len(values) == len(self.predictions)
            and all(value is None or inside(metric, value) for value in values)
        )

    def keep(self) -> None:
        """Writes what is new, if it can be written."""
        if self.fresh and self.file:
            with contextlib.suppress(OSError):
                self.file.parent.mkdir(parents=True, exist_ok=True)
                replace(self.file, json.dumps(self.values).encode())


def column(values: Iterable[tuple[str, float | None]], documents: Sequence[str]) -> list[float | None]:
    """One value a document: the mean over its summaries, None where none of them has a value."""
    found: dict[str, list[float]] = {}
    for name, value in values:
        found.setdefault(name, []).extend([] if value is None else [float(value)])
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
    for one, value in zip(predictions, values, strict=True):
        if value is not None and not inside(metric, value):
            low, high = metric.range
            raise UsageError(f"metric {metric.name!r} gave {value!r:.40} for document {one.id!r:.40}; expected "
                             f"a number from {low:g} to {high:g}, or None")  # fmt: skip
    return values


def inside(metric: Any, value: object) -> bool:
    """Whether `value` is a finite number in the range of `metric`."""
    low, high = metric.range
    return whole(value) and low <= value <= high


def mean(values: Iterable[float]) -> float | None:
    """Of some values; None of none."""
    known = list(values)
    return sum(known) / len(known) if known else None
