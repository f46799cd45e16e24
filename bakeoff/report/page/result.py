"""One result as the page shows it: what results.json holds, and what the tests tell apart."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from bakeoff.report import headline as sentence
from bakeoff.report.escape import plain
from bakeoff.report.figures import MISSING, number, p_value
from bakeoff.report.page.columns import COLUMNS, Column, intervals
from bakeoff.report.page.metrics import Metric, metric
from bakeoff.report.page.texts import texts
from bakeoff.stats.frontier import frontier
from bakeoff.stats.intervals import groups, lettered, letters

TESTED = "documents and seeds"
"""What a pair's test covers where it gives a verdict."""


@dataclass(frozen=True)
class Tests:
    """What the corrected tests say about the methods on one metric."""

    groups: list[tuple[str, ...]]
    """Methods that can't be told apart, the group of the best mean first."""
    better: Mapping[frozenset[str], str]
    """Of two methods that can be told apart, the better one."""

    @cached_property
    def letters(self) -> dict[str, str]:
        """By method, as the report's tables have them."""
        return letters(self.groups)

    @cached_property
    def lettered(self) -> list[tuple[str, ...]]:
        """The methods of each letter."""
        return lettered(self.groups)


NONE = Tests([], {})
"""Where nothing was tested."""


def shown(content: Mapping[str, Any], details: Mapping[str, Any] | None = None, name: str = "") -> dict[str, Any]:
    """The page's data of one result.

    `content` is a results.json or a line of a history, `details` the details.json beside it. `name` is what the page
    calls the result, by default its preset. A figure that `content` lacks is None, or a dash as text.
    """
    methods, controls = content["methods"], content.get("controls") or {}
    every = {**methods, **controls}
    scores = {row: intervals(figures) for row, figures in every.items()}
    keys = dict.fromkeys(key for found in scores.values() for key in found)
    metrics = [metric(key, content) for key in keys]
    tests = {one.key: tested(content, scores, one) for one in metrics}
    columns = [column for column in COLUMNS if any(column.figure(figures) is not None for figures in methods.values())]
    place = {row: index for index, row in enumerate(every)}
    return {
        "name": name or content["preset"],
        "preset": content["preset"],
        "compared": compared(content),
        "facts": facts(content),
        "notes": [f"{note}." for note in content.get("notes", [])],
        "deaths": [f"{one['method']}, seed {one['seed']}, in {one['phase']}: {one['cause']}"
                   for one in content.get("deaths", [])],
        "metrics": [
            {
                **asdict(one),
                "tested": tests[one.key] is not None,
                "seeds": cover_seeds(content, one),
                "untested": untested(content, one),
                "headline": headline(content, scores, one, tests[one.key]),
                "groups": [[place[row] for row in group] for group in (tests[one.key] or NONE).lettered],
                "differences": differences(content, one, place),
            }
            for one in metrics
        ],
        "columns": [
            {"key": one.key, "label": one.label, "group": one.group, "best": one.best, "cost": one.cost}
            for one in columns
        ],
        "rows": [
            row_of(row, found, row in controls, scores[row], metrics, tests, columns) for row, found in every.items()
        ],
        "frontiers": frontiers(methods, scores, metrics, tests, columns),
        "settings": differing({row: figures.get("hyperparameters") or {} for row, figures in methods.items()}),
        "environment": [[key, text(value)] for key, value in (content.get("environment") or {}).items()],
        "verdicts": [],
        "steps": (details or {}).get("steps", {}),
        "texts": texts(content.get("document_ids") or [], details, every),
    }  # fmt: skip


def tested(content: Mapping[str, Any], scores: Mapping[str, Any], one: Metric) -> Tests | None:
    """What the tests tell apart; None where a pair of methods was not tested, or there is none."""
    pairs = [pair for pair in content.get("pairs", []) if pair["metric"] == one.key]
    if not pairs or not all(pair["covers"] == TESTED and pair["p_holm"] is not None for pair in pairs):
        return None
    apart = [pair for pair in pairs if pair["higher"]]
    better = {}
    for pair in apart:
        lower = pair["second"] if pair["higher"] == pair["first"] else pair["first"]
        better[frozenset((pair["first"], pair["second"]))] = lower if one.falls else pair["higher"]
    ranked = sorted(content["methods"], key=lambda row: worth(one, scores[row]), reverse=True)
    return Tests(groups(ranked, [(pair["first"], pair["second"]) for pair in apart]), better)


