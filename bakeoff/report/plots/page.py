"""Plots: training and validation loss of each trained method, validation loss of all, ROUGE of all rows."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bakeoff.report.comparison import Comparison, Row
from bakeoff.report.figures import ROUGE
from bakeoff.report.plots import pareto
from bakeoff.report.plots.drawing import COLOURS, DASHES, GREY, MARKERS, STYLE, UNIT, Image, label, save


def draw(comparison: Comparison, folder: Path) -> list[Image]:
    """Writes the plots into `folder`, removes those that an earlier report left there, and returns them in order."""
    images = []
    names = slugs([row.name for row in comparison.methods])
    # A name's letter that the font lacks becomes a box; that is no reason for a warning.
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        if comparison.rows:
            caption = "ROUGE F1 x 100 of every method and control, with 95 % intervals over documents"
            images.append(save(rouge(comparison), folder / "rouge.png", caption))
        if (figure := pareto.draw(comparison, label)) is not None:
            images.append(save(figure, folder / "pareto.png", pareto.caption(comparison)))
        drawn = [row for row in comparison.methods if any(curve(run.epochs, "validation_loss")[0] for run in row.runs)]
        if drawn:
            caption = "Validation loss of every trained method by epoch"
            images.append(save(validation(drawn), folder / "validation.png", caption))
        for row in drawn:
            caption = f"Training and validation loss of {row.name} by epoch"
            images.append(save(training(row), folder / f"loss-{names[row.name]}.png", caption))
    kept = {image.path for image in images}
    whole = ("rouge.png", "pareto.png", "validation.png")
    for stale in [*(folder / name for name in whole), *folder.glob("loss-*.png")]:
        if stale not in kept:
            stale.unlink(missing_ok=True)
    return images


def slugs(names: Sequence[str]) -> dict[str, str]:
    """A file name's part for each name: lower-case letters, digits and hyphens, all different."""
    found: dict[str, str] = {}
    for name in names:
        slug = base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "method"
        number = 2
        while slug in found.values():
            slug, number = f"{base}-{number}", number + 1
        found[name] = slug
    return found


def curve(points: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Epochs and values of `key`, where it was measured."""
    seen = [(float(point["epoch"]), float(point[key])) for point in points if point.get(key) is not None]
    return [epoch for epoch, _ in seen], [value for _, value in seen]


def by_step(row: Row, number: int) -> tuple[list[float], list[float]]:
    """Epochs, as fractions, and training losses of the optimizer steps of a run."""
    steps = row.runs[number].steps
    each = max(point["step"] for point in steps) / max(1, *(point["epoch"] for point in steps))
    return [point["step"] / each for point in steps], [point["loss"] for point in steps]


def axes(figure: Figure, title: str) -> Any:
    """The axes of a loss plot: whole epochs from left to right."""
    ax = figure.add_subplot(title=title, xlabel="epoch", ylabel=UNIT)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def training(row: Row) -> Figure:
    """Loss of one method: every optimizer step, and validation after every epoch with the evaluated one marked."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = axes(figure, f"{label(row.name)}: training and validation loss")
    for number, run in enumerate(row.runs):
        first = number == 0
        if run.steps:
            ax.plot(*by_step(row, number), color=COLOURS[5], lw=0.8, label="training, each step" if first else None)
        ends, means = curve(run.epochs, "training_loss")
        middles = [end - 0.5 for end in ends]  # a mean over an epoch stands in its middle
        ax.plot(middles, means, color=COLOURS[0], ls="--", marker="o", ms=4,
                label="training, mean of the epoch" if first else None)  # fmt: skip
        ax.plot(*curve(run.epochs, "validation_loss"), color=COLOURS[1], marker="s", ms=4,
                label="validation" if first else None)  # fmt: skip
        ax.plot(*curve([point for point in run.epochs if point.get("best")], "validation_loss"), color="black", ls="",
                marker="o", ms=11, mfc="none", label="epoch that was evaluated" if first else None)  # fmt: skip
    ax.margins(y=0.08)
    figure.legend(loc="outside right upper", title=f"{len(row.runs)} seeds" if len(row.runs) > 1 else None)
    return figure


def validation(rows: Sequence[Row]) -> Figure:
    """Validation loss of all methods, told apart by colour, marker and dashes."""
    figure = Figure(figsize=(7, max(4.0, 1 + 0.25 * len(rows))), layout="constrained")
    ax = axes(figure, "Validation loss")
    for place, row in enumerate(rows):
        for number, run in enumerate(row.runs):
            ax.plot(*curve(run.epochs, "validation_loss"), color=COLOURS[place % len(COLOURS)],
                    marker=MARKERS[place % len(MARKERS)], ms=5, ls=DASHES[place // len(COLOURS) % len(DASHES)],
                    label=label(row.name) if number == 0 else None)  # fmt: skip
    figure.legend(loc="outside right upper")
    return figure


def rouge(comparison: Comparison) -> Figure:
    """Means with intervals, one panel a metric, one line a row; methods above, controls hollow and grey below."""
    rows = comparison.rows
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
    figure.suptitle(f"Mean and 95 % interval over {len(comparison.document_ids)} test documents ({key})", fontsize=10)
    return figure
