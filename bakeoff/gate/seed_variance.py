"""The variance between seeds that was measured once for a preset, for comparisons with one seed a method."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bakeoff.config import presets, project
from bakeoff.config.schema import Settings
from bakeoff.core.errors import UsageError
from bakeoff.gate.baseline import Record, asked, read
from bakeoff.metrics.rouge import METRICS, same_scores
from bakeoff.runs.records import RunResult
from bakeoff.stats.contrasts import SeedVariance, components, pool


def path_of(preset: str, folder: Path | None = None) -> Path:
    """The file of a preset's calibration, in the project where no folder is given."""
    return (folder or project.own("bench", "baselines")) / f"{preset}.calibration.json"


def find(settings: Settings, ending: str, folder: Path | None) -> Path | None:
    """A preset's file in `folder`, or in the project and behind it where None is given; None where there is none."""
    name = f"{settings.preset}{ending}"
    if folder is None:
        return presets.find_beside(settings, "bench", "baselines", name)
    return folder / name if (folder / name).is_file() else None


OWN, OTHERS = "calibration", "calibration of other methods"
Variances = dict[str, SeedVariance]
"""By metric."""
SECTIONS = ("task.", "training.", "generation.", "method.")
"""Of the settings that may change how far seeds differ."""
NEUTRAL = {"task.validation", "task.test", "training.micro_batch_size", "generation.batch_size"}
"""Settings of these that don't: what is computed at once, and how many documents are scored, which is allowed for."""


@dataclass(frozen=True)
class Measured:
    """The variance between seeds of one method."""

    seeds: int
    variances: Variances
    settings: Mapping[str, Any]
    """At which it was measured, by dotted key; empty where nobody recorded them."""


def measured_settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a RunSpec that may change how far seeds differ."""
    return telling(asked(spec))


def telling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `settings` that may change how far seeds differ."""
    return {key: value for key, value in settings.items() if key.startswith(SECTIONS) and key not in NEUTRAL}


def changed(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The recorded settings that have another value now, in order."""
    return sorted(key for key, value in telling(recorded).items() if now.get(key) != value)


def named(source: str, changes: Sequence[str]) -> str:
    """A source with the settings in which it differs, the first three of them."""
    if not changes:
        return source
    more = [f"and {len(changes) - 3} more"] if len(changes) > 3 else []
    return f"{source} with other settings ({', '.join([*changes[:3], *more])})"


def load(settings: Settings, signature: str, folder: Path | None = None) -> dict[str, Measured]:
    """By method; {} where the preset has no calibration, or one of another model, task or signature.

    Raises UsageError for a file that is not what `python -m lab.calibration.seeds` writes.
    """
    path = find(settings, ".calibration.json", folder)
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        described = (found["model"], found["task"], found["signature"])
        methods = {name: Measured(part["seeds"], read_metrics(part["metrics"]), dict(part.get("settings", {})))
                   for name, part in found["methods"].items()}  # fmt: skip
        if not methods:
            raise ValueError("no method")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not a calibration ({error!r}); type: git checkout {path}, or remove it") from None
    fits = described[:2] == (settings.model.name, settings.task.name) and same_scores(str(described[2]), signature)
    return methods if fits else {}


def read_metrics(values: Mapping[str, Mapping[str, float]]) -> Variances:
    """The variances of one method. Raises ValueError, KeyError and TypeError."""
    found = {metric: SeedVariance(**values[metric], source=OWN) for metric in METRICS}  # type: ignore[arg-type]
    if any(v.df < 1 or v.documents < 2 or not v.ms_seed >= 0 or not v.ms_res >= 0 for v in found.values()):
        raise ValueError("a figure is out of its range")
    return found


def of_method(calibration: Mapping[str, Measured], *names: str, now: Mapping[str, Any] | None = None) -> Variances:
    """That of the first of `names` that was measured, else that of all that were, pooled; {} of none.

    The source names the settings that are others `now`, where that is given.
    """
    for name in names:
        if name in calibration:
            one = calibration[name]
            source = named(OWN, changed(one.settings, now) if now else [])
            return {metric: replace(variance, source=source) for metric, variance in one.variances.items()}
    pooled: Variances = {}
    for metric in METRICS if calibration else ():
        parts = [found.variances[metric] for found in calibration.values()]
        if (together := pool(parts, parts[0].documents)) is not None:
            pooled[metric] = replace(together, source=named(OTHERS, of_all(calibration, now) if now else []))
    return pooled


def of_all(calibration: Mapping[str, Measured], now: Mapping[str, Any]) -> list[str]:
    """The settings in which every measured method differed, a method's own and its rate aside."""
    each = [set(changed(found.settings, now)) for found in calibration.values()]
    return sorted(key for key in set.intersection(*each) if not key.startswith(("method.", "training.learning_rate")))


@dataclass(frozen=True)
class Loans:
    """Where the variance between seeds comes from, for methods with one seed: the baseline, else the calibration."""

    settings: Settings
    baseline: Record | None
    folder: Path | None

    @classmethod
    def read(cls, settings: Settings, folder: Path | None = None) -> "Loans":
        """Reads the files of the settings' preset. Raises UsageError for one that isn't as it was written."""
        load(settings, "", folder)
        accepted = find(settings, ".json", folder)
        return cls(settings, read(accepted) if accepted else None, folder)

    def of(self, results: Mapping[str, Sequence[RunResult]]) -> dict[str, dict[str, SeedVariance]]:
        """By method and metric, for the trained methods with one run."""
        found: dict[str, dict[str, SeedVariance]] = {}
        for name, runs in results.items():
            if len(runs) > 1 or runs[0].spec["control"]:
                continue
            calibration = load(self.settings, runs[0].signature, self.folder)
            found[name] = self.of_baseline(name, runs[0]) or of_method(
                calibration, name, str(runs[0].spec.get("base", name)), now=asked(runs[0].spec)
            )
        return found

    def of_baseline(self, name: str, run: RunResult) -> dict[str, SeedVariance]:
        """From the accepted seeds of the method on the same model and documents; {} without them."""
        record = self.baseline
        if record is None or name not in record.methods:
            return {}
        if record.methods[name].settings.get("model.name") != run.spec.get("model", {}).get("name"):
            return {}
        if not same_scores(record.signature, run.signature) or sorted(record.documents) != sorted(run.document_ids):
            return {}
        source = named("baseline", changed(record.methods[name].settings, asked(run.spec)))
        parts = {
            metric: components(record.methods[name].rows(metric), source) for metric in record.methods[name].scores
        }
        return {metric: part for metric, part in parts.items() if part is not None}


def dump(settings: Settings, signature: str, methods: Mapping[str, Measured]) -> str:
    """The file's text."""
    content = {
        "preset": settings.preset,
        "model": settings.model.name,
        "task": settings.task.name,
        "signature": signature,
        "methods": {
            name: {
                "seeds": found.seeds,
                "settings": dict(sorted(found.settings.items())),
                "metrics": {
                    metric: {"ms_seed": v.ms_seed, "ms_res": v.ms_res, "df": v.df, "documents": v.documents}
                    for metric, v in found.variances.items()
                },
            }
            for name, found in methods.items()
        },
    }
    return json.dumps(content, indent=1) + "\n"
