"""results.json read back: the rows of a finished bake-off, with the letters of its tests."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from bakeoff.config import project
from bakeoff.core.errors import UsageError, nearest
from bakeoff.gate.baseline import Reader
from bakeoff.gate.saved import opened
from bakeoff.report.page.metrics import Metric
from bakeoff.report.page.metrics import metric as told
from bakeoff.stats.intervals import Interval, letters
from bakeoff.stats.pairs import alike


@dataclass(frozen=True)
class Compared:
    """Two rows on one metric, as far as letters need it."""

    first: str
    second: str
    metric: str
    tested: bool
    """Whether the noise is known, that of the seeds, too."""
    different: bool


@dataclass(frozen=True)
class Row:
    """A method or control."""

    name: str
    control: bool
    seeds: tuple[int, ...]
    scores: Mapping[str, list[list[float | None]]]
    """By metric, seeds x documents."""
    intervals: Mapping[str, Interval]
    """By metric."""
    figures: Mapping[str, Any]
    """The row as the file holds it."""


@dataclass(frozen=True)
class Results:
    """What exports need of a results.json."""

    preset: str
    model: str
    task: str
    signature: str
    documents: tuple[str, ...]
    rows: tuple[Row, ...]
    """Methods, then controls, in the order of the file."""
    pairs: tuple[Compared, ...]
    known: Mapping[str, Mapping[str, Any]]
    """What the file says of metrics beside ROUGE."""

    def metric(self, name: str) -> Metric:
        """How a metric is called and printed."""
        return told(name, {"metrics": self.known})

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that a row has scores of, in the order of the file."""
        return tuple(dict.fromkeys(metric for row in self.rows for metric in row.scores))

    def letters(self, name: str) -> dict[str, str]:
        """By method: two share a letter exactly where they can't be told apart. Empty where that was not tested."""
        rows = [row for row in self.rows if not row.control and name in row.intervals]
        falls = self.metric(name).falls
        rows.sort(key=lambda row: row.intervals[name].mean * (1 if falls else -1))
        return letters(alike([row.name for row in rows], self.pairs, name) or [])


def locate(name: str) -> Path:
    """The results.json that a file, a report's folder or a preset's name stands for. Raises UsageError."""
    path = Path(name)
    for found in (path, path / "results.json", project.own("reports", name, "results.json")):
        if found.is_file():
            return found
    known = [file.parent.name for file in project.own("reports").glob("*/results.json")]
    advice = nearest(name, known) if known else "type pytest bench/ --preset NAME first"
    raise UsageError(f"{name}: no results.json, no report's folder and no preset with a report; {advice}")


def read(path: Path) -> Results:
    """The file's rows. Raises UsageError with file and key for what isn't as it was written."""
    reader, table = opened(path, ("preset", "model", "task", "signature", "methods", "controls", "document_ids"))
    ids = reader.documents(table["document_ids"])
    rows = [
        row(reader, f"{kind}.{name}", name, kind == "controls", value, len(ids))
        for kind in ("methods", "controls")
        for name, value in reader.table(table[kind], kind).items()
    ]
    known = reader.table(table.get("metrics") or {}, "metrics")
    return Results(
        known={name: reader.table(one, f"metrics.{name}") for name, one in known.items()},
        **{key: reader.text(table[key], key) for key in ("preset", "model", "task", "signature")},
        documents=ids,
        rows=tuple(rows),
        pairs=tuple(
            compared(reader, f"pairs.{place}", one) for place, one in enumerate(listed(reader, table, "pairs"))
        ),
    )


def listed(reader: Reader, table: dict[str, Any], key: str) -> list[Any]:
    """A list; empty where the file has none."""
    value = table.get(key, [])
    if not isinstance(value, list):
        raise reader.wrong(key, "a list")
    return value


def row(reader: Reader, key: str, name: str, control: bool, value: Any, documents: int) -> Row:
    """One method or control."""
    table = reader.table(value, key)
    seeds = table.get("seeds")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise reader.wrong(f"{key}.seeds", "a list of whole numbers")
    scores = reader.table(table.get("scores"), f"{key}.scores")
    for metric, rows in scores.items():
        lists = isinstance(rows, list) and len(rows) == len(seeds)
        if not lists or not all(isinstance(one, list) and len(one) == documents for one in rows):
            raise reader.wrong(f"{key}.scores.{metric}", f"{len(seeds)} lists of {documents} scores, one list a seed")
        if not all(score is None or number(score) for one in rows for score in one):
            raise reader.wrong(f"{key}.scores.{metric}", "numbers or null")
    means = {**reader.table(table.get("rouge", {}), f"{key}.rouge"), **(table.get("metrics") or {})}
    found = {}
    for metric, one in means.items():
        bounds = [one.get(part) for part in ("mean", "low", "high")] if isinstance(one, dict) else [None]
        if number(bounds[0]) and all(bound is None or number(bound) for bound in bounds):
            found[metric] = Interval(*bounds)
    return Row(name, control, tuple(seeds), scores, found, table)


def compared(reader: Reader, key: str, value: Any) -> Compared:
    """One pair, its verdict as it was when the file was written."""
    table = reader.table(value, key)
    names = [reader.text(table.get(part), f"{key}.{part}") for part in ("first", "second", "metric")]
    tested = table.get("covers") == "documents and seeds" and table.get("low") is not None
    return Compared(names[0], names[1], names[2], tested, tested and table.get("higher") is not None)


def number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
