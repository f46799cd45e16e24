"""Two sides on the same documents: their difference, with the noise of documents and of seeds in its interval.

The model: score[method, seed, document] = method + document + method x document + seed of the method + residual.
Documents are paired between the sides; seeds are not, even where their numbers are equal.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from bakeoff.stats.intervals import EQUAL, Interval, interval, seeds_by_documents

Kind = Literal["documents and seeds", "documents only"]
MOST = 1_000_000
"""Seeds or documents beyond which nothing is said to settle a difference."""


@dataclass(frozen=True)
class SeedVariance:
    """How seeds of one method differ on the same documents: mean squares of a two-way layout, squared F1."""

    ms_seed: float
    """documents x variance of the seeds' means: estimates documents x seed variance + residual variance."""
    ms_res: float
    """Residual mean square of seeds x documents: estimates the residual variance."""
    df: int
    """Degrees of freedom of `ms_seed`: seeds - 1, summed over what was pooled."""
    documents: int
    """Documents that each mean is over."""
    source: str = "its own seeds"
    """Where it comes from, for the reader: `its own seeds`, `baseline`, `calibration`."""

    @property
    def df_res(self) -> int:
        """Degrees of freedom of `ms_res`."""
        return self.df * (self.documents - 1)

    @property
    def deviation(self) -> float:
        """Standard deviation between seeds beyond what documents explain, F1; 0 where the estimate is negative."""
        return math.sqrt(max(0.0, self.ms_seed - self.ms_res) / self.documents)

    def on(self, documents: int) -> "SeedVariance":
        """The same variances as they would show on another number of documents."""
        if documents == self.documents:
            return self
        ms_seed = self.ms_seed
        if ms_seed > self.ms_res:  # a negative estimate of the seed variance is not blown up
            ms_seed = self.ms_res + (ms_seed - self.ms_res) * documents / self.documents
        return replace(self, ms_seed=ms_seed, documents=documents)


@dataclass(frozen=True)
class Contrast:
    """Side A minus side B, F1."""

    difference: float
    low: float | None
    """Bounds of the 95 % interval; None where nothing measures the noise."""
    high: float | None
    p: float
    """Two-sided, of no difference; 1 where nothing measures the noise."""
    df: float
    """Degrees of freedom of Student's t; 0 where nothing measures the noise."""
    error: float | None
    """Standard error of the difference; None with one document."""
    kind: Kind
    """What the interval covers: another draw of documents and of seeds, or of documents alone."""
    documents: int
    seeds: tuple[int, int]
    """Of A and of B; 0 for a side that no seed changes."""
    variance: SeedVariance | None = None
    """The pooled variance between seeds that was used; None for `documents only`."""

    @property
    def seed_part(self) -> float:
        """The part of error squared that more documents don't cure."""
        if self.variance is None:
            return 0.0
        return self.variance.deviation**2 * shares(self.seeds)

    @property
    def seed_share(self) -> float:
        """Share of the variance that the seeds carry, 0..1."""
        return min(1.0, self.seed_part / self.error**2) if self.error else 0.0


def components(scores: ArrayLike | Sequence[ArrayLike], source: str = "its own seeds") -> SeedVariance | None:
    """Variances between seeds from seeds x documents; None with one seed or one document.

    Raises ValueError for scores that are ragged or not finite.
    """
    array = seeds_by_documents(scores)
    seeds, documents = array.shape
    if seeds < 2 or documents < 2:
        return None
    means = array.mean(axis=1)
    residual = array - means[:, None] - array.mean(axis=0) + array.mean()
    df = seeds - 1
    ms_res = float((residual**2).sum()) / (df * (documents - 1))
    return SeedVariance(documents * float(means.var(ddof=1)), ms_res, df, documents, source)


