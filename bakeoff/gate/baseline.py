"""Accepted scores: the per-document scores of methods, read strictly and written so that a diff of them stays small."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bakeoff.core.errors import UsageError
from bakeoff.metrics.rouge import METRICS, Prediction, same_scores
from bakeoff.runs.records import RunResult
from bakeoff.scoring.api import Beside, Values

SCHEMA = 1
SEEDS = 5
"""The fewest seeds of an accepted method: with fewer the spread between seeds is hardly known."""
DIGITS = 5
"""Decimals of a stored score: a thousandth of a point of ROUGE."""


@dataclass(frozen=True)
class Scored:
    """What one method scored, and under which circumstances."""

    parameters: Mapping[str, int] | None
    """ParameterCounts as `requires_grad` says; None for a method without a model."""
    settings: Mapping[str, Any]
    """Everything that was asked of it, by dotted key."""
    environment: Mapping[str, str]
    """Machine and versions."""
    scores: Mapping[str, Mapping[int, tuple[float, ...]]]
    """By metric and seed, one a document, in 0..1: F1 of ROUGE, and other metrics that carry verdicts."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """In ascending order."""
        return tuple(sorted(self.scores[METRICS[0]]))

    def rows(self, metric: str) -> list[tuple[float, ...]]:
        """Seeds x documents, seeds in ascending order."""
        return [self.scores[metric][seed] for seed in self.seeds]


@dataclass(frozen=True)
class Record:
    """The scores of methods on the same documents: a baseline, or the side that is compared with one."""

    preset: str
    signature: str
    """How the scores were made."""
    documents: tuple[str, ...]
    """Ids of the test documents, in the order of the scores."""
    texts: str
    """sha256 of those documents and their references; empty where nobody recorded it."""
    methods: Mapping[str, Scored]
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Signatures of the metrics beside ROUGE, by name."""


def of_runs(
    preset: str,
    results: Mapping[str, Sequence[RunResult]],
    predictions: Sequence[Prediction] = (),
    beside: Beside | None = None,
) -> Record | None:
    """The record of finished runs, by method one a seed; None without any. `predictions` are those of any one of them.

    `beside` holds the metrics beside ROUGE that carry verdicts; where a document has no value, the method has none.
    Raises ValueError where runs have other documents or another signature.
    """
    every = [(name, run) for name, runs in results.items() for run in runs]
    if not every:
        return None
    first = every[0][1]
    for name, run in every:
        if (run.document_ids, run.signature) != (first.document_ids, first.signature):
            raise ValueError(f"{name}: its documents or the signature of its scores are not those of {every[0][0]}")
    return Record(
        preset=preset,
        signature=first.signature,
        documents=tuple(first.document_ids),
        texts=digest(predictions) if predictions else "",
        methods={
            name: of_method(runs, beside.values.get(name, {}) if beside else {}) for name, runs in results.items()
        },
        metrics={name: facts.signature for name, facts in beside.facts.items()} if beside else {},
    )


def of_method(runs: Sequence[RunResult], beside: Mapping[str, Values]) -> Scored:
    """One method's runs, one a seed."""
    rouge: dict[str, Values] = {metric: [run.scores[metric] for run in runs] for metric in METRICS}
    others = {metric: rows for metric, rows in beside.items() if not any(None in row for row in rows)}
    spec, counts = runs[0].spec, runs[0].parameters
    hashes = {f"{name} sha256": spec["hashes"][name][:16] for name in ("model", "data") if name in spec["hashes"]}
    described = {**spec.get("versions", {}), **runs[0].environment, **hashes}
    described.pop("memory_gib", None)  # differs from boot to boot and changes no score
    return Scored(
        parameters=dict(counts["requires_grad"]) if counts else None,
        settings=asked(spec),
        environment={key: str(value) for key, value in described.items() if value not in ("", None)},
        scores={
            metric: {int(run.spec["seed"]): rounded(row) for run, row in zip(runs, rows, strict=True)}
            for metric, rows in {**rouge, **others}.items()
        },
    )


