"""Tables and sentences on rows of runs: ROUGE over documents and seeds, validation losses over seeds."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from bakeoff.report.comparison import Comparison, Row
from bakeoff.report.escape import markdown
from bakeoff.report.figures import MISSING, ROUGE, bounds, listing, nats, p_value, points
from bakeoff.runs.records import RunResult
from bakeoff.stats.intervals import groups, holm, letters
from bakeoff.stats.pairs import ALPHA

ROUNDING = 1e-6
"""Nats by which losses may differ from rounding alone."""

Ps = Mapping[tuple[str, str], float]
"""Corrected p by two rows, in either order but once."""


@dataclass(frozen=True)
class Verdict:
    """Rows on one figure, tested pair by pair."""

    label: str
    """Of the figure."""
    means: Mapping[str, float]
    ps: Ps
    """Empty where nothing was tested."""
    higher: bool = True
    """Whether a high figure is a good one."""

    @property
    def order(self) -> list[str]:
        """The rows, best first."""
        return sorted(self.means, key=lambda name: -self.means[name] if self.higher else self.means[name])

    @property
    def different(self) -> list[tuple[str, str]]:
        """Pairs that can be told apart."""
        return [pair for pair, p in self.ps.items() if p < ALPHA]

    @property
    def letters(self) -> dict[str, str]:
        """Two rows share a letter if they can't be told apart; empty where nothing was tested."""
        return letters(groups(self.order, self.different)) if self.ps else {}

    def sentences(self) -> list[str]:
        """Who is better than whom, with the corrected p, and who can't be told apart."""
        if not self.ps:
            return []
        if not self.different:
            pair = min(self.ps, key=lambda one: self.ps[one])
            first, second = map(markdown, pair)
            if len(self.means) == 2:
                return [f"{self.label}: {first} and {second} cannot be told apart (p {p_value(self.ps[pair])})."]
            lowest = f"{first} against {second}, p {p_value(self.ps[pair])}"
            return [
                f"{self.label}: no two of the {len(self.means)} rows can be told apart (lowest corrected p: {lowest})."
            ]
        return [*(f"{self.label}: {self.above(name)}." for name in self.order if self.better(name)), self.alike()]

    def better(self, name: str) -> list[str]:
        """The rows that are better than `name`, best first."""
        apart = {frozenset(pair) for pair in self.different}
        return [other for other in self.order[: self.order.index(name)] if frozenset((other, name)) in apart]

    def above(self, name: str) -> str:
        """`lora (p 0.001) and full (p 0.020) are above rank-1`."""
        found = self.better(name)
        who = [f"{markdown(other)} (p {p_value(self.p(other, name))})" for other in found]
        word = "above" if self.higher else "below"
        return f"{listing(who)} {'is' if len(found) == 1 else 'are'} {word} {markdown(name)}"

    def p(self, first: str, second: str) -> float:
        """The corrected p of a pair."""
        return self.ps[(first, second)] if (first, second) in self.ps else self.ps[(second, first)]

    def alike(self) -> str:
        """The groups of rows that can't be told apart."""
        found = [group for group in groups(self.order, self.different) if len(group) > 1]
        if not found:
            return f"{self.label}: every two rows can be told apart."
        sets = "; ".join(listing([markdown(name) for name in group]) for group in found)
        one = "these cannot be told apart"
        several = "within each of these groups, no two can be told apart"
        return f"{self.label}: {one if len(found) == 1 else several}: {sets}."


def rouge(comparison: Comparison, metric: str) -> Verdict:
    """The trained rows on a metric of ROUGE; the noise of documents and of seeds is covered."""
    pairs = [pair for pair in comparison.pairs if pair.metric == metric]
    ps = {(pair.first, pair.second): pair.p for pair in pairs} if all(pair.tested for pair in pairs) else {}
    means = {row.name: row.rouge[metric].mean for row in comparison.methods}
    return Verdict(ROUGE[metric], means, ps)


def welch(label: str, values: Mapping[str, Sequence[float]], higher: bool = False) -> Verdict:
    """Rows of which each has a figure a seed: Welch's t-test of every two (Biometrika 34, 1947), Holm-corrected.

    Nothing is tested with fewer than two seeds.
    """
    pairs = list(itertools.combinations(values, 2))
    means = {name: mean(found) for name, found in values.items()}
    if not pairs or any(len(found) < 2 for found in values.values()):
        return Verdict(label, means, {}, higher)
    ps = [welch_p(values[first], values[second]) for first, second in pairs]
    return Verdict(label, means, dict(zip(pairs, holm(ps), strict=True)), higher)


def welch_p(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of Welch's t-test; without any spread beyond ROUNDING, 1 for equal means and else 0."""
    from scipy import stats

    if max(stdev(a), stdev(b)) < ROUNDING:
        return float(abs(mean(a) - mean(b)) < ROUNDING)
    return float(stats.ttest_ind(a, b, equal_var=False).pvalue)


def kept_loss(run: RunResult) -> float | None:
    """Nats per label token of the validation split under the weights that were evaluated; None without a curve."""
    best = [row["validation_loss"] for row in run.epochs if row["best"]]
    return best[-1] if best else None


def losses(results: Mapping[str, Sequence[RunResult]]) -> dict[str, list[float]]:
    """Validation losses by row, one a seed; without rows that have no curve."""
    found = {name: [kept_loss(run) for run in runs] for name, runs in results.items()}
    return {name: [one for one in ours if one is not None] for name, ours in found.items() if None not in ours}


def rouge_cells(comparison: Comparison, name: str, marks: Mapping[str, Mapping[str, str]]) -> list[str]:
    """`row_cells` of a row by its name."""
    [row] = [row for row in comparison.rows if row.name == name]
    return row_cells(row, marks)


def row_cells(row: Row, marks: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A row's ROUGE-1, 2 and L, F1 x 100, with interval and letters; `marks`: letters by metric and row."""
    found = []
    for metric in ROUGE:
        interval = row.rouge[metric]
        letters_ = marks[metric].get(row.name, "")
        found.append(" ".join(filter(None, [points(interval.mean), bounds(interval), letters_])))
    return found


def with_spread(values: Sequence[float] | None, show: Callable[[float], str] = nats) -> str:
    """`2.345 ± 0.012`: mean and standard deviation over seeds; a dash where nothing was measured."""
    if not values:
        return MISSING
    return show(mean(values)) + (f" ± {show(stdev(values))}" if len(values) > 1 else "")


def stored(results: Mapping[str, Sequence[RunResult]], comparison: Comparison) -> dict[str, Any]:
    """Rows for results.json: seeds, ROUGE with interval, scores a document, losses, seconds."""
    ours = losses(results)
    return {
        row.name: {
            "seeds": list(row.seeds),
            "rouge": {m: {"mean": i.mean, "low": i.low, "high": i.high} for m, i in row.rouge.items()},
            "validation_loss": ours.get(row.name),
            "training": dict(row.runs[0].spec["training"]),
            "hyperparameters": dict(row.runs[0].spec["hyperparameters"]),
            "seconds": dict(row.seconds),
            "fingerprints": list(row.fingerprints),
        }
        for row in comparison.rows
    }
