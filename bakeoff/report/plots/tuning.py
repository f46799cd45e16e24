"""The plot of a tuning: validation loss over what was tried, one panel a method."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from bakeoff.report.plots.drawing import COLOURS, GREY, MARKERS, STYLE, UNIT, Image, label, save
from bakeoff.report.tuning.record import Trial, lowest, numeric, ranked
from bakeoff.report.tuning.table import shown

KEY = "ring: best, triangle: not below the untrained model's, cross: diverged or died"
COLUMNS = 3
"""Panels beside each other."""
LINES = 6
"""Lines of a panel; with more, trials are points."""
TICKS = 9
"""Values that are written below an axis."""


def draw(trials: Mapping[str, Sequence[Trial]], path: Path, preset: str) -> Image:
    """Writes the plot of a preset's trials to `path`."""
    columns = min(COLUMNS, len(trials))
    rows = math.ceil(len(trials) / columns)
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(max(6.0, 4 * columns), 0.7 + 3.2 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, (name, ours) in zip(panels, trials.items(), strict=False):
            panel(ax, name, ours)
        for ax in panels[len(trials) :]:
            ax.remove()
        figure.supylabel(f"validation {UNIT}", fontsize=10)
        figure.suptitle(f"Preset {label(preset)}: lowest loss of any epoch\n{KEY}", fontsize=10)
        return save(figure, path, "Validation loss of every trial, by method")


def panel(ax: Any, name: str, trials: Sequence[Trial]) -> None:
    """The trials of a method over the setting that has most values; other settings tell lines apart."""
    key = across(trials)
    places = positions(trials, key)
    groups = grouped(trials, key)
    joined = bool(key) and len(groups) <= LINES
    if len(groups) > LINES:
        groups = {"": list(trials)}
    finite = [trial for trial in trials if trial.validation_loss is not None]
    top = ceiling(finite)
    for number, (text, ours) in enumerate(groups.items()):
        inside = sorted((places[id(trial)], trial.loss) for trial in ours if trial.loss <= top)
        ax.plot([place for place, _ in inside], [loss for _, loss in inside], color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)], ms=5, ls="-" if joined else "", lw=1.2, label=text)  # fmt: skip
    for trial in trials:
        if trial.loss > top or trial.validation_loss is None:
            ax.plot(places[id(trial)], 0.97, transform=ax.get_xaxis_transform(), color=GREY, ls="", ms=7,
                    marker="^" if trial in finite else "x")  # fmt: skip
    if finite:
        best = lowest(trials)
        ax.plot(places[id(best)], best.loss, color="black", ls="", marker="o", ms=12, mfc="none")
    scale(ax, key, trials, places)
    ax.set_title(label(name), fontsize=10)
    if len(groups) > 1:
        ax.legend(fontsize=8)


def across(trials: Sequence[Trial]) -> str:
    """The numeric setting with most values, which the axis shows; empty where no number was varied."""
    varied = {key: len({trial.settings[key] for trial in trials})
              for key, value in trials[0].settings.items() if numeric(value)}  # fmt: skip
    key = max(varied, key=lambda key: varied[key], default="")
    return key if key and varied[key] > 1 else ""


def others(trial: Trial, trials: Sequence[Trial], key: str) -> str:
    """What was varied beside the setting that the axis shows, as a trial has it, in words."""
    varied = [name for name, value in trial.settings.items()
              if name != key and any(other.settings[name] != value for other in trials)]  # fmt: skip
    return "\n".join(f"{name} {shown(trial.settings[name])}" for name in varied)


def positions(trials: Sequence[Trial], key: str) -> dict[int, float]:
    """Where each trial stands on the axis, by its id: its value, or its number where no number was varied."""
    return {id(trial): trial.settings[key] if key else number for number, trial in enumerate(trials)}


def grouped(trials: Sequence[Trial], key: str) -> dict[str, list[Trial]]:
    """Trials that differ in the axis's setting alone, by their other settings."""
    found: dict[str, list[Trial]] = {}
    ordered = sorted(trials, key=lambda trial: [ranked(value) for value in trial.settings.values()])
    for trial in ordered if key else trials:
        found.setdefault(others(trial, trials, key) if key else "", []).append(trial)
    return found


def ceiling(finite: Sequence[Trial]) -> float:
    """The loss above which trials stand at the upper edge: that before training, unless training lowered none."""
    before = max((losses[0] for trial in finite for losses in trial.by_epoch.values() if losses), default=math.inf)
    return before if any(trial.loss < before for trial in finite) else math.inf


def scale(ax: Any, key: str, trials: Sequence[Trial], places: Mapping[int, float]) -> None:
    """The axis of what was tried: logarithmic for positive numbers, and named where no number was varied."""
    if not key:
        ax.set_xticks(list(places.values()), [others(trial, trials, key) for trial in trials], fontsize=8)
        return
    ax.set_xlabel(key)
    values = sorted(set(places.values()))
    if values[0] > 0:
        ax.set_xscale("log")
    if len(values) <= TICKS:
        named = spaced(values, places[id(lowest(trials))])
        ax.set_xticks(named, [f"{value:.3g}" for value in named], rotation=40, fontsize=8)
        ax.minorticks_off()


def spaced(values: Sequence[float], best: float) -> list[float]:
    """The values that can be written below an axis: `best`, and of the others those that leave room between."""
    where = {value: math.log(value) if values[0] > 0 else value for value in values}
    room = (where[values[-1]] - where[values[0]]) / TICKS
    found = [best]
    for value in values:
        if all(abs(where[value] - where[other]) >= 0.9 * room for other in found):
            found.append(value)
    return sorted(found)
