"""The history of a preset as a table for a terminal."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bakeoff.core.errors import UsageError, nearest
from bakeoff.report import figures
from bakeoff.report.escape import plain
from bakeoff.report.exports.results import number
from bakeoff.report.figures import MISSING
from bakeoff.report.page.metrics import Metric
from bakeoff.report.page.metrics import metric as metric_of
from bakeoff.report.table import WIDTH, fitted

WORST = ("regressed", "inconclusive", "passed", "improved")
"""Verdicts, the one that is looked at first above."""


def render(preset: str, lines: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> str:
    """One row a method of each bake-off, the newest below. Raises UsageError for a metric that no line has."""
    known = sorted({metric for line in lines for one in line["methods"].values() for metric in scored(one)})
    for metric in metrics:
        if metric not in known:
            raise UsageError(f"--metric {metric!r}: no bake-off of {preset} has it; {nearest(metric, known)}")
    metrics_of = {metric: metric_of(metric, lines[-1]) for metric in metrics}
    rows = [
        {
            "finished (UTC)": plain(line["finished"][:16].replace("T", " ")) or MISSING,
            "version": version(line),
            "method": plain(name),
            **{metrics_of[metric].label: score(scored(one), metric_of(metric, line)) for metric in metrics},
            "gate": verdict(line.get("gate"), name),
            "seconds": seconds(one),
            "model": plain(line["model"]),
        }
        for line in sorted(lines, key=lambda line: line["finished"])
        for name, one in line["methods"].items()
    ]
    if not rows:
        return f"{plain(preset)}: no bake-off"
    frame = pd.DataFrame(rows, dtype=object).set_index("finished (UTC)")
    frame = frame.loc[:, (frame != MISSING).any()]
    shown, left = fitted(frame, "finished (UTC)")
    more = f"\n\nnot shown for want of room: {figures.listing(left)}" if left else ""
    units: dict[str, list[str]] = {}
    for one in metrics_of.values():
        units.setdefault(one.unit, []).append(one.label)
    said = [f"{figures.listing(labels)} in {unit}." for unit, labels in units.items() if unit]
    key = textwrap.fill(" ".join(["Brackets hold 95 % intervals.", *said]), WIDTH)
    return f"{plain(preset)}\n\n{shown}\n\n{key}{more}"


def scored(method: Mapping[str, Any]) -> dict[str, Any]:
    """Means with intervals by metric."""
    return {**method["rouge"], **(method.get("metrics") or {})}


def version(line: Mapping[str, Any]) -> str:
    """Bakeoff's version, and the commit where it is known."""
    return plain(" ".join(filter(None, [line["bakeoff"], str(line.get("commit") or "")])))


def score(found: Mapping[str, Any], metric: Metric) -> str:
    """Mean and interval, as the page prints them."""
    one = found.get(metric.key)
    if not isinstance(one, dict) or not number(one.get("mean")):
        return MISSING
    low, high = one.get("low"), one.get("high")
    return metric.show(one["mean"]) + (
        f" [{metric.show(low)}, {metric.show(high)}]" if number(low) and number(high) else ""
    )


def seconds(method: Mapping[str, Any]) -> str:
    """Of a whole run."""
    found = method.get("seconds")
    value = found.get("total") if isinstance(found, dict) else None
    return figures.seconds(value) if number(value) else MISSING


def verdict(gate: Any, method: str) -> str:
    """The worst verdict of a method over all metrics; a dash where no gate judged it."""
    if not isinstance(gate, dict):
        return MISSING
    if method in (gate.get("refusals") or {}):
        return "refused"
    said = [str(one.get("verdict") or "no verdict") for one in (gate.get("verdicts") or {}).get(method, {}).values()]
    return min(said, key=lambda word: WORST.index(word) if word in WORST else -1, default=MISSING)
