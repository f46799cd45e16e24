"""Scores in long form, one row a score, as R and pandas take them."""

from json import dumps as to_json

import pandas as pd

from bakeoff.report.exports.results import Results

COLUMNS = ("method", "seed", "document", "metric", "score")


def frame(results: Results) -> pd.DataFrame:
    """Every score of every row, controls included; a score that was not measured is missing (NaN).

    The columns are method, seed, document, metric and score. ROUGE is F1 in 0..1.
    """
    cells = [
        (row.name, seed, document, metric, score)
        for row in results.rows
        for metric, rows in row.scores.items()
        for seed, scores in zip(row.seeds, rows, strict=True)
        for document, score in zip(results.documents, scores, strict=True)
    ]
    return pd.DataFrame(cells, columns=list(COLUMNS)).astype({"score": "float64"})


def csv(results: Results) -> str:
    """With a header, a comma between cells, and `\\n` at line ends."""
    return frame(results).to_csv(index=False, lineterminator="\n")


def json(results: Results) -> str:
    """A list of objects, one a score; a score that was not measured is null. The numbers are exact."""
    rows = frame(results).astype(object).where(lambda cells: cells.notna(), None).to_dict(orient="records")
    return "[\n" + ",\n".join(to_json(row, ensure_ascii=False) for row in rows) + "\n]\n"


def parquet(results: Results) -> bytes:
    """The bytes of an Apache Parquet file."""
    found: bytes = frame(results).to_parquet(index=False, engine="pyarrow")
    return found
