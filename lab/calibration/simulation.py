"""How often the verdicts are wrong, and what they find: fitted to ten real seeds, then simulated.

`python -m lab.calibration` reads `bench/baselines/ci.seeds.json` (`python -m lab.calibration.seeds` trains
them anew), and writes `reports/calibration/report.md` with its plots.
The same scores leave the same report.
"""

import argparse
import json
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import stats

from bakeoff.metrics.rouge import METRICS
from bakeoff.shipped import ROOT
from bakeoff.stats.contrasts import SeedVariance, components, contrast, detectable
from lab.calibration import report
from lab.calibration.seeds import path_of

REPORT = ROOT / "reports" / "calibration"
PRESET, METHOD = "ci", "lora"

SEEDS = ((1, 5), (3, 5), (5, 5))
DOCUMENTS = (100, 400, 1000)
ALPHA, POWER = 0.05, 0.8


@dataclass(frozen=True)
class Fit:
    """Standard deviations of the model for one metric, F1 in 0..1."""

    variance: SeedVariance
    document: float
    residual: float
    seed: float
    seed_low: float
    """95 % bounds of `seed`, from the F distribution of MS_seed/MS_res."""
    seed_high: float


@dataclass(frozen=True)
class Rate:
    """Hits of a number of rounds, with the 95 % interval of their share (Wilson)."""

    hits: int
    rounds: int

    @property
    def share(self) -> float:
        """Hits by rounds."""
        return self.hits / self.rounds

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval."""
        found = stats.binomtest(self.hits, self.rounds).proportion_ci(method="wilson")
        return found.low, found.high


@dataclass(frozen=True)
class Power:
    """What a comparison of `seeds` against five finds on `documents`; drops are F1 in 0..1."""

    documents: int
    seeds: int
    needed: np.ndarray
    """The drop that each round would just have found, sorted."""
    said: float
    """The mean over rounds of what the gate calls the smallest drop."""

    @property
    def found(self) -> float:
        """The drop found in 80 % of the rounds."""
        return float(np.quantile(self.needed, POWER))

    def share(self, drop: float) -> float:
        """Share of the rounds that find `drop`."""
        return float((self.needed < drop).mean())


def main() -> None:
    """Fits, simulates, writes."""
    parser = argparse.ArgumentParser(prog="python -m lab.calibration", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5000, help="simulated comparisons a cell; default 5000")
    options = parser.parse_args()
    path = path_of(PRESET)
    if not path.is_file():
        parser.error(f"{path} is not there; type: python -m lab.calibration.seeds")
    file = json.loads(path.read_text(encoding="utf-8"))
    kept = {**file, "method": METHOD, "scores": file["methods"][METHOD]}
    scores = {metric: np.array(kept["scores"][metric]) for metric in METRICS}
    fits = {metric: fit(scores[metric]) for metric in METRICS}
    draw = np.random.default_rng(0)
    found = report.Found(
        kept=kept,
        fits=fits,
        fresh={
            (metric, level, seeds): false_alarms(draw, fits[metric], level, seeds, options.rounds)
            for metric, level, seeds in product(METRICS, ("seed", "seed_high"), SEEDS)
        },
        own={(metric, seeds): own_alarms(draw, scores[metric], seeds, options.rounds)
             for metric, seeds in product(METRICS, SEEDS)},
        power={(metric, documents, seeds): power(draw, fits[metric], documents, seeds, options.rounds)
               for metric, documents, (seeds, _) in product(METRICS, DOCUMENTS, SEEDS)},
        agreement=[agreement(draw, scores["rougeL"][a], scores["rougeL"][b]) for a, b in ((0, 1), (2, 3), (4, 5))],
    )  # fmt: skip
    report.write(found, REPORT)
    print(REPORT / "report.md")


def fit(scores: np.ndarray) -> Fit:
    """The components of seeds x documents. The interval of the seeds' deviation: exact for normal scores."""
    variance = components(scores)
    assert variance is not None, "at least two seeds and two documents"
    seeds, documents = scores.shape
    ratio = variance.ms_seed / variance.ms_res
    low, high = (
        max(0.0, ratio / stats.f.ppf(p, variance.df, variance.df_res) - 1) * variance.ms_res / documents
        for p in (0.975, 0.025)
    )
    document = max(0.0, float(scores.mean(axis=0).var(ddof=1)) - variance.ms_res / seeds)
    return Fit(variance, document**0.5, variance.ms_res**0.5, variance.deviation, low**0.5, high**0.5)


def side(draw: np.random.Generator, fitted: Fit, shared: np.ndarray, seeds: int, deviation: float) -> np.ndarray:
    """Simulated scores of one side, seeds x documents; `shared` is what its documents are worth."""
    noise = draw.normal(0, fitted.residual, (seeds, shared.size))
    return shared + draw.normal(0, deviation, (seeds, 1)) + noise


def false_alarms(draw: np.random.Generator, fitted: Fit, level: str, seeds: tuple[int, int], rounds: int) -> Rate:
    """Fresh seeds and documents of one and the same method on both sides: how often p falls below alpha."""
    hits, documents, deviation = 0, fitted.variance.documents, getattr(fitted, level)
    for _ in range(rounds):
        shared = draw.normal(0, fitted.document, documents)
        a, b = (side(draw, fitted, shared, count, deviation) for count in seeds)
        hits += contrast(a, b).p < ALPHA
    return Rate(hits, rounds)


def own_alarms(draw: np.random.Generator, scores: np.ndarray, seeds: tuple[int, int], rounds: int) -> Rate:
    """Two random groups of the real seeds on a bootstrap draw of the real documents: how often p is below alpha."""
    hits = 0
    for _ in range(rounds):
        order = draw.permutation(len(scores))
        drawn = scores[:, draw.integers(0, scores.shape[1], scores.shape[1])]
        hits += contrast(drawn[order[: seeds[0]]], drawn[order[seeds[0] : sum(seeds)]]).p < ALPHA
    return Rate(hits, rounds)


def power(draw: np.random.Generator, fitted: Fit, documents: int, seeds: int, rounds: int) -> Power:
    """A drop only shifts the difference, so every round tells the drop that it would just have found."""
    needed: list[float] = []
    said: list[float] = []
    for number in range(rounds):
        shared = draw.normal(0, fitted.document, documents)
        found = contrast(*(side(draw, fitted, shared, count, fitted.seed) for count in (seeds, 5)))
        assert found.error
        needed.append(found.difference + stats.t.isf(ALPHA / 2, found.df) * found.error)
        if number < 500:
            smallest = detectable(found, ALPHA, POWER)
            assert smallest is not None
            said.append(smallest)
    return Power(documents, seeds, np.sort(needed), float(np.mean(said)))


def agreement(draw: np.random.Generator, a: np.ndarray, b: np.ndarray) -> tuple[float, ...]:
    """p and interval of the documents-only test, then SciPy's permutation test and bootstrap, on two real seeds."""
    ours = contrast([a], [b])
    permuted = stats.permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", rng=draw)
    drawn = stats.bootstrap((a - b,), np.mean, rng=draw).confidence_interval
    assert ours.low is not None and ours.high is not None
    return ours.difference, ours.p, float(permuted.pvalue), ours.low, ours.high, float(drawn.low), float(drawn.high)
