"""Intervals and tests over the scores of the same documents: numbers in, numbers out.

scipy is imported where it is asked. Distributions are those of scipy.special, which scipy.stats calls, too: to import
that takes more than a second, for which no command should wait.
"""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Differences that vary by less than this are equal: scores lie in 0..1, and what is left is rounding.
EQUAL = 1e-12


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its interval; the bounds are None where the data give none."""

    mean: float
    low: float | None
    high: float | None

    def overlaps(self, other: "Interval") -> bool | None:
        """Whether the two intervals share a value; None where one of them has no bounds."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return None
        return self.low <= other.high and other.low <= self.high


def seeds_by_documents(scores: ArrayLike | Sequence[ArrayLike]) -> Floats:
    """`scores` as a seeds x documents array. Raises ValueError where it is empty, ragged or not finite."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"scores must be seeds x documents, at least 1 x 1; got the shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("scores hold a value that is not finite")
    return array


def mean_over_seeds(scores: ArrayLike | Sequence[ArrayLike]) -> Floats:
    """Mean of every document (documents,) from seeds x documents."""
    return seeds_by_documents(scores).mean(axis=0)


def interval(scores: ArrayLike | Sequence[ArrayLike], level: float = 0.95) -> Interval:
    """Mean of seeds x documents with Student's t interval over the documents of the mean over seeds.

    It covers another draw of documents, not another seed. Fewer than two documents give no bounds.
    """
    documents = mean_over_seeds(scores)
    mean = float(documents.mean())
    if documents.size < 2:
        return Interval(mean, None, None)
    from scipy import special

    error = float(documents.std(ddof=1)) / math.sqrt(documents.size)
    half = float(special.stdtrit(documents.size - 1, (1 + level) / 2)) * error
    return Interval(mean, mean - half, mean + half)


def wilson(share: float, count: int, level: float = 0.95) -> Interval:
    """A share of `count` documents with Wilson's score interval (Journal of the American Statistical Association 22,
    1927), which has a width where the share is 0 or 1, too. Raises ValueError for no document or no share."""
    if count < 1 or not 0 <= share <= 1:
        raise ValueError(f"a share in 0..1 of one document or more is needed; got {share} of {count}")
    from scipy import special

    z = float(special.ndtri((1 + level) / 2))
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(share, max(0.0, middle - half) if share else 0.0, min(1.0, middle + half) if share < 1 else 1.0)


def spread(scores: ArrayLike | Sequence[ArrayLike]) -> float | None:
    """Standard deviation (ddof=1) of the seeds' means from seeds x documents; None with one seed."""
    means = seeds_by_documents(scores).mean(axis=1)
    return float(means.std(ddof=1)) if means.size > 1 else None


def paired(a: ArrayLike, b: ArrayLike, alternative: Literal["two-sided", "greater"] = "two-sided") -> float:
    """p of Student's paired t-test of `a` against `b`, two rows (documents,) over the same documents.

    `greater` asks whether `a` is above `b`. Where all differences are equal there is no noise to test against: p = 1.
    Raises ValueError for fewer than two documents, rows of different lengths, or a value that is not finite.
    """
    first, second = seeds_by_documents([a])[0], seeds_by_documents([b])[0]
    if first.size != second.size or first.size < 2:
        raise ValueError(f"a paired test needs the same two or more documents; got {first.size} and {second.size}")
    difference = first - second
    if np.ptp(difference) < EQUAL:
        return 1.0
    from scipy import special

    t = float(difference.mean() / (difference.std(ddof=1) / math.sqrt(difference.size)))
    below = float(special.stdtr(difference.size - 1, -t if alternative == "greater" else -abs(t)))
    return below if alternative == "greater" else 2 * below


def better(a: ArrayLike, b: ArrayLike) -> float:
    """p that `a` is not above `b` on the same documents: `paired` with the alternative `greater`."""
    return paired(a, b, "greater")