def asked(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a RunSpec says of settings, by dotted key."""
    sections = {name: spec.get(name, {}) for name in ("model", "task", "training", "generation", "scoring", "machine")}
    return flat({**sections, "method": spec.get("hyperparameters", {})})


def digest(predictions: Sequence[Prediction]) -> str:
    """sha256 of ids, documents and references, whatever their order."""
    rows = sorted([one.id, one.document, reference] for one in predictions for reference in one.references)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def rounded(values: Sequence[float | None]) -> tuple[float, ...]:
    """Scores as a baseline keeps them."""
    return tuple(round(value, DIGITS) for value in values if value is not None)


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`, without what is empty."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif value not in ("", None, [], ()):
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found


def merge(old: Record | None, new: Record) -> Record:
    """`old` with the methods of `new` in place of its own. Raises UsageError where the rest of `old` doesn't fit."""
    kept = {} if old is None else {name: found for name, found in old.methods.items() if name not in new.methods}
    if old is not None and kept:
        names = ",".join(sorted({*kept, *new.methods}))
        for what, before, after in (
            ("signature", old.signature, new.signature),
            ("documents", old.documents, new.documents),
            ("documents' texts", old.texts, new.texts),
            ("metrics beside ROUGE", old.metrics, new.metrics),
        ):
            if before != after and not (what == "signature" and same_scores(old.signature, new.signature)):
                raise UsageError(
                    f"--update-baseline: the {what} changed, and {', '.join(sorted(kept))} in the baseline would be "
                    f"left with the old; type --method {names} --update-baseline, or delete the file"
                )
    return Record(new.preset, new.signature, new.documents, new.texts, {**kept, **new.methods}, new.metrics)


def content(record: Record) -> dict[str, Any]:
    """The record as JSON values, sorted; a list of scores a seed."""
    return {
        "schema": SCHEMA,
        "preset": record.preset,
        "signature": record.signature,
        "texts": record.texts,
        **({"metrics": dict(record.metrics)} if record.metrics else {}),
        "document_ids": list(record.documents),
        "methods": {
            name: {
                "parameters": dict(sorted(found.parameters.items())) if found.parameters else None,
                "settings": dict(sorted(found.settings.items())),
                "environment": dict(sorted(found.environment.items())),
                "scores": {
                    metric: {str(seed): list(rows[seed]) for seed in found.seeds}
                    for metric, rows in found.scores.items()
                },
            }
            for name, found in sorted(record.methods.items())
        },
    }


def read(path: Path) -> Record | None:
    """The baseline in `path`, None where there is no such file. Raises UsageError, in one line, for anything else."""
    try:
        return Reader(path).record(parse(path, REMEDY))
    except FileNotFoundError:
        return None


def parse(path: Path, remedy: str) -> Any:
    """The JSON values of a file. Raises FileNotFoundError, and UsageError for what can't be read or isn't JSON."""
    try:
        return json.loads(path.read_bytes().decode(), object_pairs_hook=unique, parse_constant=no_number)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start}; {remedy}") from None
    except (ValueError, RecursionError) as error:  # syntax, a key twice, NaN, a number of thousands of digits
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UsageError(f"{path}: not valid JSON: {reason}; {remedy}") from None


REMEDY = "restore the file, or delete it and type --update-baseline"


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, each key once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
        raise ValueError(f"the key {twice[:80]!r} stands there twice")
    return found


def no_number(name: str) -> float:
    """Refuses NaN and Infinity, which are no JSON."""
    raise ValueError(f"{name} is not a number")


