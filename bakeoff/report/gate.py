"""What the gate says: its table for a terminal and for Markdown, its failures, and a CI host's annotations."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from bakeoff.gate.verdicts import POWER, Gate, Verdict
from bakeoff.report import table
from bakeoff.report.comparison import points
from bakeoff.report.escape import markdown, plain, workflow, workflow_property
from bakeoff.report.figures import MISSING, ROUGE, listing

Quote = Callable[[str], str]
COLUMNS = ("metric", "verdict", "baseline", "measured", "difference", "p", f"found in {POWER:.0%}")
MOST = 12
"""Changes that are listed for a method."""


def text(gate: Gate) -> str:
    """For a terminal."""
    parts = [f"gate against {plain(gate.baseline)}"]
    if gate.verdicts:
        shown, left = table.fitted(frame(gate, plain), "method")
        parts.append(shown)
        if left:
            parts.append(f"not shown for want of room: {listing(left)}")
    return "\n\n".join([*parts, *lines(gate, plain)])


def markdown_table(gate: Gate) -> str:
    """As a section of Markdown."""
    parts = ["## Gate", f"Against {markdown(gate.baseline)}."]
    if gate.verdicts:
        parts.append(table.to_markdown(frame(gate, markdown), "method"))
    said = "\n".join(f"- {line}" for line in lines(gate, markdown))
    return "\n\n".join([*parts, said]) + "\n"


def frame(gate: Gate, quote: Quote) -> pd.DataFrame:
    """One verdict a row."""
    cells = [
        [
            label(one.metric),
            one.word or one.contrast.kind,
            points(one.accepted),
            points(one.measured),
            difference(one),
            probability(one.p),
            MISSING if one.smallest is None else points(one.smallest),
        ]
        for one in gate.verdicts
    ]
    return pd.DataFrame(cells, index=[quote(one.method) for one in gate.verdicts], columns=list(COLUMNS), dtype=object)


def label(metric: str) -> str:
    """What a metric is called; one beside ROUGE by its name."""
    return ROUGE.get(metric, metric)


def difference(one: Verdict) -> str:
    """Measured minus accepted, in points, with its 95 % interval."""
    found = one.contrast
    said = signed(found.difference)
    if found.low is None or found.high is None:
        return said
    return f"{said} [{points(found.low)}, {points(found.high)}]"


def signed(f1: float) -> str:
    """Points with their sign."""
    said = points(f1)
    return said if said.startswith("-") or float(said) == 0 else f"+{said}"


def probability(p: float) -> str:
    """Three digits, never 0."""
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def lines(gate: Gate, quote: Quote) -> list[str]:
    """How to read the table, what can't be told, what was refused and what changed; one sentence a line."""
    said = []
    if gate.verdicts:
        rouge = all(one.metric in ROUGE for one in gate.verdicts)
        scale = "of ROUGE, F1 x 100" if rouge else "scores x 100"
        said.append(
            f"Figures are points ({scale}), means over seeds and documents. Brackets hold the 95 % interval "
            f"over documents and seeds. p is corrected for {len(gate.verdicts)} verdicts (Holm). Regressed means worse "
            f"by more than {gate.tolerance:g} points with p below {gate.alpha:g}; inconclusive means the same with p "
            "not below it. The last column is the smallest true change for the worse that this comparison would find "
            f"in {POWER:.0%} of cases."
        )
    if any(one.word is None for one in gate.verdicts):
        said.append("Documents only: the variance between seeds is not known, so there is no verdict.")
    for one in gate.verdicts:
        if one.remedy:
            said.append(f"{quote(one.method)}, {label(one.metric)}, inconclusive: {one.remedy}.")
    said += [f"{quote(method)}, refused: {quote(reason)}" for method, reason in gate.refusals.items()]
    for method, changed in gate.changes.items():
        if changed:
            more = f" and {len(changed) - MOST} more" if len(changed) > MOST else ""
            said.append(f"{quote(method)}, changed since the baseline: {quote('; '.join(changed[:MOST]))}{more}.")
    if gate.absent:
        said.append(f"In the baseline, but not asked for: {quote(', '.join(gate.absent))}.")
    return said


def failure(gate: Gate, one: Verdict, accept: str) -> str:
    """Why a verdict is red, and what to do."""
    changed = "; ".join(gate.changes.get(one.method, ())[:MOST]) or "no setting and no version"
    parts = [
        f"{one.method} on {label(one.metric)}: {one.word or 'no verdict'}: {points(one.accepted)} -> "
        f"{points(one.measured)}, difference {difference(one)}, p {probability(one.p)}, tolerance {gate.tolerance:g}."
    ]
    if one.word is None:
        parts.append("Nothing measures the noise; type --set task.test=2 or more documents.")
    if one.smallest is not None:
        parts.append(f"Smallest change for the worse that is found in {POWER:.0%} of cases: {points(one.smallest)}.")
    if one.remedy:
        parts.append(f"To settle it: {one.remedy}.")
    return plain(" ".join([*parts, f"Changed since the baseline: {changed}. If this is wanted, type {accept}"]))


def figures(gate: Gate, one: Verdict) -> dict[str, Any]:
    """The figures of a verdict for a JUnit file, points of ROUGE."""
    found = one.contrast
    values = {
        "verdict": one.word or found.kind,
        "baseline": 100 * one.accepted,
        "measured": 100 * one.measured,
        "difference": 100 * found.difference,
        "low": None if found.low is None else 100 * found.low,
        "high": None if found.high is None else 100 * found.high,
        "p": found.p,
        "p_holm": one.p,
        "smallest_drop": None if one.smallest is None else 100 * one.smallest,
        "tolerance": gate.tolerance,
        "alpha": gate.alpha,
        "remedy": one.remedy,
        "changes": "; ".join(gate.changes.get(one.method, ())),
    }
    return {
        name: round(value, 4) if isinstance(value, float) and math.isfinite(value) else value
        for name, value in values.items()
        if value not in (None, "")
    }


def annotations(gate: Gate, strict: bool = False) -> list[str]:
    """GitHub's workflow commands for what turns the gate red, and a warning for what can't be told."""
    red = gate.failures(strict)
    said = [command("error", f"{method} refused", reason) for method, reason in gate.refusals.items()]
    for one in gate.verdicts:
        if one in red or one.word == "inconclusive":
            title = f"{one.method} {label(one.metric)} {one.word or 'no verdict'}"
            message = f"{points(one.accepted)} -> {points(one.measured)}, {difference(one)}, p {probability(one.p)}"
            said.append(command("error" if one in red else "warning", title, message))
    return said


def command(kind: str, title: str, message: str) -> str:
    """One workflow command, whatever stands in `title` and `message`."""
    return f"::{kind} title={workflow_property(title)}::{workflow(message)}"
