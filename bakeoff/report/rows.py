"""The figures of one method over its finished runs, computed once for all who show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bakeoff.methods.parameters import ParameterCounts
from bakeoff.metrics.rouge import METRICS, SCORED
from bakeoff.runs.records import RunResult
from bakeoff.scoring.api import Beside, Facts, Values
from bakeoff.stats.contrasts import SeedVariance, mean
from bakeoff.stats.intervals import Interval, spread, wilson
from bakeoff.stats.pairs import known

SECONDS = {
    "setup": "setup",
    "train": "training",
    "validation": "validation",
    "evaluate": "evaluation",
    "checks": "checks",
}
"""Names of the phases here and in results.json, and in a RunResult."""
MEMORY = ("allocated", "max_allocated", "reserved", "max_reserved", "resident", "max_resident")


@dataclass(frozen=True)
class Row:
    """The figures of one method or control over its finished runs; None where a figure was not measured."""

    name: str
    control: bool
    runs: tuple[RunResult, ...]
    """One a seed, at least one."""
    rouge: Mapping[str, Interval]
    """F1 in 0..1 by metric: mean over seeds and documents, 95 % interval over documents and, where known, seeds."""
    spread: Mapping[str, float | None]
    """Standard deviation of the seeds' means, F1 in 0..1, by metric."""
    seconds: Mapping[str, float | None]
    """A run's, mean over seeds: setup, train, validation, evaluate, checks, total."""
    tokens_per_second: float | None
    """Tokens passed forward in training in a second of training."""
    memory_bytes: Mapping[str, int | None]
    """By counter, the highest of the seeds; above the level before the model was loaded."""
    parameters: ParameterCounts | None
    """As `requires_grad` says; None for a control without a model."""
    adapter_bytes: int | None
    """Size of what the method saved, the highest of the seeds."""
    trials: int | None
    """How many settings were tried on validation; None where nobody recorded it."""
    borrowed: Mapping[str, SeedVariance]
    """By metric, with one seed: the variance between seeds that was measured elsewhere; empty where none was."""
    metrics: Mapping[str, Interval] = field(default_factory=dict)
    """As `rouge`, by metric beside it, in the metric's unit; without metrics of which no document has a value."""
    values: Mapping[str, Values] = field(default_factory=dict)
    """By metric beside ROUGE, seeds x documents."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the finished runs."""
        return tuple(int(run.spec["seed"]) for run in self.runs)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of the runs, in the order of the seeds."""
        return tuple(run.fingerprint for run in self.runs)

    @property
    def scores(self) -> dict[str, list[list[float]]]:
        """F1 in 0..1 by metric of ROUGE, seeds x documents."""
        return {metric: [run.scores[metric] for run in self.runs] for metric in scored(self.runs)}

    @property
    def every_score(self) -> dict[str, Values]:
        """By metric, those beside ROUGE, too, seeds x documents; None where a document has no value."""
        return {**self.scores, **self.values}

    def interval(self, metric: str) -> Interval | None:
        """The mean of any metric with its interval; None where nothing gives one."""
        return self.rouge.get(metric) or self.metrics.get(metric)

    @property
    def truncated(self) -> dict[str, int]:
        """Documents and summaries that were cut to the task's limits, the highest of the seeds."""
        names = sorted({name for run in self.runs for name in run.truncated})
        return {name: max(run.truncated.get(name, 0) for run in self.runs) for name in names}

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The recipe of the training and the method's own settings, which are the same for all seeds."""
        spec = self.runs[0].spec
        return {**spec["training"], **spec["hyperparameters"]}

    @property
    def forgetting(self) -> dict[str, float]:
        """before, after, divergence: nats per token, mean over the seeds; empty where it was not measured."""
        return means([run.forgetting for run in self.runs])

    @property
    def inference(self) -> dict[str, dict[str, float]]:
        """attached, merged: seconds a summary and bytes of the weights, mean over the seeds; without what was not
        measured."""
        found = {form: means([run.inference.get(form, {}) for run in self.runs]) for form in ("attached", "merged")}
        return {form: figures for form, figures in found.items() if figures}

    @property
    def epochs(self) -> int | None:
        """Epochs trained; None without a curve."""
        seen = [int(point["epoch"]) for run in self.runs for point in run.epochs]
        return max(seen) if seen else None


