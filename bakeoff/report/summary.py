"""The table that a pytest run ends with, as plain text."""

from bakeoff.report import analysis, table
from bakeoff.report.comparison import Comparison
from bakeoff.report.escape import plain


def render(comparison: Comparison) -> str:
    """What was compared, the table of the methods, the controls, and who died."""
    parts = ["\n".join([analysis.compared(comparison, plain), *analysis.warnings(comparison, plain)])]
    if comparison.methods or comparison.dead:
        if len(comparison.methods) > table.MANY:
            parts.append(table.to_text(table.by_method(comparison, plain), "method"))
        else:
            parts.append(table.to_text(table.frame(comparison, comparison.methods, comparison.dead, plain), "method"))
    if comparison.controls:
        parts.append(table.one_block(table.controls(comparison.controls, plain), "control"))
    if comparison.deaths:
        parts.append("\n".join(f"dead: {line}" for line in analysis.deaths(comparison, plain)))
    if comparison.signature:
        parts.append(f"signature: {plain(comparison.signature)}")
    return "\n\n".join(parts)
