"""What a bake-off amounts to: one row of figures a method, computed once for all who show them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from bakeoff.config.schema import Settings
from bakeoff.methods.parameters import ParameterCounts
from bakeoff.metrics.rouge import METRICS, SCORED
from bakeoff.report.published import Published
from bakeoff.runs.records import Death, RunResult
from bakeoff.stats.contrasts import SeedVariance, mean
from bakeoff.stats.intervals import Interval, spread
from bakeoff.stats.pairs import Pair, Side, alike, family

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
        """F1 in 0..1 by metric, seeds x documents."""
        return {metric: [list(run.scores[metric]) for run in self.runs] for metric in scored(self.runs)}

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


@dataclass(frozen=True)
class Comparison:
    """A bake-off's rows in the order in which they are shown, on the same documents."""

    settings: Settings
    methods: tuple[Row, ...]
    """Those that train."""
    controls: tuple[Row, ...]
    """Those that don't."""
    deaths: tuple[Death, ...]
    """Runs that did not finish."""
    document_ids: tuple[str, ...]
    """Of the test documents, in the order of the scores; empty where no run finished."""
    signature: str
    """How the scores were made; empty where no run finished."""
    pairs: tuple[Pair, ...] = ()
    """Every two methods on every metric, in the order of the methods."""
    control_pairs: tuple[Pair, ...] = ()
    """Every method against every control on every metric, a family of its own."""
    published: tuple[Published, ...] = ()
    """What others published of this preset."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """Methods, then controls."""
        return self.methods + self.controls

    @property
    def data(self) -> dict[str, int]:
        """What became of the rows of the documents' source; empty where no run finished."""
        return dict(self.rows[0].runs[0].data) if self.rows else {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the scores must know, each once."""
        return tuple(dict.fromkeys(note for row in self.rows for run in row.runs for note in run.notes))

    @property
    def dead(self) -> tuple[str, ...]:
        """Names of which no run finished."""
        alive = {row.name for row in self.rows}
        return tuple(dict.fromkeys(death.method for death in self.deaths if death.method not in alive))

    def highest(self, metric: str) -> tuple[str, ...]:
        """Names of the trained methods with the highest mean, all of them where their means print the same."""
        return extreme({row.name: row.rouge[metric].mean for row in self.methods}, points)

    def alike(self, metric: str) -> list[tuple[str, ...]] | None:
        """Groups of methods that can't be told apart, the one with the highest mean first. None: not tested."""
        order = sorted(self.methods, key=lambda row: -row.rouge[metric].mean)
        return alike([row.name for row in order], self.pairs, metric)

    def best(self, metric: str) -> tuple[str, ...]:
        """Names of the methods that can't be told from that with the highest mean; empty where that was not tested."""
        columns = self.alike(metric) or []
        together = {name for column in columns if columns[0][0] in column for name in column}
        return tuple(row.name for row in self.methods if row.name in together)

    def environment(self) -> dict[str, str]:
        """Machine, versions and notes; runs that differ are named one after another."""
        found: dict[str, dict[str, None]] = {}
        for run in (run for row in self.rows for run in row.runs):
            for key, value in {**run.environment, **run.spec["machine"]}.items():
                if value not in ("", None):
                    found.setdefault(key, {})[str(value)] = None
        return {key: "; ".join(values) for key, values in found.items()}


def compare(
    settings: Settings,
    results: Mapping[str, Sequence[RunResult]],
    deaths: Sequence[Death] = (),
    trials: Mapping[str, int] | None = None,
    spreads: Mapping[str, Mapping[str, SeedVariance]] | None = None,
    published: Sequence[Published] = (),
) -> Comparison:
    """The comparison of `results`, one RunResult a seed by method name, in the order to be shown.

    `spreads` holds by method and metric the variance between seeds measured elsewhere, for methods with one seed.
    Raises ValueError, naming the method, where runs have other documents, another signature, or no scores.
    """
    for name, runs in results.items():
        if not runs:
            raise ValueError(f"{name}: no runs to compare")
    every = [(name, run) for name, runs in results.items() for run in runs]
    ids = every[0][1].document_ids if every else []
    signature = every[0][1].signature if every else ""
    for name, run in every:
        if run.document_ids != ids:
            raise ValueError(f"{name}: its documents are not those of {every[0][0]}, in the same order")
        if run.signature != signature:
            raise ValueError(
                f"{name}: its scores were made as {run.signature!r}, those of {every[0][0]} as {signature!r}"
            )
        for metric in METRICS:
            if len(run.scores.get(metric, ())) != len(ids):
                raise ValueError(f"{name}: {metric} must have one score for each of its {len(ids)} documents")
    rows = [row(name, runs, (trials or {}).get(name), (spreads or {}).get(name)) for name, runs in results.items()]
    methods, controls = [row for row in rows if not row.control], [row for row in rows if row.control]
    sides = {row.name: Side(row.name, row.scores, row.control, row.borrowed) for row in rows}
    return Comparison(
        settings=settings,
        methods=tuple(methods),
        controls=tuple(controls),
        deaths=tuple(deaths),
        document_ids=tuple(ids),
        signature=signature,
        pairs=family(combinations([sides[row.name] for row in methods], 2), METRICS),
        control_pairs=family(((sides[m.name], sides[c.name]) for m in methods for c in controls), METRICS),
        published=tuple(published),
    )


def row(
    name: str,
    runs: Sequence[RunResult],
    trials: int | None = None,
    elsewhere: Mapping[str, SeedVariance] | None = None,
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
    )


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


def points(f1: float) -> str:
    """F1 in 0..1 as it is printed: x 100, two decimals."""
    return f"{round(100 * f1, 2) + 0.0:.2f}"  # + 0.0: never "-0.00"


def extreme(
    figures: Mapping[str, float | None], show: Callable[[float], str] = str, *, lowest: bool = False
) -> tuple[str, ...]:
    """Names of the highest (or lowest) measured figure: all whose figure prints the same under `show`."""
    measured = {name: value for name, value in figures.items() if value is not None}
    if not measured:
        return ()
    best = show(min(measured.values()) if lowest else max(measured.values()))
    return tuple(name for name, value in measured.items() if show(value) == best)
