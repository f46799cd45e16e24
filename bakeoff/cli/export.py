"""`bakeoff export`: the table for a paper, the scores for R and pandas."""

import argparse
from pathlib import Path
from typing import Any

from bakeoff.cli.options import command
from bakeoff.core.errors import UsageError

FORMATS = ("latex", "csv", "parquet", "json")


def add(commands: Any) -> None:
    """Adds `export`."""
    found = command(
        commands,
        "export",
        "a report's table as LaTeX, its scores as CSV, Parquet or JSON",
        "latex is the comparison table (booktabs). csv, parquet and json hold the scores in long form: method, seed, "
        "document, metric, score.",
    )
    found.add_argument("report", metavar="REPORT", help="a results.json, a report's folder, or a preset's name")
    found.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    found.add_argument("--output", default="", metavar="FILE", help="where to; default: print it")
    found.add_argument("--metric", action="append", default=[], metavar="NAME",
                       help="a column of the LaTeX table, repeatable; default rouge1, rouge2 and rougeL")  # fmt: skip
    found.set_defaults(command=export)


def export(options: argparse.Namespace) -> str:
    """The text that was asked for, or where it was written."""
    if options.format == "parquet" and not options.output:
        raise UsageError("export --format parquet writes a binary file; add --output FILE.parquet")
    if options.metric and options.format != "latex":
        raise UsageError(f"--metric chooses columns of LaTeX; leave it out, {options.format} has every metric")
    from bakeoff.report.exports import latex, results, scores

    found = results.read(results.locate(options.report))
    made: str | bytes
    if options.format == "latex":
        made = latex.render(found, options.metric)
    else:
        made = scores.parquet(found) if options.format == "parquet" else getattr(scores, options.format)(found)
    if options.output:
        return written(Path(options.output), made.encode() if isinstance(made, str) else made)
    return str(made).removesuffix("\n")


def written(path: Path, content: bytes) -> str:
    """Writes a file; says so. Raises UsageError."""
    from bakeoff.core.files import replace

    try:
        replace(path, content)
    except OSError as error:
        raise UsageError(f"--output {path}: can't be written: {error.strerror}; name a file that can be") from None
    return f"written: {path}"
