"""`bakeoff history`: the bake-offs of a preset, one below the other."""

import argparse
from typing import Any

from bakeoff.cli.options import command
from bakeoff.core.errors import UsageError


def add(commands: Any) -> None:
    """Adds `history`."""
    found = command(
        commands,
        "history",
        "the bake-offs that were finished, with scores, seconds and verdicts",
        "Reads reports/history/PRESET.jsonl, to which every finished bake-off appends a line.",
    )
    found.add_argument("preset", nargs="?", default="", metavar="PRESET|FILE.jsonl", help="default: all presets")
    found.add_argument("--metric", action="append", default=[], metavar="NAME",
                       help="a column of scores, repeatable; default rougeL")  # fmt: skip
    found.set_defaults(command=history)


def history(options: argparse.Namespace) -> str:
    """A table a preset."""
    from bakeoff.report.exports import history as kept
    from bakeoff.report.exports import history_table

    parts, notes = [], []
    for path in kept.files(options.preset):
        try:
            lines, wrong = kept.read(path)
        except OSError as error:
            raise UsageError(f"{path}: can't be read: {error.strerror}") from None
        notes += [f"note: {note}" for note in wrong]
        parts.append(history_table.render(path.stem, lines, options.metric or ["rougeL"]))
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])