def holm(ps: Sequence[float]) -> list[float]:
    """`ps` corrected for their number by Holm's step-down (Scandinavian Journal of Statistics 6, 1979), same order."""
    if any(not 0 <= p <= 1 for p in ps):
        raise ValueError("p values must lie between 0 and 1")
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = highest
    return corrected


def groups(names: Sequence[str], different: Collection[tuple[str, str]]) -> list[tuple[str, ...]]:
    """The largest sets of names without a `different` pair (in either order), in the order of `names`.

    Two names are in one set together exactly where they are not different. Insert and absorb (Piepho, Journal of
    Computational and Graphical Statistics 13, 2004).
    """
    columns = [frozenset(names)]
    for pair in different:
        split = [column - {name} for column in columns if set(pair) <= column for name in pair]
        kept = [column for column in columns if not set(pair) <= column]
        columns = []
        for column in sorted((*kept, *split), key=len, reverse=True):
            if not any(column <= other for other in columns):
                columns.append(column)
    columns.sort(key=lambda column: [name not in column for name in names])
    return [tuple(name for name in names if name in column) for column in columns]


def letters(columns: Sequence[Sequence[str]]) -> dict[str, str]:
    """Letters by name, from the groups of `groups`: two names share one exactly where they are not different.

    Four letters or more that follow each other are written as a range, `a-d`.
    """
    swept = lettered(columns)
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: ranges([n for n, column in enumerate(swept) if name in column]) for name in names}


def lettered(columns: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """The names of each letter of `letters`, from a on."""
    names = list(dict.fromkeys(name for column in columns for name in column))
    return sorted(sweep(cover(columns)), key=lambda column: [name not in column for name in names])


def couples(column: Sequence[str]) -> set[frozenset[str]]:
    """Every two names of a column, and each name with itself."""
    return {frozenset(pair) for pair in combinations_with_replacement(column, 2)}


def cover(columns: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Few of `columns`, each cut to what it adds: two names still stand together in one exactly where they did.

    Greedy: the column that holds most couples that no earlier one holds, until every couple stands somewhere.
    """
    left = [couples(column) for column in columns]
    found = []
    while any(left):
        place = max(range(len(left)), key=lambda place: (len(left[place]), -place))
        needed = frozenset().union(*left[place])
        found.append(tuple(name for name in columns[place] if name in needed))
        covered = couples(found[-1])
        left = [some - covered for some in left]
    return found


def sweep(columns: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """`columns` without memberships that tell nothing: two names still stand together in one exactly where they did.

    The sweeping phase of Piepho (2004, see `groups`). Every name keeps a column.
    """
    left = [list(column) for column in columns]
    together = Counter(pair for column in left for pair in couples(column))
    for column in left:
        for name in reversed(list(column)):
            shared = [frozenset((name, other)) for other in column]
            if all(together[pair] > 1 for pair in shared):
                together.subtract(shared)
                column.remove(name)
    return [tuple(column) for column in left if column]


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as letters: `ab`, `a-d`, `a-df`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return "".join(f"{letter(run[0])}-{letter(run[-1])}" if len(run) > 3 else "".join(map(letter, run)) for run in runs)


def letter(number: int) -> str:
    """a to z, then a1 to z1, a2 and on."""
    return "abcdefghijklmnopqrstuvwxyz"[number % 26] + (str(number // 26) if number >= 26 else "")


def wins_ties_losses(a: ArrayLike | Sequence[ArrayLike], b: ArrayLike | Sequence[ArrayLike]) -> tuple[int, int, int]:
    """Documents on which the mean over seeds of `a` is above, equal to and below that of `b`."""
    first, second = mean_over_seeds(a), mean_over_seeds(b)
    if first.size != second.size:
        raise ValueError(f"both sides need the same documents; got {first.size} and {second.size}")
    difference = first - second
    wins, losses = int((difference > EQUAL).sum()), int((difference < -EQUAL).sum())
    return wins, first.size - wins - losses, losses
