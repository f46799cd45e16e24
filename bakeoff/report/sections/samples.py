"""What was written about a few test documents."""

from collections.abc import Mapping, Sequence

from bakeoff.metrics.rouge import METRICS, Prediction, Scorer
from bakeoff.report import table
from bakeoff.report.comparison import MANY, Comparison, Row, points
from bakeoff.report.escape import clip, markdown
from bakeoff.report.figures import listing

SAMPLES = 3
EXCERPT = 400
"""Characters of a document that are shown."""
SUMMARY = 1000
"""Characters of a summary that are shown."""


def section(comparison: Comparison, predictions: Mapping[str, Sequence[Prediction]]) -> list[str]:
    """The first, the middle and the last test document with what was written about them."""
    ids = comparison.document_ids
    written: dict[str, dict[str, list[Prediction]]] = {}
    for name, made in predictions.items():
        for prediction in made:
            written.setdefault(name, {}).setdefault(prediction.id, []).append(prediction)
    rows, left_out = chosen(comparison, [row for row in comparison.rows if row.name in written])
    indices = sorted({0, len(ids) // 2, len(ids) - 1})[:SAMPLES] if ids else []
    parts, scorer = [], Scorer(comparison.settings.scoring)
    for index in indices:
        known = [(row, written[row.name][ids[index]]) for row in rows if ids[index] in written[row.name]]
        if not known:
            continue
        parts += [f"### {markdown(ids[index])}", f"Document: {shown(known[0][1][0].document, EXCERPT)}"]
        for nth, first in enumerate(known[0][1]):
            cells = [["reference", "", shown(text)] for text in first.references]
            for row, made in known:
                own = score(row, index) if len(made) == 1 else scorer.rouge(made[nth].summary, first.references)
                cells.append([markdown(row.name), listed(own), shown(made[nth].summary)])
            parts += [f"{markdown(first.aspect)}:"] * (len(known[0][1]) > 1)
            parts.append(table.text_table(["by", "ROUGE-1 / 2 / L", "summary"], cells))
    if not parts:
        return ["There are no summaries."]
    places = listing([f"{index + 1:,}" for index in indices])
    intro = f"Test documents {places} of {len(ids):,}, picked by position. The summaries are those of the first seed."
    return [f"{intro}{left_out}", *parts]


def chosen(comparison: Comparison, rows: Sequence[Row]) -> tuple[list[Row], str]:
    """The rows whose summaries are shown, and a sentence where methods are left out.

    Controls that copy sentences would only repeat the document.
    """
    controls = [row for row in rows if row.control and row.parameters]
    names = {row.name for row in rows}
    methods = [row for row in comparison.ordered if row.name in names]
    if len(methods) <= MANY:
        return [*methods, *controls], ""
    said = f" Shown are the {MANY} methods with the best mean of {comparison.label(comparison.main)}."
    return [*methods[:MANY], *controls], said


def shown(text: str, limit: int = SUMMARY) -> str:
    """Untrusted text as Markdown, cut to `limit` characters."""
    return markdown(clip(text.strip(), limit)) or "(empty)"


def score(row: Row, index: int) -> dict[str, float]:
    """F1 of one document by metric, first seed."""
    return {metric: rows[0][index] for metric, rows in row.scores.items()}


def listed(scores: Mapping[str, float]) -> str:
    """F1 x 100 by metric."""
    return " / ".join(points(scores[metric]) for metric in METRICS)
