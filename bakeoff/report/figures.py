"""Figures as they are printed, with their units; what was not measured prints as a dash."""

from collections.abc import Callable, Sequence

from bakeoff.report.comparison import MANY, Comparison, points
from bakeoff.scoring import api as scoring
from bakeoff.stats.intervals import Interval

MISSING = "–"
ROUGE = {name: facts.label for name, facts in scoring.ROUGE.items()}
SHOWN = {**ROUGE, scoring.LSUM.name: scoring.LSUM.label}
"""With the one that is shown and gets no verdict."""
MEMORY = {
    "allocated": "allocated memory",
    "max_allocated": "peak allocated memory",
    "reserved": "reserved memory",
    "max_reserved": "peak reserved memory",
    "resident": "resident memory",
    "max_resident": "peak resident memory",
}


def shown(comparison: Comparison) -> dict[str, scoring.Facts]:
    """Every metric of a comparison, ROUGE first."""
    return {**scoring.ROUGE, scoring.LSUM.name: scoring.LSUM, **comparison.beside}


def titled(facts: scoring.Facts) -> str:
    """A metric's name with its unit."""
    if facts.name.startswith("rouge") and facts.name in (*scoring.ROUGE, scoring.LSUM.name):
        return f"{facts.label} F1 x 100"
    return facts.label if not facts.share or "%" in facts.label else f"{facts.label} x 100"


def cell(value: float | None, show: Callable[[float], str]) -> str:
    """`value` under `show`; a dash for None."""
    return MISSING if value is None else show(value)


def bounds(interval: Interval) -> str:
    """The interval's bounds, F1 x 100, in brackets; empty where there are none."""
    return span(interval.low, interval.high)


def span(low: float | None, high: float | None) -> str:
    """Two bounds, F1 x 100, in brackets; empty where there are none."""
    return "" if low is None or high is None else f"[{points(low)}, {points(high)}]"


def signed(f1: float) -> str:
    """A difference, F1 x 100, with its sign; 0 has none."""
    text = points(f1)
    return text if text.startswith("-") or float(text) == 0 else f"+{text}"


def p_value(p: float) -> str:
    """A p value with three decimals, never as 0."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def seconds(value: float) -> str:
    """Seconds with one decimal; below 0.1 with one significant digit, so that what took time never prints as 0."""
    return f"{value:,.1f}" if value >= 0.1 or value == 0 else f"{value:.1g}"


def nats(value: float) -> str:
    """Nats per token with three decimals."""
    return f"{value:.3f}"


def rate(value: float) -> str:
    """A rate in whole numbers."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def count(value: float) -> str:
    """A whole number with separators."""
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes with a decimal unit and three digits."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if round(value / factor, 2) >= 1:
            return f"{value / factor:,.2f} {unit}"
    return f"{value:,.0f} B"


def share(part: float, whole: float) -> str:
    """Percent with three significant digits."""
    return f"{100 * part / whole:.3g} %" if whole else "0 %"


def listing(words: Sequence[str], most: int = MANY) -> str:
    """`a`, `a and b`, `a, b and c`; of more than `most` the first ones and how many more there are."""
    if len(words) > most:
        words = [*words[: most - 1], f"{len(words) - most + 1:,} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def number(amount: int, noun: str) -> str:
    """`1 document`, `2 documents`."""
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")