class Reader:
    """Checks every value of a baseline; a complaint names the file and the dotted key."""

    def __init__(self, path: Path, remedy: str = REMEDY) -> None:
        self.path, self.remedy = path, remedy

    def wrong(self, key: str, expected: str) -> UsageError:
        """The complaint about `key`."""
        return UsageError(f"{self.path}: {key!r:.200}: expected {expected}; {self.remedy}")

    def table(self, value: Any, key: str, keys: Sequence[str] = (), more: Sequence[str] = ()) -> dict[str, Any]:
        """An object, with exactly `keys` where they are given; those in `more` may be missing."""
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        inside = f"{key}." if key != "the file" else ""
        for name in keys:
            if name not in value:
                raise self.wrong(f"{inside}{name}", "a value, but it is missing")
        for name in value:
            if keys and name not in (*keys, *more):
                raise self.wrong(f"{inside}{name}", f"only {', '.join(keys)}")
        return value

    def text(self, value: Any, key: str) -> str:
        """A string."""
        if not isinstance(value, str):
            raise self.wrong(key, "a text")
        return value

    def texts(self, value: Any, key: str) -> list[str]:
        """A list of strings."""
        if not isinstance(value, list):
            raise self.wrong(key, "a list of texts")
        return [self.text(one, f"{key}.{place}") for place, one in enumerate(value)]

    def record(self, values: Any) -> Record:
        """The whole file."""
        keys = ("schema", "preset", "signature", "texts", "document_ids", "methods")
        table = self.table(values, "the file", keys, ("metrics",))
        if table["schema"] != SCHEMA or isinstance(table["schema"], bool):
            raise self.wrong("schema", f"{SCHEMA}")
        ids = self.documents(table["document_ids"])
        methods = self.table(table["methods"], "methods")
        if not methods:
            raise self.wrong("methods", "at least one method")
        metrics = self.table(table.get("metrics", {}), "metrics")
        return Record(
            self.text(table["preset"], "preset"),
            self.text(table["signature"], "signature"),
            ids,
            self.text(table["texts"], "texts"),
            {name: self.scored(found, f"methods.{name}", len(ids), tuple(metrics)) for name, found in methods.items()},
            {name: self.text(signature, f"metrics.{name}") for name, signature in metrics.items()},
        )

    def documents(self, value: Any) -> tuple[str, ...]:
        """Ids, each once."""
        if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
            raise self.wrong("document_ids", "a list of texts, at least one")
        if len(set(value)) < len(value):
            raise self.wrong("document_ids", "each document once")
        return tuple(value)

    def counts(self, value: Any, key: str) -> dict[str, int] | None:
        """Parameter counts, None for a method without a model."""
        if value is None:
            return None
        for name, count in self.table(value, key).items():
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise self.wrong(f"{key}.{name}", "a whole number from 0 on")
        return dict(value)

    def scored(self, value: Any, key: str, documents: int, more: Sequence[str] = ()) -> Scored:
        """One method, which may have scores of the metrics in `more`."""
        table = self.table(value, key, ("parameters", "settings", "environment", "scores"))
        counts = self.counts(table["parameters"], f"{key}.parameters")
        environment = self.table(table["environment"], f"{key}.environment")
        for name, fact in environment.items():
            self.text(fact, f"{key}.environment.{name}")
        scores = self.table(table["scores"], f"{key}.scores", METRICS, more)
        found = {
            metric: {
                self.seed(seed, f"{key}.scores.{metric}"): self.row(row, f"{key}.scores.{metric}.{seed}", documents)
                for seed, row in self.table(scores[metric], f"{key}.scores.{metric}").items()
            }
            for metric in (*METRICS, *(name for name in more if name in scores))
        }
        seeds = set(found[METRICS[0]])
        for metric, rows in found.items():
            if len(rows) < SEEDS:
                raise self.wrong(f"{key}.scores.{metric}", f"at least {SEEDS} seeds")
            if set(rows) != seeds or len(rows) < len(scores[metric]):
                raise self.wrong(f"{key}.scores.{metric}", f"the seeds of {METRICS[0]}, each once")
        return Scored(counts, self.table(table["settings"], f"{key}.settings"), environment, found)

    def seed(self, name: str, key: str) -> int:
        """A seed, which JSON has as a key."""
        if not (name.isascii() and name.isdecimal() and len(name) < 11):
            raise self.wrong(f"{key}.{name}", "a seed, a whole number from 0 on, as its name")
        return int(name)

    def row(self, value: Any, key: str, documents: int) -> tuple[float, ...]:
        """The scores of one seed."""
        if not isinstance(value, list) or len(value) != documents:
            raise self.wrong(key, f"a list of {documents} scores, one a document")
        for place, score in enumerate(value, 1):
            number = isinstance(score, (int, float)) and not isinstance(score, bool)
            if not number or not math.isfinite(score) or not 0 <= score <= 1:
                raise self.wrong(f"{key}, score {place}", "a number from 0 to 1")
        return tuple(float(score) for score in value)
