"""One result as the page shows it: what results.json holds, and what the tests tell apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bakeoff.report import performance
from bakeoff.report.comparison import points
from bakeoff.report.escape import plain
from bakeoff.report.figures import MISSING, SHOWN, number, span
from bakeoff.report.page.columns import COLUMNS, Column, intervals
from bakeoff.report.page.texts import texts
from bakeoff.stats.frontier import frontier
from bakeoff.stats.intervals import groups, letters

TESTED = "documents and seeds"
"""What a pair's test covers where it gives a verdict."""


@dataclass(frozen=True)
class Tests:
    """What the corrected tests say about the methods on one metric."""

    groups: list[tuple[str, ...]]
    """Methods that can't be told apart, the group of the highest mean first."""
    higher: Mapping[frozenset[str], str]
    """Of two methods that can be told apart, the higher one."""


def shown(content: Mapping[str, Any], details: Mapping[str, Any] | None = None, name: str = "") -> dict[str, Any]:
    """The page's data of one result.

    `content` is a results.json or a line of a history, `details` the details.json beside it. `name` is what the page
    calls the result, by default its preset. A figure that `content` lacks is None, or a dash as text.
    """
    methods, controls = content["methods"], content.get("controls") or {}
    every = {**methods, **controls}
    scores = {row: intervals(figures) for row, figures in every.items()}
    metrics = list(dict.fromkeys(metric for found in scores.values() for metric in found))
    tests = {metric: tested(content, scores, metric) for metric in metrics}
    columns = [column for column in COLUMNS if any(column.figure(figures) is not None for figures in methods.values())]
    place = {row: index for index, row in enumerate(every)}
    return {
        "name": name or content["preset"],
        "compared": compared(content),
        "facts": facts(content),
        "notes": [f"{note}." for note in content.get("notes", [])],
        "deaths": [f"{one['method']}, seed {one['seed']}, in {one['phase']}: {one['cause']}"
                   for one in content.get("deaths", [])],
        "metrics": [
            {
                "key": metric,
                "label": SHOWN.get(metric, metric),
                "unit": "F1 x 100" if metric in SHOWN else "",
                "factor": factor(metric),
                "tested": tests[metric] is not None,
                "headline": headline(methods, scores, metric, tests[metric]),
                "groups": [[place[row] for row in group] for group in (tests[metric] or Tests([], {})).groups],
            }
            for metric in metrics
        ],
        "columns": [
            {"key": one.key, "label": one.label, "group": one.group, "best": one.best, "cost": one.cost}
            for one in columns
        ],
        "rows": [
            row_of(row, figures, row in controls, scores[row], tests, columns) for row, figures in every.items()
        ],
        "frontiers": frontiers(methods, scores, tests, columns),
        "settings": differing({row: figures.get("hyperparameters") or {} for row, figures in methods.items()}),
        "environment": [[key, text(value)] for key, value in (content.get("environment") or {}).items()],
        "gate": content.get("gate"),
        "steps": (details or {}).get("steps", {}),
        "texts": texts(content.get("document_ids") or [], details, every),
    }  # fmt: skip


def factor(metric: str) -> int:
    """By what a score is multiplied before it is shown."""
    return 100 if metric in SHOWN else 1


def score(metric: str, value: float | None) -> str:
    """A score as it is shown; a dash for None."""
    if value is None:
        return MISSING
    return points(value) if factor(metric) == 100 else f"{value:.4g}"


def tested(content: Mapping[str, Any], scores: Mapping[str, Any], metric: str) -> Tests | None:
    """What the tests tell apart; None where a pair of methods was not tested, or there is none."""
    pairs = [pair for pair in content.get("pairs", []) if pair["metric"] == metric]
    if not pairs or not all(pair["covers"] == TESTED and pair["p_holm"] is not None for pair in pairs):
        return None
    ranked = sorted(content["methods"], key=lambda row: -scores[row][metric]["mean"])
    apart = {frozenset((pair["first"], pair["second"])): pair["higher"] for pair in pairs if pair["higher"]}
    return Tests(groups(ranked, [(pair["first"], pair["second"]) for pair in pairs if pair["higher"]]), apart)