def pool(parts: Sequence[SeedVariance], documents: int) -> SeedVariance | None:
    """Several variances as one on `documents` documents, weighted by their degrees of freedom; None of none."""
    parts = [part for part in parts if part.df_res > 0]
    moved = [part.on(documents) for part in parts]
    df = sum(part.df for part in moved)
    if not df:
        return None
    df_res = sum(part.df_res for part in parts)
    return SeedVariance(
        ms_seed=sum(part.ms_seed * part.df for part in moved) / df,
        ms_res=sum(part.ms_res * part.df_res for part in parts) / df_res,
        df=df,
        documents=documents,
        source=" and ".join(dict.fromkeys(part.source for part in moved)),
    )


def contrast(
    a: ArrayLike | Sequence[ArrayLike],
    b: ArrayLike | Sequence[ArrayLike],
    *,
    spread: SeedVariance | None = None,
    fixed: tuple[bool, bool] = (False, False),
    level: float = 0.95,
) -> Contrast:
    """`a` minus `b`, seeds x documents each, on the same documents in the same order.

    `spread` stands in for the seeds that a side with one seed doesn't have. `fixed` marks a side that no seed changes
    (a control): it adds no noise of seeds. Where no seeds tell their variance, the result is `documents only`.
    With d the difference of a document's means over seeds, c = 1/seeds of A + 1/seeds of B, D documents:
    V = max(var(d)/D + max(0, MS_seed - MS_res) c/D, MS_seed c/D), t = mean(d)/sqrt(V), with Satterthwaite's degrees
    of freedom (Biometrics Bulletin 2, 1946) of the terms that V has, at least those of MS_seed. Where seeds
    were found to change nothing and every document differs by as much, the interval is that one value, and p is that of
    flipping the documents' signs (Fisher, The Design of Experiments, 1935): 2^(1 - D).
    Raises ValueError for other documents, ragged scores, or a value that is not finite.
    """
    sides = seeds_by_documents(a), seeds_by_documents(b)
    documents = sides[0].shape[1]
    if sides[1].shape[1] != documents:
        raise ValueError(f"a contrast needs the same documents; got {documents} and {sides[1].shape[1]}")
    d = sides[0].mean(axis=0) - sides[1].mean(axis=0)
    difference = float(d.mean())
    seeds = (0 if fixed[0] else len(sides[0]), 0 if fixed[1] else len(sides[1]))
    if documents < 2:
        return Contrast(difference, None, None, 1.0, 0.0, None, "documents only", documents, seeds)

    own = [components(side) for side, count in zip(sides, seeds, strict=True) if count]
    variance = pool([part for part in (*own, spread if 1 in seeds else None) if part is not None], documents)
    v_doc = float(d.var(ddof=1)) / documents
    v, df = v_doc, float(documents - 1)
    if variance is not None:
        v, df = with_seeds(v_doc, variance, shares(seeds) / documents)
    kind: Kind = "documents and seeds" if variance is not None or not any(seeds) else "documents only"
    error = math.sqrt(v)
    made = Contrast(difference, None, None, 1.0, df, error, kind, documents, seeds, variance)
    if error < EQUAL:
        made = replace(made, df=0.0, error=0.0)
        if abs(difference) < EQUAL:
            return replace(made, low=difference, high=difference)
        if variance is not None and max(variance.ms_seed, variance.ms_res) < EQUAL**2:
            return replace(made, low=difference, high=difference, p=2.0 ** (1 - documents))
        return made
    from scipy import special

    half = error * float(special.stdtrit(df, (1 + level) / 2))
    p = 2 * float(special.stdtr(df, -abs(difference) / error))
    return replace(made, low=difference - half, high=difference + half, p=min(1.0, p))


def mean(
    scores: ArrayLike | Sequence[ArrayLike], *, spread: SeedVariance | None = None, fixed: bool = False
) -> Interval:
    """Mean of seeds x documents with its 95 % interval, over documents and, where their variance is known, seeds."""
    array = seeds_by_documents(scores)
    found = contrast(array, np.zeros((1, array.shape[1])), spread=spread, fixed=(fixed, True))
    return interval(array) if found.low is None else Interval(found.difference, found.low, found.high)


