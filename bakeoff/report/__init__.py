"""The report of a comparison: Markdown and plots for people, JSON for programs, a table for the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bakeoff.gate.verdicts import Gate
from bakeoff.metrics.rouge import Prediction
from bakeoff.report.comparison import Comparison

__all__ = ["prepare", "terminal", "write"]


def prepare() -> None:
    """Imports what writes a report: more than a second, best taken while there is something else to wait for."""
    import sacrebleu.metrics  # noqa: F401
    import scipy.stats  # noqa: F401

    import bakeoff.report.document
    import bakeoff.report.plots.page  # noqa: F401


def write(
    comparison: Comparison, predictions: Mapping[str, Sequence[Prediction]], folder: Path, gate: Gate | None = None
) -> Path:
    """Writes `plots/*.png`, `results.json` and `report.md` into `folder`; returns the path of `report.md`.

    `predictions` are those of one run by method or control. The same arguments leave the same bytes.
    """
    # pandas and matplotlib take a second to import (see `prepare`); only who writes a report pays it.
    from bakeoff.core.files import replace
    from bakeoff.report import document, results_json
    from bakeoff.report.plots import page

    images = page.draw(comparison, folder / "plots")
    replace(folder / "results.json", results_json.dump(comparison).encode())
    path = folder / "report.md"
    replace(path, document.render(comparison, predictions, images, gate).encode())
    return path


def terminal(comparison: Comparison, gate: Gate | None = None) -> str:
    """The comparison table, and the gate's, as plain text, to be printed at the end of a pytest run."""
    from bakeoff.report import gate as gates
    from bakeoff.report import summary

    return "\n\n".join([summary.render(comparison), *([gates.text(gate)] if gate else [])])
