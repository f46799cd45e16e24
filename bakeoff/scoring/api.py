"""The contract of a metric: what a file of one's own holds, and what the report knows of each metric."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeGuard, runtime_checkable

from bakeoff.metrics.rouge import METRICS

Better = Literal["higher", "lower", ""]
"""Which of two values is the better one; empty where neither is."""
Values = Sequence[Sequence[float | None]]
"""Seeds x documents; None where a document gives no value."""


@runtime_checkable
class Metric(Protocol):
    """A number for each summary. A class with these members in one file is a metric of one's own.

    Further members are optional: `label` is the name in tables (default `name`); `binary = True` says that every value
    is 0 or 1, so that the mean is a rate with Wilson's interval; `prepare()` is called before the first run, and the
    first line of what it raises is the message. A dataclass's fields are settings: `--metric mine.py:size=3`.
    """

    name: str
    """Letters, digits, - and _."""
    better: Better
    """`higher`, `lower`, or empty for a metric that only describes."""
    range: tuple[float, float]
    """Lowest and highest possible value; either may be infinite. Verdicts need 0 to 1."""

    @property
    def signature(self) -> str:
        """Everything that a value depends on beside the texts: versions, settings. It is read after `score`."""
        ...

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], documents: Sequence[str]
    ) -> list[float | None]:
        """One value for each summary in `predictions`, with its references and its document, or None."""
        ...


@dataclass(frozen=True)
class Facts:
    """What the report knows of a metric."""

    name: str
    label: str
    better: Better = "higher"
    range: tuple[float, float] = (0.0, 1.0)
    signature: str = ""
    binary: bool = False

    @property
    def share(self) -> bool:
        """Whether values lie in 0..1, which are printed x 100."""
        return tuple(self.range) == (0.0, 1.0)

    def show(self, value: float) -> str:
        """A value as it is printed, two decimals."""
        return f"{round(value * (100 if self.share else 1), 2) + 0.0:.2f}"  # + 0.0: never "-0.00"

    def bounds(self, low: float | None, high: float | None) -> str:
        """An interval as it is printed, in brackets; empty where there is none."""
        return "" if low is None or high is None else f"[{self.show(low)}, {self.show(high)}]"

    def signed(self, difference: float) -> str:
        """A difference as it is printed, with its sign; 0 has none."""
        text = self.show(difference)
        return text if text.startswith("-") or float(text) == 0 else f"+{text}"


ROUGE = {
    "rouge1": Facts("rouge1", "ROUGE-1"),
    "rouge2": Facts("rouge2", "ROUGE-2"),
    "rougeL": Facts("rougeL", "ROUGE-L"),
}
LSUM = Facts("rougeLsum", "ROUGE-Lsum")
assert tuple(ROUGE) == METRICS


@dataclass(frozen=True)
class Beside:
    """The values of every metric beside ROUGE over the runs of a comparison."""

    facts: Mapping[str, Facts] = field(default_factory=dict)
    """By metric, in the order in which they are shown."""
    values: Mapping[str, Mapping[str, Values]] = field(default_factory=dict)
    """By method and metric."""
    failures: tuple[str, ...] = ()
    """Why a metric is missing, a line each."""


def whole(value: object) -> TypeGuard[float]:
    """Whether `value` is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
