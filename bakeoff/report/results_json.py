"""results.json: the comparison for programs, as docs/report.md describes it."""

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

import bakeoff
from bakeoff.config.schema import plain
from bakeoff.core.columns import Numbers
from bakeoff.methods.parameters import ParameterCounts
from bakeoff.report.comparison import Comparison, Row
from bakeoff.runs.records import SCHEMA
from bakeoff.scoring.api import Facts
from bakeoff.stats.pairs import Pair

WIDTH = 110
"""Objects that fit into this many characters stand on one line."""


def content(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON values; a figure that was not measured, or is not finite, is None."""
    settings = comparison.settings
    return finite(
        {
            "schema": SCHEMA,
            "bakeoff": bakeoff.__version__,
            "preset": settings.preset,
            "model": settings.model.name,
            "task": settings.task.name,
            "signature": comparison.signature,
            "finished": max((run.finished for row in comparison.rows for run in row.runs), default=""),
            "environment": dict(sorted(comparison.environment().items())),
            "settings": {key: value for key, value in plain(settings).items() if key not in ("preset", "source")},
            "metrics": {name: metric(found, name in comparison.verdicts) for name, found in comparison.beside.items()},
            "verdicts": list(comparison.verdicts),
            "methods": {row.name: figures(row) for row in comparison.methods},
            "controls": {row.name: figures(row) for row in comparison.controls},
            "pairs": [pair(found) for found in comparison.pairs],
            "control_pairs": [pair(found) for found in comparison.control_pairs],
            "metric_pairs": [pair(found) | {"higher": None} for found in comparison.other_pairs],
            "published": [dataclasses.asdict(found) for found in comparison.published],
            "deaths": [
                {"method": death.method, "seed": death.seed, "phase": death.phase, "cause": death.cause}
                for death in comparison.deaths
            ],
            "document_ids": list(comparison.document_ids),
            "data": comparison.data,
            "notes": list(comparison.notes),
        }
    )


def figures(row: Row) -> dict[str, Any]:
    """One row's figures."""
    with_ties = row.parameters.with_ties() if row.parameters else None
    return {
        "parameters": counts(row.parameters),
        "parameters_with_ties": counts(with_ties),
        "rouge": {metric: dataclasses.asdict(interval) for metric, interval in row.rouge.items()},
        "metrics": {metric: interval_of(row, metric) for metric in row.values},
        "spread": dict(row.spread),
        "seconds": dict(row.seconds),
        "tokens_per_second": row.tokens_per_second,
        "memory_bytes": dict(row.memory_bytes),
        "adapter_bytes": row.adapter_bytes,
        "forgetting": row.forgetting or None,
        "inference": row.inference or None,
        "trials": row.trials,
        "truncated": row.truncated,
        "hyperparameters": dict(sorted(row.hyperparameters.items())),
        "seeds": list(row.seeds),
        "documents": len(row.runs[0].document_ids),
        "runs": list(row.fingerprints),
        "epochs": [[dict(sorted(point.items())) for point in run.epochs] for run in row.runs],
        "scores": row.every_score,
    }


def interval_of(row: Row, metric: str) -> dict[str, float | None]:
    """Mean and bounds of a metric beside ROUGE; None where no document has a value."""
    found = row.metrics.get(metric)
    return {"mean": None, "low": None, "high": None} if found is None else dataclasses.asdict(found)


def metric(found: Facts, verdict: bool) -> dict[str, Any]:
    """What is known of a metric beside ROUGE. An infinite bound is None."""
    return {**dataclasses.asdict(found), "range": list(found.range), "verdict": verdict}


def pair(found: Pair) -> dict[str, Any]:
    """Two rows on one metric, the first minus the second, F1 in 0..1."""
    contrast = found.contrast
    return {
        "first": found.first,
        "second": found.second,
        "metric": found.metric,
        "difference": contrast.difference,
        "low": contrast.low,
        "high": contrast.high,
        "p": None if contrast.low is None else contrast.p,
        "p_holm": None if contrast.low is None else found.p,
        "covers": contrast.kind,
        "spread_from": contrast.variance.source if contrast.variance else None,
        "seed_share": contrast.seed_share if contrast.variance else None,
        "higher": found.higher or None,
        "wins_ties_losses": [found.wins, found.ties, found.losses],
    }


def counts(found: ParameterCounts | None) -> dict[str, int] | None:
    """The four counts, without those of the ties."""
    if found is None:
        return None
    return {"total": found.total, "trainable": found.trainable, "frozen": found.frozen, "added": found.added}


def finite(value: Any) -> Any:
    """`value` with None for every number that JSON doesn't know; what holds none is not copied."""
    if isinstance(value, dict):
        new = {key: found for key, item in value.items() if (found := finite(item)) is not item}
        return {**value, **new} if new else value
    if isinstance(value, list):
        items = [finite(item) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    return None if isinstance(value, float) and not math.isfinite(value) else value


def render(value: Any) -> str:
    """`value` as the text of a file."""
    return "".join(pieces(value))


def pieces(value: Any) -> Iterator[str]:
    """The text of a file with `value`, piece by piece: that of thousands of runs is never held as a whole.

    JSON in ASCII: what is short and holds no further lists stands on one line, so do rows of scores.
    """
    yield from part(value, "")
    yield "\n"


def part(value: Any, indent: str) -> Iterator[str]:
    """`value` as JSON, its further lines indented by one space more than `indent`."""
    if isinstance(value, Numbers):
        value = list(value)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(item, (dict, list, Numbers)) for item in items):
        flat = json.dumps(value, allow_nan=False)
        if not items or isinstance(value, list) or len(flat) <= WIDTH:
            yield flat
            return
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    for place, item in enumerate(value):
        yield f"{',' if place else opening}\n{indent} "
        if isinstance(value, dict):
            yield f"{json.dumps(str(item))}: "
            item = value[item]
        yield from part(item, indent + " ")
    yield f"\n{indent}{closing}"
