"""The mean of each metric over documents, as `bakeoff score` prints it."""

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from bakeoff.report import figures
from bakeoff.scoring.api import Facts
from bakeoff.scoring.compute import mean


def render(facts: Mapping[str, Facts], scores: Mapping[str, Sequence[float | None]]) -> str:
    """A line a metric, over the documents that have a value; a dash where none has."""
    rows = [
        (figures.titled(facts[name]), figures.cell(mean(value for value in row if value is not None), facts[name].show))
        for name, row in scores.items()
    ]
    return tabulate(rows, tablefmt="plain", colalign=("left", "right"), disable_numparse=True)
