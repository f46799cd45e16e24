"""The settings of the methods: those in which they differ, those that they share, and what the limits truncated."""

from collections.abc import Sequence
from typing import Any

from bakeoff.report import table
from bakeoff.report.comparison import MANY, Row
from bakeoff.report.escape import clip, markdown
from bakeoff.report.figures import MISSING, listing, number

LONGEST = 1000
"""Characters of a setting's value that are shown."""


def differing(rows: Sequence[Row]) -> list[str]:
    """The settings in which the methods differ; of a single method, all."""
    keys = [key for key in every(rows) if len(rows) == 1 or not alike(rows, key)]
    if not keys:
        return ["The compared methods differ in no setting."] if rows else []
    if len(rows) > MANY:
        cells = [[markdown(row.name), own(row, keys)] for row in rows]
        return ["These settings differ between the methods:", table.text_table(["method", "settings"], cells)]
    header = ["setting", *(markdown(row.name) for row in rows)]
    cells = [[markdown(key), *(value(row, key) for row in rows)] for key in keys]
    intro = "These settings differ between the methods" if len(rows) > 1 else "Its settings"
    return [f"{intro} ({MISSING} means that a method has no such setting):", table.text_table(header, cells)]


def own(row: Row, keys: Sequence[str]) -> str:
    """The settings of a method among `keys`, on one line."""
    return ", ".join(f"{markdown(key)} {value(row, key)}" for key in keys if key in row.hyperparameters)


def shared(rows: Sequence[Row]) -> str:
    """The settings that are the same for all methods."""
    found = [f"{markdown(key)} {value(rows[0], key)}" for key in every(rows) if len(rows) > 1 and alike(rows, key)]
    return f"Shared by all: {', '.join(found)}." if found else "The methods share no setting."


def every(rows: Sequence[Row]) -> list[str]:
    """The names of all settings, each once."""
    return list(dict.fromkeys(key for row in rows for key in row.hyperparameters))


def alike(rows: Sequence[Row], key: str) -> bool:
    """Whether all methods have the setting at the same value."""
    return len({value(row, key) for row in rows}) == 1


def value(row: Row, key: str) -> str:
    """A setting as Markdown; a dash where the method has none of that name."""
    found: Any = row.hyperparameters.get(key, MISSING)
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, (list, tuple)):
        found = ", ".join(map(str, found))
    return markdown(clip(str(found), LONGEST)) or "(empty)"


def truncated(rows: Sequence[Row]) -> str:
    """How many documents and summaries were cut, of all three splits."""
    counted = [row for row in rows if row.truncated]
    if not counted:
        return "No run counted truncated documents."
    alike = {tuple(sorted(row.truncated.items())) for row in counted}
    if len(alike) == 1:
        [found] = alike
        amounts = listing([number(amount, name.removesuffix("s")) for name, amount in found])
        every_run = "the same in every run that feeds them to the model"
        return f"The task's limits truncated {amounts} over all splits, {every_run}."
    header = ["method", *sorted({name for row in counted for name in row.truncated})]
    cells = [[markdown(row.name), *(str(row.truncated.get(name, MISSING)) for name in header[1:])] for row in counted]
    return "The task's limits truncated, over all splits:\n\n" + table.text_table(header, cells)
