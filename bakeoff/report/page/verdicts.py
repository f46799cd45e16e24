"""Verdicts of the gate as the page's table has them, from a gate or from a line of a history."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bakeoff.gate.verdicts import Gate
from bakeoff.report.figures import p_value
from bakeoff.report.page.metrics import Metric


def of_gate(gate: Gate, result: str, against: str, metrics: Mapping[str, Metric]) -> list[dict[str, Any]]:
    """A row for each verdict on `result`."""
    return [
        row(result, against, one.method, metrics[one.metric], one.word, one.contrast.difference, one.p)
        for one in gate.verdicts
        if one.metric in metrics
    ]


def recorded(gate: Mapping[str, Any] | None, result: str, metrics: Mapping[str, Metric]) -> list[dict[str, Any]]:
    """The rows of what a line of a history, or details.json, holds of the gate; none where there was no gate."""
    if not gate:
        return []
    against = gate.get("baseline", "")
    said = [
        row(result, against, method, metrics[key], one["verdict"], one["difference"], one["p_holm"])
        for method, found in gate.get("verdicts", {}).items()
        for key, one in found.items()
        if key in metrics
    ]
    for method, reason in gate.get("refusals", {}).items():
        said.append(row(result, against, method, None, f"refused: {reason}", None, None))
    return said


def row(
    result: str, against: str, method: str, one: Metric | None, verdict: str | None, difference: float | None,
    p: float | None,
) -> dict[str, Any]:  # fmt: skip
    """One verdict as numbers and text."""
    return {
        "result": result, "against": Path(against).name, "method": method, "metric": one.label if one else "",
        "verdict": verdict or "documents only", "value": difference,
        "difference": "" if difference is None or one is None else one.signed(difference),
        "p": "" if p is None else p_value(p), "pValue": p,
    }  # fmt: skip
