"""The report of a GPU as Markdown: every figure is measured, every ratio is computed from the table."""

import math
from typing import Any

from tabulate import tabulate

from bakeoff.engine.cuda.fused import REPAYS

OPPONENT = "Trainer, PEFT, generate"
OURS = "Bakeoff"
COMPILED = f"{OURS}, compiled layers"
AIMS = {"135M": (4.0, 10.0), "7B": (1.3, None)}
"""What was aimed at, by shape: training and writing, times the opponent's tokens a second."""


def text(found: dict[str, Any]) -> str:
    """Markdown of what `measured` found."""
    card = found["environment"].get("gpu")
    title = f"Bakeoff on {card}" if card else "A rehearsal without a GPU: its figures say nothing of one"
    made = [row for row in found["checks"] if row["holds"] is not None]
    failed = [row["name"] for row in made if not row["holds"]]
    verdict = f"{len(failed)} of {len(made)} checks failed." if failed else "Every check that was made holds."
    parts = [f"# {title}", f"`python -m lab.gpu` took {found['seconds']:.0f} s. {verdict}"]
    words = {True: "holds", False: "FAILS", None: "not made"}
    checks = [(row["name"], words[row["holds"]], row["says"]) for row in found["checks"]]
    parts += ["## Checks", table(checks, ("check", "outcome", "what was found"))]
    parts += ["## Speed and memory", ABOUT, table([line(row, found["rows"]) for row in found["rows"]], COLUMNS)]
    parts += [f"- {sentence}" for sentence in aims(found["rows"]) + repays(found["rows"])]
    if reasons := sorted({row["reason"] for row in found["rows"] if row.get("reason") and row["arm"] == OURS}):
        parts.append("Not faster because: " + "; ".join(reasons) + ".")
    environment = [(name, str(value)) for name, value in sorted(found["environment"].items())]
    return "\n\n".join([*parts, "## Environment", table(environment, ("name", "value"))]) + "\n"


ABOUT = """Models have random weights of known shapes, and documents random tokens of random lengths. All arms train a
LoRA for one epoch with the same batches, and write the same number of tokens after the same prompts. "x" is tokens a
second divided by those of Trainer or `generate`. flash-attn, Unsloth and vLLM are compared where they are installed.
The estimate is that of `bakeoff parameters --memory` for the micro-batches of the training. A dash means that the
figure was not measured."""
COLUMNS = ("shape", "arm", "training, tokens/s", "x", "writing, tokens/s", "x", "training, peak GB",
           "estimated", "writing, peak GB")  # fmt: skip


def line(row: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """A row of the table."""
    if "failed" in row:
        return row["shape"], row["arm"], row["failed"], *("–",) * 6
    cells: list[str] = []
    for what in ("training", "writing"):
        cells += [f"{row[what]:,.0f}" if what in row else "–", shown(ratio(row, rows, what))]
    peaks = [row.get(f"{what} bytes") for what in ("training", "estimated", "writing")]
    return row["shape"], row["arm"], *cells, *("–" if peak is None else f"{peak / 1e9:.2f}" for peak in peaks)


def ratio(row: dict[str, Any], rows: list[dict[str, Any]], what: str) -> float | None:
    """Tokens a second of `row` over the opponent's; None where either is missing."""
    [other] = [one for one in rows if one["shape"] == row["shape"] and one["arm"] == OPPONENT]
    return row[what] / other[what] if what in row and what in other else None


def shown(value: float | None) -> str:
    """A ratio, or a dash."""
    return "–" if value is None else f"{value:.2f}"


def aims(rows: list[dict[str, Any]]) -> list[str]:
    """A sentence for every aim whose figure was measured."""
    found = []
    for row in rows:
        aim = AIMS.get(row["shape"]) if row["arm"] in (OURS, COMPILED) else None
        for what, least in zip(("training", "writing"), aim or (), strict=False):
            value = ratio(row, rows, what)
            if least is not None and value is not None:
                verdict = "reaches" if value >= least else "misses"
                what_of = f"{row['shape']}, {what}, {row['arm']}"
                found.append(f"{what_of}: {value:.2f} times {OPPONENT} {verdict} the aim of {least:g}.")
    return found + lighter(rows)


def lighter(rows: list[dict[str, Any]]) -> list[str]:
    """Whether Bakeoff's peaks are below the opponent's, a sentence for each that was measured of both."""
    found = []
    for row in (one for one in rows if one["arm"] in (OURS, COMPILED)):
        [other] = [one for one in rows if one["shape"] == row["shape"] and one["arm"] == OPPONENT]
        for what in ("training", "writing"):
            ours, theirs = (one.get(f"{what} bytes") for one in (row, other))
            if ours is not None and theirs is not None:
                verdict = "below" if ours < theirs else "not below"
                found.append(
                    f"{row['shape']}, {what}, {row['arm']}: a peak of {ours / 1e9:.2f} GB is {verdict} the "
                    f"{theirs / 1e9:.2f} GB of {OPPONENT}."
                )
    return found


def repays(rows: list[dict[str, Any]]) -> list[str]:
    """From how many optimizer steps on compiled layers pay, a sentence for every shape for which both were measured."""
    found = []
    for row in rows:
        others = [one for one in rows if one["shape"] == row["shape"] and one["arm"] == OURS and "step, s" in one]
        if row["arm"] != COMPILED or "step, s" not in row or not others:
            continue
        if row.get("uncompiled"):
            found.append(f"{row['shape']}: layers were not compiled: {row['uncompiled']}.")
            continue
        took, saved = (others[0][what] - row[what] for what in ("preparing, s", "step, s"))
        said = f"{row['shape']}: to compile the layers takes {-took:.1f} s and saves {1000 * saved:.1f} ms a step"
        pays = f"it pays from {math.ceil(-took / saved):,} steps on" if saved > 0 else "it does not pay"
        found.append(f"{said}; {pays} (Bakeoff compiles from {REPAYS:,} on).")
    return found


def table(rows: Any, headers: tuple[str, ...]) -> str:
    """A Markdown table."""
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)
