"""Which settings are tried next: a grid that grows where its best value is at an edge, or Optuna's choice.

Every method gets the same number of trials.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from bakeoff.core.errors import UsageError
from bakeoff.report.tuning.record import Trial, lowest, numeric
from bakeoff.session.grid import Axes, tidy

GROWTH = 3
"""Values by which a method's grid grows at most."""
DRAWS = 50
"""How often Optuna is asked for settings that a method takes."""


@dataclass(frozen=True)
class Point:
    """What a trial is to try."""

    method: str
    settings: Mapping[str, Any]


Permitted = Callable[[Point], bool]
"""Whether a method takes the values of a point that nobody typed."""
Measure = Callable[[Sequence[Point]], Sequence[Trial]]
"""Makes a trial of each point; none of them waits for what another one finds."""


class GridSearch:
    """Every point of each method's grid, then more trials where a best value is at an edge."""

    def __init__(self, grids: Mapping[str, Axes], measure: Measure, permitted: Permitted) -> None:
        self.grids, self.measure, self.permitted = grids, measure, permitted
        self.trials: dict[str, list[Trial]] = {name: [] for name in grids}
        self.grown: Counter[str] = Counter()

    def run(self) -> dict[str, list[Trial]]:
        """All trials by method, in the order in which they were made.

        A method with fewer points makes up for it first. Then, as long as any grid grows, every method gets one more
        trial a round.
        """
        self.take([point for name, axes in self.grids.items() for point in product(name, axes)])
        while short := [name for name, ours in self.trials.items() if len(ours) < max(map(len, self.trials.values()))]:
            if not self.take(list(filter(None, map(self.more, short)))):
                break
        for _ in range(GROWTH):
            grown = {name: self.grow(name) for name in self.trials}
            if not any(grown.values()):
                break
            self.take([point for name in self.trials if (point := grown[name] or self.refine(name))])
        return self.trials

    def take(self, points: Sequence[Point]) -> bool:
        """Makes a trial of each point; returns whether there was any."""
        for trial in self.measure(points) if points else ():
            self.trials[trial.method].append(trial)
        return bool(points)

    def more(self, name: str) -> Point | None:
        """The next trial of a method: its grid grows, or becomes finer around its best value."""
        return self.grow(name) or self.refine(name)

    def grow(self, name: str) -> Point | None:
        """The point beyond an edge at which the best value is, as far away as its neighbour on the other side.

        None where the best is inside, where the grid has grown GROWTH times, or where the method refuses the value.
        """
        if self.grown[name] == GROWTH:
            return None
        best = lowest(self.trials[name])
        for key in growing(self.grids[name]):
            found = [other for other in neighbours(self.trials[name], key) if other]
            if len(found) != 1:
                continue
            edge = best.settings[key]
            value = tidy(edge * edge / found[0].settings[key])
            point = Point(name, {**best.settings, key: value})
            if value not in (edge, 0.0) and self.permitted(point):
                self.grown[name] += 1
                return point
        return None

    def refine(self, name: str) -> Point | None:
        """The point between the best and its better neighbour (geometric mean), along the setting of largest steps.

        None where no setting has a neighbour, or three digits can't tell the new value from them.
        """
        best = lowest(self.trials[name])
        gaps = []
        for key in growing(self.grids[name]):
            beside = [other for other in neighbours(self.trials[name], key) if other]
            if beside:
                better = min(beside, key=lambda trial: trial.loss)
                gaps.append((abs(math.log(better.settings[key] / best.settings[key])), key, better.settings[key]))
        if not gaps:
            return None
        _, key, other = max(gaps)
        value = tidy(math.sqrt(best.settings[key] * other))
        return None if value in (other, best.settings[key]) else Point(name, {**best.settings, key: value})

    def open_edges(self, name: str) -> list[tuple[str, str]]:
        """Numeric settings whose best value is the `lowest` or `highest` that was tried."""
        ours = self.trials[name]
        found = []
        for key, values in self.grids[name].items():
            if all(numeric(value) and value > 0 for value in values):
                below, above = neighbours(ours, key)
                if (below is None) != (above is None):
                    found.append((key, "lowest" if below is None else "highest"))
        return found