def cover_seeds(content: Mapping[str, Any], one: Metric) -> bool:
    """Whether intervals cover another draw of seeds, too: as the tests of pairs say, or where all have several."""
    if ((content.get("metrics") or {}).get(one.key) or {}).get("binary"):
        return False  # a rate's interval is Wilson's, over documents
    every = [*content.get("pairs", []), *content.get("metric_pairs", [])]
    if pairs := [pair for pair in every if pair["metric"] == one.key]:
        return all(pair["covers"] == TESTED for pair in pairs)
    return all(len(found.get("seeds") or []) > 1 for found in content["methods"].values())


def differences(content: Mapping[str, Any], one: Metric, place: Mapping[str, int]) -> list[list[Any]]:
    """Of two methods their places among the rows, the first's mean minus the second's, its bounds, and p as text."""
    pairs = [*content.get("pairs", []), *content.get("metric_pairs", [])]
    return [
        [
            place[pair["first"]],
            place[pair["second"]],
            *(round(pair[key], 6) for key in ("difference", "low", "high")),
            "" if pair["p_holm"] is None else p_value(pair["p_holm"]),
        ]
        for pair in pairs
        if pair["metric"] == one.key and pair["low"] is not None
    ]


def worth(one: Metric, scores: Mapping[str, Any]) -> float:
    """A mean, negative where the lower one is the better one."""
    mean: float = scores[one.key]["mean"]
    return -mean if one.falls else mean


def headline(content: Mapping[str, Any], scores: Mapping[str, Any], one: Metric, tests: Tests | None) -> str:
    """The report's sentence about the best mean."""
    means = {row: scores[row][one.key]["mean"] for row in content["methods"] if one.key in scores[row]}
    means = {row: mean for row, mean in means.items() if mean is not None}
    found = tests.groups if tests else None
    return sentence.headline(means, found, one.label, plain, one.show, one.falls, untested(content, one))


def untested(content: Mapping[str, Any], one: Metric) -> str:
    """Why no verdict is given where none is."""
    if "pairs" not in content:
        return "a history does not hold what tests say"
    pairs = [pair for pair in content["pairs"] if pair["metric"] == one.key]
    if pairs and len(content.get("document_ids") or []) < 2:
        return "one test document gives no interval"
    if any(pair["covers"] != TESTED for pair in pairs):
        return "the variance between seeds is not known"
    return "not every two of them could be tested" if pairs else "this metric carries no verdict"


def row_of(
    name: str, found: Mapping[str, Any], control: bool, scores: Mapping[str, Any], metrics: Sequence[Metric],
    tests: Mapping[str, Tests | None], columns: Sequence[Column],
) -> dict[str, Any]:  # fmt: skip
    """One method or control."""
    cells = {}
    for column in columns:
        value = column.figure(found)
        cells[column.key] = [value, MISSING if value is None else column.show(value)]
    return {
        "name": name,
        "control": control,
        "seeds": found.get("seeds") or [],
        "scores": {one.key: score(one, scores[one.key]) for one in metrics if one.key in scores},
        "letters": {key: one.letters.get(name, "") for key, one in tests.items() if one},
        "figures": cells,
        "epochs": found.get("epochs") or [],
    }


def score(one: Metric, interval: Mapping[str, Any]) -> dict[str, Any]:
    """A mean with its interval, as numbers and as text."""
    bounds = {bound: interval[bound] for bound in ("mean", "low", "high")}
    return {**bounds, "text": one.show(interval["mean"]), "span": one.bounds(interval)}


def compared(content: Mapping[str, Any]) -> str:
    """What was compared, in one line."""
    methods, controls = content["methods"], content.get("controls") or {}
    counted = [row["documents"] for row in [*methods.values(), *controls.values()] if "documents" in row]
    seeds = sorted({seed for row in methods.values() for seed in row.get("seeds") or []})
    who = number(len(methods), "method") + (f" and {number(len(controls), 'control')}" if controls else "")
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
    methods: Mapping[str, Any],
    scores: Mapping[str, Any],
    metrics: Sequence[Metric],
    tests: Mapping[str, Tests | None],
    columns: Sequence[Column],
) -> dict[str, dict[str, list[str]]]:
    """By metric and cost the methods on the frontier, where every method has the cost and was tested."""
    found: dict[str, dict[str, list[str]]] = {}
    for column in (column for column in columns if column.cost):
        cost = {row: column.figure(figures) for row, figures in methods.items()}
        if any(value is None for value in cost.values()) or len(set(cost.values())) < 2:
            continue
        for one in metrics:
            if said := tests[one.key]:
                worths = {row: worth(one, scores[row]) for row in methods}
                found.setdefault(one.key, {})[column.key] = frontier(cost, worths, said.better)
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
