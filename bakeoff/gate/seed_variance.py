"""The variance between seeds that was measured once for a preset, for comparisons with one seed a method."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bakeoff.config import presets, project
from bakeoff.config.schema import Settings
from bakeoff.core.errors import UsageError
from bakeoff.gate.baseline import Record, read
from bakeoff.metrics.rouge import METRICS, same_scores
from bakeoff.runs.records import RunResult
from bakeoff.stats.contrasts import SeedVariance, components


def path_of(preset: str, folder: Path | None = None) -> Path:
    """The file of a preset's calibration, in the project where no folder is given."""
    return (folder or project.own("bench", "baselines")) / f"{preset}.calibration.json"


def find(settings: Settings, ending: str, folder: Path | None) -> Path | None:
    """A preset's file in `folder`, or in the project and behind it where None is given; None where there is none."""
    name = f"{settings.preset}{ending}"
    if folder is None:
        return presets.find_beside(settings, "bench", "baselines", name)
    return folder / name if (folder / name).is_file() else None


def load(settings: Settings, signature: str, folder: Path | None = None) -> dict[str, SeedVariance]:
    """By metric; {} where the preset has no calibration, or one of another model, task or signature.

    Raises UsageError for a file that is not what `python -m lab.calibration` writes.
    """
    path = find(settings, ".calibration.json", folder)
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        told = (found["model"], found["task"], found["signature"])
        variances = {metric: SeedVariance(**found["metrics"][metric], source="calibration") for metric in METRICS}
        if any(v.df < 1 or v.documents < 2 or not v.ms_seed >= 0 or not v.ms_res >= 0 for v in variances.values()):
            raise ValueError("a figure is out of its range")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not a calibration ({error!r}); type: make calibrate") from None
    fits = told[:2] == (settings.model.name, settings.task.name) and same_scores(str(told[2]), signature)
    return variances if fits else {}


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
            found[name] = self.of_baseline(name, runs[0]) or load(self.settings, runs[0].signature, self.folder)
        return found

    def of_baseline(self, name: str, run: RunResult) -> dict[str, SeedVariance]:
        """From the accepted seeds of the method on the same documents; {} without them."""
        record = self.baseline
        if record is None or name not in record.methods:
            return {}
        if not same_scores(record.signature, run.signature) or sorted(record.documents) != sorted(run.document_ids):
            return {}
        parts = {metric: components(record.methods[name].rows(metric), "baseline") for metric in METRICS}
        return {metric: part for metric, part in parts.items() if part is not None}


def dump(settings: Settings, signature: str, method: str, seeds: int, variances: dict[str, SeedVariance]) -> str:
    """The file's text."""
    metrics = {
        metric: {"ms_seed": v.ms_seed, "ms_res": v.ms_res, "df": v.df, "documents": v.documents}
        for metric, v in variances.items()
    }
    content = {"preset": settings.preset, "model": settings.model.name, "task": settings.task.name,
               "signature": signature, "method": method, "seeds": seeds, "metrics": metrics}  # fmt: skip
    return json.dumps(content, indent=1) + "\n"
