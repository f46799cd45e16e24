"""What a bake-off amounts to: one row of figures a method, computed once for all who show them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

from bakeoff.config.schema import Settings
from bakeoff.metrics.rouge import METRICS
from bakeoff.report.published import Published
from bakeoff.report.rows import MEMORY, SECONDS, Row, row_of
from bakeoff.runs.records import Death, RunResult
from bakeoff.scoring.api import ROUGE, Beside, Facts
from bakeoff.stats.contrasts import SeedVariance
from bakeoff.stats.pairs import Pair, Side, alike, family

__all__ = ["MANY", "MEMORY", "SECONDS", "Comparison", "Row", "compare", "extreme", "points"]

MANY = 8
"""Methods above which a report is arranged otherwise, and metrics without verdicts are not compared pair by pair."""


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
    beside: Mapping[str, Facts] = field(default_factory=dict)
    """The metrics beside ROUGE, in the order in which they are shown."""
    failures: tuple[str, ...] = ()
    """Why a metric beside ROUGE is missing, a line each."""
    verdicts: tuple[str, ...] = METRICS
    """Metrics that carry verdicts, which are those that every method has."""
    other_pairs: tuple[Pair, ...] = ()
    """Every two methods on every metric that carries no verdict; of more than MANY those with the best mean."""

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
        notes = (note for row in self.rows for run in row.runs for note in run.notes)
        return tuple(dict.fromkeys((*notes, *self.failures)))

    @property
    def dead(self) -> tuple[str, ...]:
        """Names of which no run finished."""
        alive = {row.name for row in self.rows}
        return tuple(dict.fromkeys(death.method for death in self.deaths if death.method not in alive))

    @property
    def main(self) -> str:
        """The metric that methods are ordered by where one must be chosen."""
        return main_of(self.verdicts)

    def facts(self, metric: str) -> Facts:
        """What is known of any metric."""
        return ROUGE[metric] if metric in ROUGE else self.beside[metric]

    def label(self, metric: str) -> str:
        """What a metric is called."""
        return self.facts(metric).label

    def mean(self, metric: str, row: Row) -> float:
        """Of a metric that carries verdicts."""
        found = row.interval(metric)
        assert found is not None
        return found.mean

    @property
    def ordered(self) -> tuple[Row, ...]:
        """The trained methods as they were asked for; more than MANY by their means, the best first."""
        if len(self.methods) <= MANY:
            return tuple(self.methods)
        return tuple(sorted(self.methods, key=lambda row: self.mean(self.main, row), reverse=not self.falls(self.main)))

    def falls(self, metric: str) -> bool:
        """Whether the lower value of a metric is the better one."""
        return self.facts(metric).better == "lower"

    def highest(self, metric: str) -> tuple[str, ...]:
        """Names of the trained methods with the best mean, all of them where their means print the same."""
        means = {row.name: self.mean(metric, row) for row in self.methods}
        return extreme(means, self.facts(metric).show, lowest=self.falls(metric))

    def alike(self, metric: str) -> list[tuple[str, ...]] | None:
        """Groups of methods that can't be told apart, the one with the best mean first. None: not tested."""
        return self._alike.get(metric)

    @cached_property
    def _alike(self) -> dict[str, list[tuple[str, ...]] | None]:
        """`alike` by metric that carries verdicts."""
        found = {}
        for metric in self.verdicts if self.pairs else ():
            order = sorted(self.methods, key=lambda row: self.mean(metric, row) * (1 if self.falls(metric) else -1))
            found[metric] = alike([row.name for row in order], self.pairs, metric)
        return found

    def better(self, pair: Pair) -> str:
        """The better of the two where they can be told apart, else empty."""
        if not pair.different or not self.falls(pair.metric):
            return pair.higher
        return pair.first if pair.higher == pair.second else pair.second

    def best(self, metric: str) -> tuple[str, ...]:
        """Names of the methods that can't be told from that with the best mean; empty where that was not tested."""
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
    beside: Beside | None = None,
) -> Comparison:
    """The comparison of `results`, one RunResult a seed by method name, in the order to be shown.

    `spreads` holds by method and metric the variance between seeds measured elsewhere, for methods with one seed;
    `beside` the metrics beside ROUGE.
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
    extra = beside or Beside()
    rows = [
        row_of(name, runs, (trials or {}).get(name), (spreads or {}).get(name), extra) for name, runs in results.items()
    ]
    methods, controls = [row for row in rows if not row.control], [row for row in rows if row.control]
    sides = {row.name: Side(row.name, row.every_score, row.control, row.borrowed) for row in rows}
    known = {*METRICS, *extra.facts}  # a metric that failed is in neither
    verdicts = tuple(
        name for name in settings.scoring.verdicts if name in known and all(row.interval(name) for row in methods)
    )
    others = [name for name in (*METRICS, *extra.facts) if name not in verdicts]
    couples = list(combinations([sides[row.name] for row in methods], 2))
    return Comparison(
        settings=settings,
        methods=tuple(methods),
        controls=tuple(controls),
        deaths=tuple(deaths),
        document_ids=tuple(ids),
        signature=signature,
        pairs=family(couples, verdicts),
        control_pairs=family(((sides[m.name], sides[c.name]) for m in methods for c in controls), verdicts),
        published=tuple(published),
        beside=extra.facts,
        failures=extra.failures,
        verdicts=verdicts or METRICS,
        other_pairs=family(few(couples, methods, main_of(verdicts or METRICS)), others),
    )


def main_of(verdicts: Sequence[str]) -> str:
    """ROUGE-L where it carries verdicts, else the first metric that does."""
    return "rougeL" if "rougeL" in verdicts else verdicts[0]


def few(couples: list[tuple[Side, Side]], methods: Sequence[Row], metric: str) -> list[tuple[Side, Side]]:
    """All couples; of more than MANY methods those with one of the best mean."""
    if len(methods) <= MANY:
        return couples
    means = {row.name: found.mean for row in methods if (found := row.interval(metric))}
    best = max(means, key=lambda name: means[name])
    return [couple for couple in couples if best in (couple[0].name, couple[1].name)]


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