def with_seeds(v_doc: float, variance: SeedVariance, weight: float) -> tuple[float, float]:
    """V and its degrees of freedom from var(d)/D, the variance between seeds, and `weight` = c/D."""
    ms_seed, ms_res = variance.ms_seed * weight, variance.ms_res * weight
    v = v_doc + max(0.0, ms_seed - ms_res)
    if v <= ms_seed:
        return ms_seed, float(variance.df)
    uncertain = v_doc**2 / (variance.documents - 1)
    if ms_seed > ms_res:  # else V is var(d)/D alone, and as certain as that
        uncertain += ms_seed**2 / variance.df + ms_res**2 / variance.df_res
    return v, max(float(variance.df), v**2 / uncertain) if uncertain else float(variance.documents - 1)


def shares(seeds: tuple[int, int]) -> float:
    """c: the sum of 1/seeds over the sides that seeds change."""
    return sum(1 / count for count in seeds if count)


def detectable(contrast: Contrast, alpha: float = 0.05, power: float = 0.8, tolerance: float = 0.0) -> float | None:
    """The smallest true drop (F1, positive) that is found in `power` of cases; None where nothing measures the noise.

    Found: a drop above `tolerance` with a two-sided p below `alpha`. Noncentral t with the contrast's own error.
    """
    if contrast.error is None or contrast.df <= 0:
        return None
    return smallest(contrast.error, contrast.df, alpha, power, tolerance)


def smallest(error: float, df: float, alpha: float, power: float, tolerance: float) -> float:
    """`detectable` of a standard error and its degrees of freedom.

    Without a tolerance it is the noncentral t (scipy.stats.nct). The tolerance bounds the difference, not t, so the
    chance of passing both hurdles is averaged over the chi-squared error.
    """
    from scipy import optimize, special

    errors = np.sqrt(2 * special.gammaincinv(df / 2, (np.arange(500) + 0.5) / 500) / df)  # quantiles of chi-squared
    hurdles = np.maximum(-special.stdtrit(df, alpha / 2) * errors, tolerance / error)

    def missing(shift: float) -> float:
        return float(special.ndtr(shift - hurdles).mean()) - power

    return error * float(optimize.brentq(missing, 0.0, float(hurdles.max()) + 10.0))


@dataclass(frozen=True)
class Needed:
    """What would settle a difference as large as the one that was seen."""

    seeds: int
    """A side, at least."""
    documents: int


def needed(contrast: Contrast, alpha: float = 0.05, power: float = 0.8, tolerance: float = 0.0) -> Needed | None:
    """Seeds or documents, whichever carries the variance, that find a true difference of this size in `power` of cases.

    Where one of them alone can't, the other, then both. None where no number does: the difference is within
    `tolerance`, or nothing measures the noise.
    """
    size = abs(contrast.difference)
    if size <= tolerance or not contrast.error or contrast.df <= 0:
        return None
    variance, now = contrast.variance, contrast.documents
    fewest = min((count for count in contrast.seeds if count), default=1)
    v_doc = max(0.0, contrast.error**2 - contrast.seed_part)

    def settled(seeds: int, documents: int) -> bool:
        v, df = v_doc * now / documents, contrast.df
        if variance is None:
            df = documents - 1.0
        else:
            sides = tuple(max(count, seeds) if count else 0 for count in contrast.seeds)
            v += variance.deviation**2 * shares((sides[0], sides[1]))
            df = max(df, float(sum(count - 1 for count in sides if count)))
        return v <= 0 or smallest(math.sqrt(v), df, alpha, power, tolerance) <= size

    by_seeds = None if variance is None else first(lambda n: settled(n, now), fewest)
    by_documents = first(lambda n: settled(fewest, n), now)
    if by_seeds and (contrast.seed_share > 0.5 or not by_documents):
        return Needed(by_seeds, now)
    if by_documents:
        return Needed(fewest, by_documents)
    together = first(lambda n: settled(n, math.ceil(now * n / fewest)), fewest)
    return Needed(together, math.ceil(now * together / fewest)) if together else None


def first(holds: Callable[[int], bool], start: int) -> int | None:
    """The first number from `start` on for which `holds`, which then holds for all that follow; None beyond MOST."""
    low, high = start - 1, start
    while not holds(high):
        low, high = high, 2 * high
        if high > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
