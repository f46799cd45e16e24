"""Several results together: the trend of every method's scores, verdicts, and what changed from each to the next."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from bakeoff.core.errors import UsageError
from bakeoff.gate import saved
from bakeoff.gate.baseline import flat
from bakeoff.gate.verdicts import differences
from bakeoff.report.page.metrics import FIRST, Metric, metric
from bakeoff.report.page.read import Found
from bakeoff.report.page.verdicts import of_gate, recorded

UNCOUNTED = ("description", "changes", "report")
"""Settings that change no run."""


def judged(results: Sequence[Found]) -> None:
    """Puts the verdicts that a line of a history holds into the page's data of that result."""
    for result in results:
        known = {one["key"]: metric(one["key"], result.content) for one in result.shown["metrics"]}
        result.shown["verdicts"] = recorded(result.content.get("gate"), result.name, known)


def compared(results: Sequence[Found]) -> dict[str, Any]:
    """The page's data about `results`, two or more."""
    metrics = {one["key"]: metric(one["key"], result.content) for result in results for one in result.shown["metrics"]}
    pairs = list(pairwise(results))
    finished = [result.content.get("finished") for result in results]
    verdicts, notes = [], []
    for result in results:
        verdicts += recorded(result.content.get("gate"), result.name, metrics)
    for old, new in pairs:
        made, said = between(old, new, metrics)
        verdicts += made
        notes += said
    return {
        "metrics": [asdict(one) for one in metrics.values()],
        "first": FIRST,
        "dated": all(finished) and len(set(finished)) == len(finished),
        "points": [
            point
            for place, (result, line) in enumerate(zip(results, series(results), strict=True))
            for point in points(place, result, line)
        ],
        "verdicts": verdicts,
        "notes": list(dict.fromkeys(notes)),
        "changes": [
            {"from": old.name, "to": new.name, "changed": changed(old.content, new.content)} for old, new in pairs
        ],
    }


def series(results: Sequence[Found]) -> list[int]:
    """The same number for results whose scores may be joined by a line: same preset, task, model, and documents."""
    alike = [
        json.dumps([result.content.get(key) for key in ("preset", "task", "model", "signature", "document_ids")])
        for result in results
    ]
    return [alike.index(one) for one in alike]


def points(place: int, result: Found, line: int) -> list[dict[str, Any]]:
    """Every method's scores in one result, on a `line` of its own kind."""
    finished = result.content.get("finished")
    return [
        {"place": place, "series": line, "finished": finished, "method": row["name"], "metric": key, **score}
        for row in result.shown["rows"]
        if not row["control"]
        for key, score in row["scores"].items()
    ]


def between(old: Found, new: Found, metrics: Mapping[str, Metric]) -> tuple[list[dict[str, Any]], list[str]]:
    """The verdicts of `bakeoff compare` on `new` against `old`, and why there are none."""
    if not all(result.path.suffix == ".json" for result in (old, new)):
        return [], []
    try:
        gate = saved.judged(saved.read(new.path), saved.read(old.path), str(old.path))
    except UsageError as error:
        return [], [f"{new.name} was not compared with {old.name}: {error}."]
    verdicts = of_gate(gate, new.name, old.name, metrics)
    return verdicts, [f"{new.name}, {name}, was not compared: {reason}." for name, reason in gate.refusals.items()]


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`training.epochs 3 -> 5` for every setting, version and fact about the machine that differs, and for methods."""
    return differences(facts(old), facts(new))


def facts(content: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a result's scores, in one table."""
    settings = {key: value for key, value in (content.get("settings") or {}).items() if key not in UNCOUNTED}
    if not all(isinstance(settings.get(key), dict) for key in ("model", "task")):
        settings = {**settings, "model": {"name": content["model"]}, "task": {"name": content["task"]}}
    environment = {key: value for key, value in (content.get("environment") or {}).items() if key != "memory_gib"}
    named = {key: content[key] for key in ("signature", "bakeoff", "commit") if content.get(key)}
    recipes = {name: found.get("hyperparameters") or {} for name, found in content["methods"].items()}
    rows = {"compared methods": ", ".join(content["methods"])}
    return flat({**named, **rows, **settings, "method": recipes, "machine": environment})
