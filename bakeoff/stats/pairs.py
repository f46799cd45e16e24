"""Verdicts between rows: every pair's difference, corrected for their number, and what can't be told apart."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from bakeoff.stats.contrasts import Contrast, SeedVariance, contrast, pool
from bakeoff.stats.intervals import groups, holm, mean_over_seeds, wins_ties_losses

ALPHA = 0.05
"""A corrected p below this tells two rows apart."""

Scores = Sequence[Sequence[float | None]]
"""Seeds x documents; None where a document has no value."""


@dataclass(frozen=True)
class Pair:
    """Two rows on one metric, the first minus the second."""

    first: str
    second: str
    metric: str
    contrast: Contrast
    p: float
    """Two-sided, Holm-corrected over the pairs of the family on this metric."""
    wins: int
    """Documents on which the first's mean over seeds is the higher one."""
    ties: int
    losses: int

    @property
    def tested(self) -> bool:
        """Whether the noise is known, that of the seeds, too: without it no verdict is given."""
        return self.contrast.kind == "documents and seeds" and self.contrast.low is not None

    @property
    def different(self) -> bool:
        """Whether the two can be told apart."""
        return self.tested and self.p < ALPHA

    @property
    def higher(self) -> str:
        """The name with the higher mean where the two can be told apart, else empty."""
        if not self.different:
            return ""
        return self.first if self.contrast.difference > 0 else self.second


class Verdict(Protocol):
    """What letters need of a pair."""

    @property
    def first(self) -> str: ...
    @property
    def second(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def tested(self) -> bool: ...
    @property
    def different(self) -> bool: ...


@dataclass(frozen=True)
class Side:
    """What a pair needs of a row."""

    name: str
    scores: Mapping[str, Scores]
    """By metric."""
    fixed: bool = False
    """Whether no seed changes it: a control."""
    spread: Mapping[str, SeedVariance] | None = None
    """By metric, for a row with one seed: the variance between seeds measured elsewhere."""

    def known(self, metric: str) -> bool:
        """Whether the noise of its seeds is known."""
        return self.fixed or len(self.scores[metric]) > 1 or metric in (self.spread or {})


def known(*sides: Scores) -> list[list[list[float]]]:
    """The sides without the documents of which a seed of any side has no value."""
    rows = [row for side in sides for row in side]
    if not any(None in row for row in rows):
        return [[list(row) for row in side] for side in sides]  # type: ignore[arg-type]
    places = [place for place, values in enumerate(zip(*rows, strict=True)) if None not in values]
    return [[[row[place] for place in places] for row in side] for side in sides]  # type: ignore[misc]


def family(couples: Iterable[tuple[Side, Side]], metrics: Sequence[str]) -> tuple[Pair, ...]:
    """Every couple on every metric, corrected for their number metric by metric; in the order of `metrics`."""
    couples, found = list(couples), []
    for metric in metrics:
        pairs = [one for first, second in couples if (one := pair(first, second, metric)) is not None]
        corrected = holm([one.p for one in pairs])
        found += [replace(one, p=p) for one, p in zip(pairs, corrected, strict=True)]
    return tuple(found)


def pair(first: Side, second: Side, metric: str) -> Pair | None:
    """One pair, its p not yet corrected, on the documents of which all seeds of both have a value; None of none."""
    a, b = known(first.scores[metric], second.scores[metric])
    if not a[0]:
        return None
    if first.known(metric) and second.known(metric):
        borrowed = [side.spread[metric] for side in (first, second)
                    if not side.fixed and len(side.scores[metric]) == 1 and side.spread]  # fmt: skip
        # Both sides may borrow the same figure; it is known no better for that.
        spread = pool(list(dict.fromkeys(borrowed)), len(a[0]))
        found = contrast(a, b, spread=spread, fixed=(first.fixed, second.fixed))
    else:
        found = contrast([mean_over_seeds(a)], [mean_over_seeds(b)])
    return Pair(first.name, second.name, metric, found, found.p, *wins_ties_losses(a, b))


def alike(names: Sequence[str], pairs: Iterable[Verdict], metric: str) -> list[tuple[str, ...]] | None:
    """The groups among `names` that can't be told apart; None where a pair was not tested, or there is none."""
    ours = [one for one in pairs if one.metric == metric]
    if not ours or not all(one.tested for one in ours):
        return None
    return groups(names, [(one.first, one.second) for one in ours if one.different])
