"""Documents, references and summaries as the page shows them, each with its scores."""

from collections.abc import Mapping, Sequence
from typing import Any

DIGITS = 4
"""Decimals of a document's score."""


def texts(ids: Sequence[str], details: Mapping[str, Any] | None, figures: Mapping[str, Any]) -> dict[str, Any]:
    """The documents `ids` with what the first seed of each row wrote about them, and its scores.

    `details` is what details.json holds, `figures` what results.json holds of each row. Empty where a document is not
    among the details.
    """
    if not details or not ids:
        return {}
    known = {one["id"]: one for one in details["documents"]}
    if not all(name in known for name in ids):
        return {}
    rows = [row for row in details["rows"] if row in figures and figures[row].get("scores")]
    metrics = (
        [m for m in figures[rows[0]]["scores"] if all(m in figures[row]["scores"] for row in rows)] if rows else []
    )
    return {
        "rows": rows,
        "scores": {metric: [first_seed(figures[row]["scores"][metric]) for row in rows] for metric in metrics},
        "documents": [chosen(known[name], [details["rows"].index(row) for row in rows]) for name in ids],
    }


def first_seed(scores: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Of seeds x documents, the scores of the seed whose summaries are shown; None where a document has none."""
    return [None if score is None else round(score, DIGITS) for score in scores[0]]


def chosen(document: Mapping[str, Any], places: Sequence[int]) -> dict[str, Any]:
    """`document` with the summaries at `places` alone."""
    items = [{**item, "summaries": [item["summaries"][place] for place in places]} for item in document["items"]]
    return {**document, "items": items}
