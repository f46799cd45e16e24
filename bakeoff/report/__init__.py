"""The report of a comparison: Markdown and plots for people, JSON for programs, a table for the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bakeoff.gate.verdicts import Gate
from bakeoff.metrics.rouge import Prediction
from bakeoff.report.comparison import Comparison

__all__ = ["PAGE", "prepare", "terminal", "write"]

PAGE = "page"
"""The folder of a store that keeps the library of the report's page."""


def prepare(page: Path | None = None) -> None:
    """Imports what writes a report: more than a second, best taken while there is something else to wait for.

    `page` is the folder that keeps the library of the report's page, if one is to be written.
    """
    import sacrebleu.metrics  # noqa: F401
    import scipy.optimize
    import scipy.special  # noqa: F401

    import bakeoff.report.document
    import bakeoff.report.plots.page  # noqa: F401

    if page:
        import bakeoff.report.page.write as writing

        writing.vega(page)


def write(
    comparison: Comparison,
    predictions: Mapping[str, Sequence[Prediction]],
    folder: Path,
    gate: Gate | None = None,
    cache: Path | None = None,
) -> Path:
    """Writes `plots/*.png`, `results.json` and `report.md` into `folder`; returns the path of `report.md`.

    If the settings ask for a page, `details.json` and `index.html` are written, too; `cache` is a folder that keeps
    the page's library between reports. `predictions` are those of one run by method or control. The same arguments
    leave the same bytes.
    """
    # pandas and matplotlib take a second to import (see `prepare`); only who writes a report pays it.
    from bakeoff.core.files import replace
    from bakeoff.report import document, results_json
    from bakeoff.report.page import details
    from bakeoff.report.page.write import ASIDE, NAME, write_report
    from bakeoff.report.plots import page

    images = page.draw(comparison, folder / "plots")
    replace(folder / "results.json", map(str.encode, results_json.pieces(results_json.content(comparison))))
    if comparison.settings.report.page and comparison.rows:
        write_report(comparison, predictions, folder, gate, cache)
    else:  # of an earlier report, which they would tell of
        for name in (NAME, ASIDE, details.NAME):
            (folder / name).unlink(missing_ok=True)
    path = folder / "report.md"
    replace(path, document.render(comparison, predictions, images, gate).encode())
    return path


def terminal(comparison: Comparison, gate: Gate | None = None) -> str:
    """The comparison table, and the gate's, as plain text, to be printed at the end of a pytest run."""
    from bakeoff.report import gate as gates
    from bakeoff.report import summary

    return "\n\n".join([summary.render(comparison), *([gates.text(gate)] if gate else [])])
