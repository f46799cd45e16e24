"""Plots: training and validation loss of all trained methods, ROUGE of all rows."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bakeoff.report.comparison import MANY, Comparison, Row
from bakeoff.report.figures import ROUGE
from bakeoff.report.plots import pareto
from bakeoff.report.plots.drawing import COLOURS, DASHES, GREY, MARKERS, STYLE, UNIT, Image, label, save


def draw(comparison: Comparison, folder: Path) -> list[Image]:
    """Writes the plots into `folder`, removes those that an earlier report left there, and returns them in order."""
    images = []
    # A name's letter that the font lacks becomes a box; that is no reason for a warning.
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        if comparison.rows:
            caption = "ROUGE F1 x 100 of every method and control, with 95 % intervals"
            images.append(save(rouge(comparison), folder / "rouge.png", caption, first=True))
        if (figure := pareto.draw(comparison, label)) is not None:
            images.append(save(figure, folder / "pareto.png", pareto.caption(comparison)))
        drawn = [row for row in comparison.methods if any(curve(run.epochs, "validation_loss")[0] for run in row.runs)]
        if drawn:
            caption = "Training and validation loss of every trained method by epoch; a ring marks the evaluated epoch"
            images.append(save(loss(drawn), folder / "loss.png", caption))
    kept = {image.path for image in images}
    whole = ("rouge.png", "pareto.png", "loss.png", "validation.png")
    for stale in [*(folder / name for name in whole), *folder.glob("loss-*.png")]:
        if stale not in kept:
            stale.unlink(missing_ok=True)
    return images


def curve(points: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Epochs and values of `key`, where it was measured."""
    seen = [(float(point["epoch"]), float(point[key])) for point in points if point.get(key) is not None]
    return [epoch for epoch, _ in seen], [value for _, value in seen]


def curves(runs: Sequence[Sequence[dict[str, Any]]], key: str) -> tuple[list[float], list[float]]:
    """The curves of several runs as one that is broken between them: thousands of lines would take a gigabyte."""
    x: list[float] = []
    y: list[float] = []
    for points in runs:
        ends, values = curve(points, key)
        x += [*ends, math.nan]
        y += [*values, math.nan]
    return x, y


def loss(rows: Sequence[Row]) -> Figure:
    """Mean training loss of each epoch and validation loss, a panel each, methods told apart by colour, marker, dashes.

    Each seed has a line of its own.
    """
    columns = 1 + len(rows) // 30
    figure = Figure(figsize=(11, max(4.0, 1 + 0.25 * len(rows) / columns)), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    for ax, title in ((left, "Training loss, mean of the epoch"), (right, "Validation loss")):
        ax.set(title=title, xlabel="epoch", ylabel=UNIT)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for place, row in enumerate(rows):
        look: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)], "ms": 4}
        look["marker"] = MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]
        look["ls"] = DASHES[place // len(COLOURS) % len(DASHES)]
        epochs = [run.epochs for run in row.runs]
        ends, means = curves(epochs, "training_loss")
        left.plot([end - 0.5 for end in ends], means, **look)  # a mean over an epoch stands in its middle
        right.plot(*curves(epochs, "validation_loss"), **look, label=label(row.name))
        best = [[point for point in points if point.get("best")] for points in epochs]
        ring = {"marker": "o", "ms": 10 if len(rows) <= MANY else 6, "mfc": "none"}
        right.plot(*curves(best, "validation_loss"), color="black", ls="", **ring)
    figure.legend(loc="outside right upper", ncols=columns)
    return figure


def rouge(comparison: Comparison) -> Figure:
    """Means with intervals, one panel a metric, one line a row; methods above, controls hollow and grey below."""
    rows = [*comparison.ordered, *comparison.controls]
    figure = Figure(figsize=(10, 1.6 + 0.32 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(ROUGE), sharey=True)
    for ax, (metric, name) in zip(panels, ROUGE.items(), strict=True):
        for place, row in enumerate(rows):
            found = row.rouge[metric]
            colour = GREY if row.control else COLOURS[0]
            if found.low is not None and found.high is not None:
                ax.plot([100 * found.low, 100 * found.high], [place, place], color=colour, lw=1.5)
            ax.plot(100 * found.mean, place, color=colour, marker="o", ms=6, mfc="white" if row.control else colour)
        ax.set_xlabel(f"{name} F1 x 100")
        left, right = ax.get_xlim()
        ax.set_xlim(min(0.0, left), max(5.0, right))  # where all score 0, no axis of thousandths
        ax.xaxis.set_major_locator(MaxNLocator(5))
    panels[0].set_yticks(range(len(rows)), [label(row.name) for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    filled, hollow = (
        "filled: trained methods" * bool(comparison.methods),
        "hollow: controls" * bool(comparison.controls),
    )
    key = "; ".join(part for part in (filled, hollow) if part)
    documents = len(comparison.document_ids)
    figure.suptitle(f"Mean over {documents} test documents, with its 95 % interval ({key})", fontsize=10)
    return figure
