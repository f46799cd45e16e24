"""The metrics of a result: what they are called, how they are printed, and which value is the better one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bakeoff.report.figures import MISSING, ROUGE

LABELS = {**ROUGE, "rougeLsum": "ROUGE-Lsum"}
FIRST = "rougeL"
"""The metric that is shown first, if a result has it."""


@dataclass(frozen=True)
class Metric:
    """One metric as the page shows it."""

    key: str
    label: str
    unit: str
    """How a value is printed, behind the label on an axis; may be empty."""
    factor: int
    """By what a value is multiplied before it is printed."""
    falls: bool
    """Whether the lower value is the better one."""

    def show(self, value: float | None) -> str:
        """A value with two decimals; a dash for None."""
        return MISSING if value is None else f"{round(self.factor * value, 2) + 0.0:.2f}"  # + 0.0: never "-0.00"

    def bounds(self, interval: Mapping[str, Any]) -> str:
        """The bounds of an interval in brackets; empty where there are none."""
        low, high = interval["low"], interval["high"]
        return "" if low is None or high is None else f"[{self.show(low)}, {self.show(high)}]"

    def signed(self, difference: float) -> str:
        """A difference with its sign; 0 has none."""
        text = self.show(difference)
        return text if text.startswith("-") or float(text) == 0 else f"+{text}"


def metric(key: str, content: Mapping[str, Any]) -> Metric:
    """What `content`, a results.json or a line of a history, says of a metric; of an unknown one, its key."""
    known = (content.get("metrics") or {}).get(key, {})
    if key in LABELS:
        return Metric(key, LABELS[key], "F1 x 100", 100, False)
    label = known.get("label") or key
    share = known.get("range") == [0, 1]
    return Metric(
        key, label, "x 100" if share and "%" not in label else "", 100 if share else 1, known.get("better") == "lower"
    )
