"""results.json of a finished bake-off as a side of the gate, with one seed or more a method."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bakeoff.config.schema import READ_LATER, GateSettings, ModelSettings, Settings, TaskSettings
from bakeoff.core.errors import UsageError
from bakeoff.core.validation import build
from bakeoff.gate import seed_variance
from bakeoff.gate.baseline import Reader, Record, Scored, flat, parse, rounded
from bakeoff.gate.verdicts import Gate, judge
from bakeoff.metrics.rouge import METRICS

REMEDY = "give a results.json that pytest bench/ wrote"
SILENT = "an earlier version wrote the file, which did not say whether the tokenizer knows the references"


@dataclass(frozen=True)
class Saved:
    """What compare needs of a results.json."""

    record: Record
    dead: dict[str, str]
    """Cause by method, of methods without a finished run."""
    unscored: str
    """What the tokenizer of the scores does not know; empty where it knows the references."""
    settings: Settings
    """Preset, names of model and task, and the gate's settings, which are the defaults where the file has none."""
    verdicts: tuple[str, ...] = METRICS
    """The metrics that carry verdicts."""
    lower: tuple[str, ...] = ()
    """Those of them of which a lower value is the better one."""


def opened(path: Path, keys: Sequence[str]) -> tuple[Reader, dict[str, Any]]:
    """What reads a results.json, and its values, `keys` among them. Raises UsageError."""
    try:
        values = parse(path, REMEDY)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; {REMEDY}") from None
    reader = Reader(path, REMEDY)
    table = reader.table(values, "the file")
    for key in keys:
        if key not in table:
            raise reader.wrong(key, "a value, but it is missing")
    return reader, table


def read(path: Path) -> Saved:
    """The file's trained methods. Raises UsageError with file and key for everything that isn't as it was written."""
    if path.is_dir():
        path = path / "results.json"
    reader, table = opened(path, ("preset", "task", "signature", "settings", "methods", "deaths", "document_ids"))
    ids = reader.documents(table["document_ids"])
    settings = reader.table(table["settings"], "settings")
    methods = reader.table(table["methods"], "methods")
    environment = {key: str(value) for key, value in reader.table(table.get("environment", {}), "environment").items()}
    environment.pop("memory_gib", None)
    verdicts = tuple(reader.texts(table.get("verdicts", list(METRICS)), "verdicts"))
    described = reader.table(table.get("metrics", {}), "metrics")
    known = {name: reader.table(facts, f"metrics.{name}") for name, facts in described.items() if name in verdicts}
    found = {
        name: scored(reader, f"methods.{name}", value, len(ids), settings, environment, tuple(known))
        for name, value in methods.items()
    }
    if not isinstance(table["deaths"], list):
        raise reader.wrong("deaths", "a list")
    deaths = [reader.table(death, f"deaths.{place}") for place, death in enumerate(table["deaths"])]
    dead = {str(death.get("method")): f"{death.get('cause')} (during {death.get('phase')})" for death in deaths}
    return Saved(
        record=Record(
            preset=reader.text(table["preset"], "preset"),
            signature=reader.text(table["signature"], "signature"),
            documents=ids,
            texts="",
            methods=found,
            metrics={name: str(facts.get("signature")) for name, facts in known.items()},
        ),
        verdicts=verdicts,
        lower=tuple(name for name, facts in known.items() if facts.get("better") == "lower"),
        unscored="; ".join(reader.texts(table.get("notes", [SILENT]), "notes")),
        dead={name: cause for name, cause in dead.items() if name not in found},
        settings=Settings(
            preset=reader.text(table["preset"], "preset"),
            model=ModelSettings(name=reader.text(table.get("model"), "model")),
            task=TaskSettings(name=reader.text(table["task"], "task")),
            gate=build(GateSettings, reader.table(settings.get("gate", {}), "settings.gate"), str(path), "gate."),
        ),
    )


def judged(measured: Saved, accepted: Saved, baseline: str) -> Gate:
    """Verdicts on every method of `measured`, the dead ones, too, with metrics, tolerance and alpha of `accepted`.

    `baseline` is the name of the accepted file. Raises UsageError.
    """
    asked = [*measured.record.methods, *measured.dead]
    calibration = seed_variance.load(accepted.settings, accepted.record.signature)
    return judge(
        measured.record,
        accepted.record,
        tolerance=accepted.settings.gate.tolerance,
        alpha=accepted.settings.gate.alpha,
        asked=asked,
        dead=measured.dead,
        spreads={name: seed_variance.of_method(calibration, name) for name in asked},
        metrics=accepted.verdicts,
        lower=accepted.lower,
        unscored="; ".join(dict.fromkeys(filter(None, (accepted.unscored, measured.unscored)))),
        baseline=baseline,
        remedy="give two files of the same methods and documents",
    )


def scored(
    reader: Reader, key: str, value: Any, documents: int, settings: dict[str, Any], environment: dict[str, str],
    more: tuple[str, ...] = (),
) -> Scored:  # fmt: skip
    """One method of the file; a metric in `more` is left out where a document has no value."""
    table = reader.table(value, key)
    seeds = table.get("seeds")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise reader.wrong(f"{key}.seeds", "a list of whole numbers from 0 on")
    if len(set(seeds)) < len(seeds):
        raise reader.wrong(f"{key}.seeds", "each seed once")
    scores = reader.table(table.get("scores"), f"{key}.scores")
    for metric in (metric for metric in METRICS if metric not in scores):
        raise reader.wrong(f"{key}.scores.{metric}", "a value, but it is missing")
    found = {}
    for metric in (*METRICS, *(name for name in more if name in scores)):
        rows = scores[metric]
        if not isinstance(rows, list) or len(rows) != len(seeds):
            raise reader.wrong(f"{key}.scores.{metric}", f"{len(seeds)} lists of scores, one a seed")
        if metric in more and any(isinstance(row, list) and None in row for row in rows):
            continue
        found[metric] = {
            seed: rounded(reader.row(row, f"{key}.scores.{metric}, seed {seed}", documents))
            for seed, row in zip(seeds, rows, strict=True)
        }
    asked = {name: settings.get(name, {}) for name in ("model", "task", "generation", "scoring", "machine")}
    if isinstance(asked["scoring"], dict):
        asked["scoring"] = {key: found for key, found in asked["scoring"].items() if key not in READ_LATER}
    own = reader.table(table.get("hyperparameters", {}), f"{key}.hyperparameters")
    return Scored(
        parameters=reader.counts(table.get("parameters"), f"{key}.parameters"),
        settings=flat({**asked, "method": own}),
        environment=environment,
        scores=found,
    )
