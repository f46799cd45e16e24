"""What others published beside what was measured, and sentences about published means, which carry no verdict."""

from collections.abc import Callable, Sequence

from bakeoff.metrics.rouge import METRICS
from bakeoff.report import figures, table
from bakeoff.report.comparison import Comparison, Row, points
from bakeoff.report.figures import MEMORY, MISSING, ROUGE, cell, signed
from bakeoff.report.performance import Quote, order
from bakeoff.report.published import COUNTS, Published
from bakeoff.scoring import api as scoring


def section(comparison: Comparison, quote: Quote) -> list[str]:
    """One table a published one, with the note of its source and what its own means say."""
    parts = []
    for found in comparison.published:
        rows = [row for row in comparison.methods if row.name in found.methods]
        cells = [line for row in rows for line in beside(found, row, quote)]
        parts += [f"Published: {quote(found.source)}. {quote(found.note)}".rstrip()]
        if cells:
            parts += [table.text_table(["figure", "published", "measured", "difference"], cells),
                      "Counts must match exactly; scores, seconds and memory are only shown."]  # fmt: skip
        parts.append("\n".join(f"- {sentence}" for sentence in sentences(found, quote)))
    return parts


def beside(found: Published, row: Row, quote: Quote) -> list[list[str]]:
    """The published figures of one method as cells: figure, published, measured, difference."""
    theirs = found.methods[row.name]
    counts = row.parameters.with_ties() if row.parameters and found.ties else row.parameters
    lines: list[tuple[str, float | None, float | None, Callable[[float], str], Callable[[float], str]]] = [
        *((f"parameters, {name}", getattr(theirs, name), getattr(counts, name, None), figures.count, exact)
          for name in COUNTS),
        *((ROUGE[metric], getattr(theirs, metric), row.rouge[metric].mean, points, signed) for metric in METRICS),
        ("training, s", theirs.train_minutes and 60 * theirs.train_minutes, row.seconds["train"], figures.seconds,
         lambda by: f"{by:+,.1f}"),
        *((label, (gb := getattr(theirs, f"{counter}_gb", None)) and 1e9 * gb, row.memory_bytes[counter], figures.size,
           lambda by: f"{by / 1e9:+,.2f} GB") for counter, label in MEMORY.items()),
    ]  # fmt: skip
    return [
        [f"{quote(row.name)}: {label}", show(published), cell(measured, show),
         MISSING if measured is None else by(measured - published)]
        for label, published, measured, show, by in lines if published is not None
    ]  # fmt: skip


def exact(by: float) -> str:
    """The difference of two counts."""
    return "none" if by == 0 else f"{by:+,.0f} (must be none)"


def sentences(found: Published, quote: Quote) -> list[str]:
    """Order and ratio of the published means. They come without scores of documents, so nothing is told apart."""
    said = []
    for metric in METRICS:
        values = {name: getattr(one, metric) for name, one in found.methods.items()}
        means = {name: value for name, value in values.items() if value is not None}
        if means:
            said.append(f"Published {order(means, scoring.ROUGE[metric], quote)}{ratio(list(means.values()))}")
    return said


def ratio(values: Sequence[float]) -> str:
    """How the highest compares with the lowest; empty where they are alike or the lowest is 0."""
    if min(values) <= 0 or f"{max(values) / min(values):.2f}" == "1.00":
        return ""
    return f" The highest is {max(values) / min(values):.2f} times the lowest."