def headline(methods: Mapping[str, Any], scores: Mapping[str, Any], metric: str, tests: Tests | None) -> str:
    """The sentence of report.md about the highest mean; of another metric than ROUGE, its order alone."""
    means = {row: scores[row][metric]["mean"] for row in methods if metric in scores[row]}
    if metric in SHOWN:
        return performance.headline(means, tests.groups if tests else None, SHOWN[metric], plain)
    ranked = sorted(means, key=lambda row: -means[row])
    each = ", ".join(f"{row} {score(metric, means[row])}" for row in ranked[:3])
    return f"{metric} from the highest mean on: {each}{' and others' * (len(ranked) > 3)}. It was not tested."


def row_of(
    name: str, found: Mapping[str, Any], control: bool, scores: Mapping[str, Any], tests: Mapping[str, Tests | None],
    columns: Sequence[Column],
) -> dict[str, Any]:  # fmt: skip
    """One method or control."""
    shared = {metric: letters(one.groups).get(name, "") for metric, one in tests.items() if one}
    cells = {}
    for column in columns:
        value = column.figure(found)
        cells[column.key] = [value, MISSING if value is None else column.show(value)]
    return {
        "name": name,
        "control": control,
        "seeds": found.get("seeds") or [],
        "scores": {
            metric: {
                **{bound: one[bound] for bound in ("mean", "low", "high")},
                "text": score(metric, one["mean"]),
                "span": span(one["low"], one["high"]) if factor(metric) == 100 else bare(metric, one),
                "letters": shared.get(metric, ""),
            }
            for metric, one in scores.items()
        },
        "figures": cells,
        "epochs": found.get("epochs") or [],
    }


def bare(metric: str, one: Mapping[str, Any]) -> str:
    """The bounds of a metric that is shown as it is."""
    return "" if one["low"] is None else f"[{score(metric, one['low'])}, {score(metric, one['high'])}]"


def compared(content: Mapping[str, Any]) -> str:
    """What was compared, in one line."""
    methods, controls = content["methods"], content.get("controls") or {}
    counted = [row["documents"] for row in [*methods.values(), *controls.values()] if "documents" in row]
    seeds = sorted({seed for row in methods.values() for seed in row.get("seeds") or []})
    who = f"{number(len(methods), 'method')} and {number(len(controls), 'control')}"
    parts = [number(counted[0], "test document")] if counted else []
    if seeds:
        parts.append(f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}")
    said = f"{who} on {content['task']} with the base model {content['model']}"
    return f"{said}: {', '.join(parts)}." if parts else f"{said}."


def facts(content: Mapping[str, Any]) -> list[list[str]]:
    """How the result was made: names and values."""
    environment = content.get("environment") or {}
    found = {
        "preset": content["preset"],
        "base model": content["model"],
        "task": content["task"],
        "finished": content.get("finished", ""),
        "device": environment.get("gpu") or environment.get("processor", ""),
        "signature of the scores": content.get("signature", ""),
    }
    return [[name, text(value)] for name, value in found.items() if value]


def frontiers(
    methods: Mapping[str, Any], scores: Mapping[str, Any], tests: Mapping[str, Tests | None], columns: Sequence[Column]
) -> dict[str, dict[str, list[str]]]:
    """By metric and cost the methods on the frontier, where every method has the cost and was tested."""
    found: dict[str, dict[str, list[str]]] = {}
    for column in (column for column in columns if column.cost):
        cost = {row: column.figure(figures) for row, figures in methods.items()}
        if any(value is None for value in cost.values()) or len(set(cost.values())) < 2:
            continue
        for metric, one in tests.items():
            if one:
                means = {row: scores[row][metric]["mean"] for row in methods}
                found.setdefault(metric, {})[column.key] = frontier(cost, means, one.higher)
    return found


def differing(settings: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    """The settings in which the methods differ: each with one value a method, a dash where a method has none."""
    keys = dict.fromkeys(key for own in settings.values() for key in own)
    table = [[key, [text(own.get(key, MISSING)) for own in settings.values()]] for key in keys]
    return [[key, values] for key, values in table if len(set(values)) > 1]


def text(value: Any) -> str:
    """A setting's value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text, value))
    return str(value)
