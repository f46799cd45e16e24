"""The table that a pytest run ends with, as plain text of at most 100 columns."""

import textwrap

import pandas as pd

from bakeoff.report import analysis, figures, table
from bakeoff.report.comparison import MANY, Comparison
from bakeoff.report.escape import plain


def render(comparison: Comparison) -> str:
    """What was compared, the table of the methods, the controls, and who died."""
    parts = ["\n".join([analysis.compared(comparison, plain), *analysis.warnings(comparison, plain)])]
    if comparison.methods or comparison.dead:
        main = table.main(comparison, plain)
        if len(comparison.methods) > MANY:
            scores = [figures.titled(comparison.facts(metric)) for metric in comparison.verdicts]
            first = figures.titled(comparison.facts(comparison.main))
            order = sorted(main.columns, key=lambda name: (name != first, name in scores))
            parts += cut(main[order], "method")
        else:
            parts.append(table.to_text(main, "method"))
    if comparison.controls:
        parts += cut(table.controls(comparison, plain), "control")
    if said := intervals(comparison):
        parts.append(said)
    names = [*(row.name for row in comparison.rows), *comparison.dead]
    if any(len(plain(name)) > table.LONGEST for name in names):
        parts.append(f"Names of more than {table.LONGEST} characters are cut; report.md has them whole.")
    if comparison.deaths:
        parts.append("\n".join(f"dead: {line}" for line in analysis.deaths(comparison, plain)))
    if comparison.signature:
        parts.append(f"signature: {plain(comparison.signature)}")
    return "\n\n".join(parts)


def intervals(comparison: Comparison) -> str:
    """What brackets and letters in the tables mean; empty where there are none."""
    said = []
    if any(one.low is not None for row in comparison.rows for one in row.rouge.values()):
        said.append("Brackets hold 95 % intervals.")
    if any(comparison.alike(metric) for metric in comparison.verdicts):
        said.append("Methods that share a letter cannot be told apart.")
    return " ".join(said)


def cut(found: pd.DataFrame, corner: str) -> list[str]:
    """A table with the columns that fit, the first ones first, and a sentence that names the others."""
    text, left_out = table.fitted(found, corner)
    if not left_out:
        return [text]
    said = f"report.md has what this table has no room for: {'; '.join(left_out)}."
    return [text, textwrap.fill(said, table.WIDTH)]
