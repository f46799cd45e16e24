"""The score against what a method costs, and which methods are worth their cost: the frontier follows from tests."""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter
from matplotlib.transforms import Bbox

from bakeoff.report.comparison import MANY, Comparison, Row
from bakeoff.stats import frontier as stats

WIDE = 20
"""The axis is logarithmic where the dearest costs more than so many times the cheapest."""
BLUE, GREY = "#0072B2", "#777777"
BESIDE = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1))
"""Where a name is tried beside its point: to the right or left, above or below."""
SIDES, LEVELS = {1: "left", -1: "right", 0: "center"}, {1: "bottom", -1: "top"}


def trained(row: Row) -> float | None:
    """Trained parameters."""
    return row.parameters.trainable if row.parameters else None


def megabytes(row: Row) -> float | None:
    """The peak of the memory that was measured, of the device where it has counters of its own."""
    peak = row.memory_bytes["max_allocated"] or row.memory_bytes["max_resident"]
    return None if peak is None else peak / 1e6


def forgotten(row: Row) -> float | None:
    """By how much the cross-entropy of other text rose, nats per token."""
    return row.forgetting["after"] - row.forgetting["before"] if row.forgetting else None


COSTS: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    "parameters": ("trained parameters", trained),
    "seconds": ("seconds of training", lambda row: row.seconds["train"]),
    "memory": ("peak memory, MB", megabytes),
    "forgetting": ("forgetting, nats per token", forgotten),
}
"""What may stand on the horizontal axis."""


def costs(comparison: Comparison) -> dict[str, dict[str, float]]:
    """By cost, that of every method, where all have it and it is not the same for all."""
    found = {}
    for name, (_, figure) in COSTS.items():
        values = {row.name: figure(row) for row in comparison.methods}
        known = {method: value for method, value in values.items() if value is not None}
        if len(known) == len(values) and len(set(known.values())) > 1:
            found[name] = known
    return found


def frontier(comparison: Comparison, cost: Mapping[str, float]) -> list[str] | None:
    """From the cheapest method on, each that the corrected test finds above the one before; None without tests.

    A dearer method that can't be told from a cheaper one, whatever the means, is not worth its cost.
    """
    metric, sign = comparison.main, -1 if comparison.falls(comparison.main) else 1
    if comparison.alike(metric) is None:
        return None
    better = {
        frozenset((pair.first, pair.second)): comparison.better(pair)
        for pair in comparison.pairs
        if pair.metric == metric
    }
    means = {row.name: sign * comparison.mean(metric, row) for row in comparison.methods}
    return stats.frontier(cost, means, better)


def draw(comparison: Comparison, label: Callable[[str], str]) -> Figure | None:
    """One panel a cost; None where there is none, or fewer than two methods. `label` shortens a name."""
    found = costs(comparison)
    if len(comparison.methods) < 2 or not found:
        return None
    figure = Figure(figsize=(11, 4.6 * ((len(found) + 1) // 2)), layout="constrained")
    panels = figure.subplots((len(found) + 1) // 2, 2, squeeze=False).flatten()
    for ax, (name, cost) in zip(panels, found.items(), strict=False):
        panel(ax, comparison, cost)
        ax.set_xlabel(COSTS[name][0])
        ax.set_ylabel(f"{comparison.label(comparison.main)} x 100")
        if 0 < WIDE * min(cost.values()) < max(cost.values()):
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
            ax.xaxis.set_minor_formatter(NullFormatter())
        ax.margins(x=0.15)
    for ax in panels[len(found) :]:
        ax.set_visible(False)
    figure.draw_without_rendering()  # settles where things stand, so that names can be kept apart
    for ax, cost in zip(panels, found.values(), strict=False):
        names(ax, comparison, cost, label)
    return figure


def panel(ax: Any, comparison: Comparison, cost: Mapping[str, float]) -> None:
    """Means with intervals; filled and joined where a method is on the frontier."""
    steps = frontier(comparison, cost) or []
    rows = {row.name: row for row in comparison.methods}
    height, scale = heights(comparison), scale_of(comparison)
    if steps:
        ax.step([cost[name] for name in steps], [height[name] for name in steps], where="post", color=BLUE, lw=1)
    for name, row in rows.items():
        found, on = row.interval(comparison.main), name in steps
        colour = BLUE if on else GREY
        if found and found.low is not None and found.high is not None:
            ax.plot([cost[name]] * 2, [scale * found.low, scale * found.high], color=colour, lw=0.7, alpha=0.5)
        ax.plot(cost[name], height[name], color=colour, marker="o", ms=6, mfc=colour if on else "white")


def names(ax: Any, comparison: Comparison, cost: Mapping[str, float], label: Callable[[str], str]) -> None:
    """Writes names beside their points, those on the frontier first.

    With more than MANY methods a name that finds no room beside the others and the points is left out.
    """
    steps, height = frontier(comparison, cost) or [], heights(comparison)
    points = ax.transData.transform([(cost[name], height[name]) for name in height])
    taken: list[Bbox] = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in points] if len(height) > MANY else []
    for name in sorted(height, key=lambda name: name not in steps):
        on = name in steps
        look: dict[str, Any] = {"color": BLUE if on else GREY, "weight": "bold" if on else "normal", "fontsize": 7}
        for right, up in BESIDE:
            text = ax.annotate(label(name), (cost[name], height[name]), xytext=(5 * right, 5 * up), ha=SIDES[right],
                               textcoords="offset points", va=LEVELS[up], **look)  # fmt: skip
            box = text.get_window_extent()
            if len(height) <= MANY or not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def scale_of(comparison: Comparison) -> int:
    """By what the metric of the vertical axis is multiplied there."""
    return 100 if comparison.facts(comparison.main).share else 1


def heights(comparison: Comparison) -> dict[str, float]:
    """The mean of every method, as the vertical axis has it."""
    return {row.name: scale_of(comparison) * comparison.mean(comparison.main, row) for row in comparison.methods}


def caption(comparison: Comparison) -> str:
    """What the plot shows, with the methods on each frontier."""
    said = f"{comparison.label(comparison.main)} x 100 against the costs of every method, with 95 % intervals."
    for name, cost in costs(comparison).items():
        steps = frontier(comparison, cost)
        if steps is None:
            return f"{said} No frontier is drawn, because not every two methods were tested"
        said += f" Frontier by {COSTS[name][0]}: {', '.join(steps)}."
    crowded = " Names without room are left out." if len(comparison.methods) > MANY else ""
    return (
        f"{said}{crowded} Each method on it is above the one before by a corrected test; hollow ones are not worth "
        "their cost"
    )