def row_of(
    name: str,
    runs: Sequence[RunResult],
    trials: int | None = None,
    elsewhere: Mapping[str, SeedVariance] | None = None,
    beside: Beside | None = None,
) -> Row:
    """The figures of one method's runs. Raises ValueError, naming it, where its scores are not finite numbers."""
    control = bool(runs[0].spec["control"])
    scores = {metric: [run.scores[metric] for run in runs] for metric in scored(runs)}
    borrowed = dict(elsewhere or {}) if len(runs) == 1 and not control else {}
    try:
        rouge = {metric: mean(rows, spread=borrowed.get(metric), fixed=control) for metric, rows in scores.items()}
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    counts = runs[0].parameters
    return Row(
        name=name,
        control=control,
        runs=tuple(runs),
        rouge=rouge,
        spread={metric: spread(rows) for metric, rows in scores.items()},
        seconds=seconds(runs, control),
        tokens_per_second=tokens_per_second(runs),
        memory_bytes={counter: highest([run.memory_bytes.get(counter) for run in runs]) for counter in MEMORY},
        parameters=ParameterCounts(**counts["requires_grad"]) if counts else None,
        adapter_bytes=highest([run.adapter_bytes for run in runs]),
        trials=trials,
        borrowed=borrowed,
        **others(name, beside or Beside(), control, borrowed),
    )


def others(name: str, beside: Beside, fixed: bool, borrowed: Mapping[str, SeedVariance]) -> dict[str, Any]:
    """`metrics` and `values` of a row: what was measured of it beside ROUGE."""
    values = beside.values.get(name, {})
    shared = {metric: known(rows)[0] for metric, rows in values.items()}
    return {
        "values": values,
        "metrics": {
            metric: summed(rows, beside.facts[metric], fixed, borrowed.get(metric))
            for metric, rows in shared.items()
            if rows and rows[0]
        },
    }


def summed(rows: Sequence[Sequence[float]], facts: Facts, fixed: bool, spread: SeedVariance | None) -> Interval:
    """The mean of seeds x documents; of a rate with Wilson's interval, a document counting once whatever the seeds."""
    found = mean(rows, spread=spread, fixed=fixed)
    return wilson(min(1.0, max(0.0, found.mean)), len(rows[0])) if facts.binary else found


def scored(runs: Sequence[RunResult]) -> tuple[str, ...]:
    """The metrics that every run has scores of: those of METRICS, and what is shown beside them."""
    return METRICS + tuple(m for m in SCORED if m not in METRICS and all(m in run.scores for run in runs))


def seconds(runs: Sequence[RunResult], control: bool) -> dict[str, float | None]:
    """Mean over the runs by phase and in total. A phase that a run did not book is None, and so is then the total."""
    found: dict[str, float | None] = {}
    for name, phase in SECONDS.items():
        booked = [run.seconds[phase] for run in runs if phase in run.seconds]
        found[name] = sum(booked) / len(booked) if len(booked) == len(runs) else None
    parts = [value for value in found.values() if value is not None]
    total = sum(parts) if len(parts) == len(found) else None
    if control:  # its clock shows 0 s for what it never does
        found["train"] = found["validation"] = None
    return {**found, "total": total}


def tokens_per_second(runs: Sequence[RunResult]) -> float | None:
    """Training tokens of all runs over their training seconds; None where either is missing or 0."""
    tokens = sum(run.tokens.get("training", 0) for run in runs)
    spent = sum(run.seconds.get("training", 0.0) for run in runs)
    return tokens / spent if tokens and spent > 0 else None


def means(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure that all have."""
    shared = [name for name in figures[0] if all(name in one for one in figures)]
    return {name: sum(one[name] for one in figures) / len(figures) for name in shared}


def highest(values: Sequence[int | None]) -> int | None:
    """The highest of the measured values; None where none was measured."""
    measured = [value for value in values if value is not None]
    return max(measured) if measured else None
