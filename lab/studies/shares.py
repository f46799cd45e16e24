"""Which share of a gain another method reaches, with an interval: Fieller's over seeds, a bootstrap over documents."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, variance

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
DRAWS = 10_000


@dataclass(frozen=True)
class Share:
    """(score of a method - zero) / (score of the reference - zero), where zero is the untrained model's score."""

    value: float | None
    """None where the reference's gain is not above 0 by its interval: a share of nothing, or of a loss."""
    low: float | None = None
    """Bounds of the 95 % interval; None where there are none."""
    high: float | None = None


def fieller(method: Sequence[float], reference: Sequence[float], level: float = 0.95) -> Share:
    """The ratio of the means of two independent samples of gains, one a seed, by Fieller's theorem.

    Its interval holds the ratios r for which mean(method) - r mean(reference) is not told from 0 by a t-test whose
    degrees of freedom are those of the smaller sample (Journal of the Royal Statistical Society B 16, 1954). Where
    the mean of `reference` is not told from 0, no interval is bounded, and the share is None; so it is below 0.
    """
    from scipy import stats

    a, b = mean(method), mean(reference)
    seeds = min(len(method), len(reference))
    if seeds < 2:
        return Share(a / b if b > 0 else None)
    va, vb = variance(method) / len(method), variance(reference) / len(reference)
    t2 = float(stats.t.ppf((1 + level) / 2, seeds - 1)) ** 2
    lead = b * b - t2 * vb
    if lead <= 0 or b < 0:
        return Share(None)
    root = math.sqrt(max(0.0, (a * b) ** 2 - lead * (a * a - t2 * va)))
    return Share(a / b, (a * b - root) / lead, (a * b + root) / lead)


class Bootstrap:
    """Shares of gains in scores of the same documents, over draws of documents and of seeds.

    Percentile intervals (Efron and Tibshirani, An Introduction to the Bootstrap, 1993). All methods see the same
    documents of a draw; the seeds of each method are drawn by themselves.
    """

    def __init__(self, zero: ArrayLike, stream: int = 0, draws: int = DRAWS) -> None:
        """`zero`: the untrained model's scores, one a document.

        Two of them draw the same documents; their seeds are drawn alike only where `stream` is the same.
        """
        self.zero = np.asarray(zero, dtype=np.float64)
        self.draws = draws
        documents = len(self.zero)
        shared = np.random.default_rng(0)
        self.weights = shared.multinomial(documents, np.full(documents, 1 / documents), size=draws) / documents
        self.random = np.random.default_rng([1, stream])

    def gains(self, scores: ArrayLike) -> Floats:
        """Mean score minus the untrained model's in every draw; `scores`: seeds x documents."""
        array = np.asarray(scores, dtype=np.float64)
        by_seed = self.weights @ (array - self.zero).T  # draws x seeds
        seeds = len(array)
        chosen = self.random.multinomial(seeds, np.full(seeds, 1 / seeds), size=self.draws) / seeds
        return np.asarray((by_seed * chosen).sum(axis=1))

    def ratios(self, method: ArrayLike, reference: Floats) -> Floats | None:
        """The share in every draw, from scores and the reference's gains; None where those are not above 0."""
        return None if np.percentile(reference, 2.5) <= 0 else self.gains(method) / reference

    def share(self, method: ArrayLike, reference: ArrayLike, ratios: Floats | None) -> Share:
        """The share of the scores themselves, with the interval of its draws."""
        if ratios is None:
            return Share(None)
        a, b = (float(np.mean(np.asarray(one, dtype=np.float64) - self.zero)) for one in (method, reference))
        low, high = np.percentile(ratios, [2.5, 97.5])
        return Share(a / b, float(low), float(high))
