"""The variance between seeds that was measured once for a preset, for comparisons with one seed a method."""

import json
from pathlib import Path

from bakeoff.contrasts import SeedVariance
from bakeoff.errors import UsageError
from bakeoff.results import METRICS
from bakeoff.settings import ROOT, Settings

BASELINES = ROOT / "reports" / "baselines"


def path_of(preset: str, folder: Path = BASELINES) -> Path:
    """The file of a preset's calibration."""
    return folder / f"{preset}.calibration.json"


def load(settings: Settings, signature: str, folder: Path = BASELINES) -> dict[str, SeedVariance]:
    """By metric; {} where the preset has no calibration, or one of another model, task or signature.

    Raises UsageError for a file that is not what `python -m lab.calibration` writes.
    """
    path = path_of(settings.preset, folder)
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        told = (found["model"], found["task"], found["signature"])
        variances = {metric: SeedVariance(**found["metrics"][metric], source="calibration") for metric in METRICS}
        if any(v.df < 1 or v.documents < 2 or not v.ms_seed >= 0 or not v.ms_res >= 0 for v in variances.values()):
            raise ValueError("a figure is out of its range")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not a calibration ({error!r}); type: make calibrate") from None
    return variances if told == (settings.model.name, settings.task.name, signature) else {}


def dump(settings: Settings, signature: str, method: str, seeds: int, variances: dict[str, SeedVariance]) -> str:
    """The file's text."""
    metrics = {
        metric: {"ms_seed": v.ms_seed, "ms_res": v.ms_res, "df": v.df, "documents": v.documents}
        for metric, v in variances.items()
    }
    content = {"preset": settings.preset, "model": settings.model.name, "task": settings.task.name,
               "signature": signature, "method": method, "seeds": seeds, "metrics": metrics}  # fmt: skip
    return json.dumps(content, indent=1) + "\n"
