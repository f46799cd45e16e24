"""details.json: what the page shows and results.json lacks: documents, summaries, and the loss of each step."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bakeoff.metrics.rouge import Prediction
from bakeoff.report.comparison import Comparison
from bakeoff.report.results_json import finite
from bakeoff.runs.records import RunResult

NAME = "details.json"
POINTS = 300
"""Points of a curve that are kept: of a longer one, means over neighbouring steps."""
ALL = 180_000
"""Points of all curves together: no browser draws more."""


def content(comparison: Comparison, predictions: Mapping[str, Sequence[Prediction]]) -> dict[str, Any]:
    """The details as JSON values; `predictions` are those of one run by method or control."""
    rows = [row.name for row in comparison.rows if predictions.get(row.name)]
    written: dict[str, list[list[Prediction]]] = {}
    for row in rows:
        by_id: dict[str, list[Prediction]] = {}
        for one in predictions[row]:
            by_id.setdefault(one.id, []).append(one)
        for name, made in by_id.items():
            written.setdefault(name, [[] for _ in rows])[rows.index(row)] = made
    documents = [document(name, written[name]) for name in comparison.document_ids if name in written]
    most = max(10, min(POINTS, ALL // max(1, sum(len(row.runs) for row in comparison.methods))))
    steps = {row.name: [curve(run, most) for run in row.runs] for row in comparison.methods}
    return {"rows": rows, "documents": documents, "steps": finite(steps)}


def document(name: str, written: Sequence[Sequence[Prediction]]) -> dict[str, Any]:
    """A document, and of each of its aspects the references and one summary a row; None where a row has none."""
    first = next(made for made in written if made)
    items = [
        {
            "aspect": one.aspect,
            "references": list(one.references),
            "summaries": [made[nth].summary if nth < len(made) else None for made in written],
        }
        for nth, one in enumerate(first)
    ]
    return {"id": name, "document": first[0].document, "items": items}


def curve(run: RunResult, most: int) -> list[list[float]]:
    """Step, epoch as a fraction, and training loss (nats per label token), at most so many of them."""
    if not run.steps:
        return []
    each = max(point["step"] for point in run.steps) / max(1, *(point["epoch"] for point in run.steps))
    block = -(-len(run.steps) // most)
    points = []
    for start in range(0, len(run.steps), block):
        part = run.steps[start : start + block]
        step, loss = part[-1]["step"], sum(point["loss"] for point in part) / len(part)
        points.append([step, round(step / each, 4), round(loss, 5)])
    return points


def dump(details: Mapping[str, Any]) -> str:
    """The file's text, one document a line."""
    documents = ",\n".join(json.dumps(one) for one in details["documents"])
    rest = {key: value for key, value in details.items() if key != "documents"}
    return f'{{"documents": [\n{documents}\n],\n{json.dumps(rest, allow_nan=False)[1:]}\n'
