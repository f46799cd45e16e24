"""The table of a tuning's trials, and what they advise to put into the preset, as plain text."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from bakeoff.report.escape import clip, plain
from bakeoff.report.tuning.record import Trial, lowest, numeric

Trials = Mapping[str, Sequence[Trial]]
"""The trials of each method."""


def render(trials: Trials, rows: Mapping[str, Mapping[str, Any]], notes: Sequence[str], preset: str) -> str:
    """The table, then `notes`, then the tables to put into `preset`; `rows` are what makes a row of a method there."""
    parts = [table(trials), "\n".join(f"note: {plain(note)}" for note in notes), advice(trials, rows, preset)]
    return "\n\n".join(part for part in parts if part)


def table(trials: Trials) -> str:
    """One trial a line, by method and then by settings, the best of each method marked."""
    keys = list(dict.fromkeys(key for ours in trials.values() for trial in ours for key in trial.settings))
    lines = [line(trial, keys, trial is lowest(ours)) for ours in trials.values() for trial in ordered(ours)]
    align = ("left", *["right"] * (len(keys) + 2), "left")
    headers = ["method", *keys, "validation loss", "epoch", ""]
    return tabulate(lines, headers=headers, tablefmt="simple", colalign=align, disable_numparse=True)


def line(trial: Trial, keys: Sequence[str], best: bool) -> list[str]:
    """The cells of a trial."""
    values = [shown(trial.settings[key]) if key in trial.settings else "-" for key in keys]
    if trial.validation_loss is None:
        return [plain(trial.method), *values, "-", "-", "diverged" if trial.diverged else plain(f"died: {trial.cause}")]
    return [plain(trial.method), *values, f"{trial.validation_loss:.4f}", epochs(trial), "best" if best else ""]


def ordered(trials: Sequence[Trial]) -> list[Trial]:
    """Trials by their settings, numbers by size."""
    return sorted(trials, key=lambda trial: [(not numeric(v), v if numeric(v) else 0, shown(v))
                                             for v in trial.settings.values()])  # fmt: skip


def epochs(trial: Trial) -> str:
    """The epoch of the lowest loss, of each seed."""
    found = [1 + losses[1:].index(min(losses[1:])) for losses in trial.by_epoch.values() if len(losses) > 1]
    return ", ".join(map(str, found)) or "-"


def shown(value: Any) -> str:
    """A setting's value, short enough for a cell."""
    text = f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else toml(value)
    return plain(clip(text, 40))


def advice(trials: Trials, rows: Mapping[str, Mapping[str, Any]], preset: str) -> str:
    """What to put into the preset: a table with the best settings of each method that has any."""
    best = [lowest(ours) for ours in trials.values()]
    parts = [
        "\n".join(preset_table(trial, rows.get(trial.method, {})))
        for trial in best
        if trial.validation_loss is not None
    ]
    return "\n\n".join([f"put into {plain(preset)}:", *parts]) if parts else ""


def preset_table(trial: Trial, row: Mapping[str, Any]) -> Iterator[str]:
    """The lines of `[methods.NAME]` with a trial's settings."""
    yield f"[methods.{key_of(trial.method)}]  # validation loss {trial.validation_loss:.4f}"
    for key, value in {**row, **trial.settings}.items():
        yield f"{key_of(key)} = {toml(value)}"


def key_of(name: str) -> str:
    """A key of a TOML file, in quotes where it needs them."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml(name)


def toml(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key_of(key)} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)