def product(name: str, axes: Axes) -> list[Point]:
    """Every combination of a method's values."""
    return [Point(name, dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]


def growing(axes: Axes) -> list[str]:
    """Settings whose grid may grow: two or more positive numbers of a setting that takes fractions.

    Whole numbers are sizes, as a rank is: who types them has decided how much may be spent.
    """
    return [
        key for key, values in axes.items()
        if len(values) > 1 and all(isinstance(value, float) and value > 0 for value in values)
    ]  # fmt: skip


def neighbours(trials: Sequence[Trial], key: str) -> tuple[Trial | None, Trial | None]:
    """The trials next to the best, below and above, among those that differ from it in `key` alone."""
    best = lowest(trials)
    beside = [
        trial for trial in trials
        if all(trial.settings[other] == value for other, value in best.settings.items() if other != key)
    ]  # fmt: skip
    below = [trial for trial in beside if trial.settings[key] < best.settings[key]]
    above = [trial for trial in beside if trial.settings[key] > best.settings[key]]
    return (
        max(below, key=lambda trial: trial.settings[key], default=None),
        min(above, key=lambda trial: trial.settings[key], default=None),
    )


def load_optuna() -> ModuleType:
    """Optuna, which only `--trials` needs. Raises UsageError."""
    try:
        import optuna
    except ImportError:
        raise UsageError(
            "--trials: Optuna is not installed; type pip install 'optuna>=5,<6', or leave --trials out for a grid"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: ModuleType = optuna
    return found


def sample(
    grids: Mapping[str, Axes], measure: Measure, count: int, seed: int, permitted: Permitted = lambda point: True
) -> dict[str, list[Trial]]:
    """`count` trials of each method, chosen by Optuna's TPE sampler; the same seed and losses give the same trials.

    What is not `permitted` is drawn anew. Raises UsageError where a method permits hardly anything.
    """
    optuna = load_optuna()
    studies = {name: optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed)) for name in grids}
    found: dict[str, list[Trial]] = {name: [] for name in grids}
    for _ in range(count):
        asked = {name: point(studies[name], name, axes, permitted) for name, axes in grids.items()}
        for trial in measure([drawn for _, drawn in asked.values()]):
            found[trial.method].append(trial)
            studies[trial.method].tell(asked[trial.method][0], trial.loss)
    return found


def point(study: Any, name: str, axes: Axes, permitted: Permitted) -> tuple[Any, Point]:
    """Optuna's next trial of a method with what it is to try. Raises UsageError."""
    for _ in range(DRAWS):
        trial = study.ask()
        drawn = Point(name, {key: draw(trial, key, values) for key, values in axes.items()})
        if permitted(drawn):
            return trial, drawn
        study.tell(trial, state=load_optuna().trial.TrialState.FAIL)
    what = ", ".join(f"{key} = {value}" for key, value in drawn.settings.items())
    raise UsageError(f"--trials: {name} takes none of {DRAWS} settings between those of --grid, {what} among them; "
                     "leave --trials out to try the values of --grid alone")  # fmt: skip


def draw(trial: Any, key: str, values: Sequence[Any]) -> Any:
    """A value of a setting from an Optuna trial: between the least and the greatest number, else one of `values`."""
    low, high = values[0], values[-1]
    if not all(map(numeric, values)) or low == high:
        return values[trial.suggest_categorical(key, range(len(values)))]
    if all(isinstance(value, int) for value in values):
        return trial.suggest_int(key, low, high, log=low > 0)
    return min(high, max(low, tidy(trial.suggest_float(key, low, high, log=low > 0))))
