"""`bakeoff page`: results to look at in a browser, one or several."""

import argparse
from pathlib import Path
from typing import Any

from bakeoff.cli.options import command
from bakeoff.config import project
from bakeoff.core.errors import UsageError

SEVERAL = "bakeoff-page.html"
"""The file of a page of several results, in the folder in which the command is typed."""


def add(commands: Any) -> None:
    """Adds `page`."""
    found = command(
        commands,
        "page",
        "write a page to look at results in a browser, one or several",
        "Writes one HTML file. Several results stand side by side, with what changed from each to the next; texts are "
        "shown if details.json, which a report writes, stands beside results.json.",
    )
    found.add_argument("places", nargs="+", metavar="RESULTS.json|FOLDER|HISTORY.jsonl",
                       help="results of bake-offs, a report's folder, a folder of them, or a history")  # fmt: skip
    found.add_argument("--output", default="", metavar="FILE.html",
                       help=f"default: index.html beside one results.json, {SEVERAL} here for several")  # fmt: skip
    found.set_defaults(command=page)


def page(options: argparse.Namespace) -> str:
    """Writes the page; returns its path."""
    from bakeoff import report
    from bakeoff.report.page import over_time, read
    from bakeoff.report.page.write import NAME, write

    found = read.results([Path(place) for place in options.places])
    several = len(found) > 1
    path = Path(
        options.output or (SEVERAL if several or found[0].path.suffix != ".json" else found[0].path.with_name(NAME))
    )
    if path.suffix != ".html":
        raise UsageError(f"--output {options.output}: expected a file that ends with .html; type --output page.html")
    # The library is kept where finished runs are, if there is such a folder: a command that reads makes none.
    store = project.own(".bakeoff")
    cache = store / report.PAGE if store.is_dir() else None
    if not several:
        over_time.judged(found)
    try:
        write([one.shown for one in found], path, cache, over_time.compared(found) if several else None)
    except OSError as error:
        raise UsageError(f"{path}: the page can't be written: {error.strerror}; type --output FILE.html") from None
    return f"page: {path}"
