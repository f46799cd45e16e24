"""The record of trials of a preset: which settings were tried on the validation split, and how each did.

A command writes it below `reports/`; who puts its choice into the preset puts the record beside it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from filelock import FileLock

from bakeoff.config import project
from bakeoff.config.schema import Settings, plain
from bakeoff.core.errors import UsageError
from bakeoff.core.files import replace
from bakeoff.core.validation import misfit, strict_json

CRITERION = "lowest validation loss of any epoch"


@dataclass(frozen=True)
class Trial:
    """One setting of a method, trained and validated."""

    method: str
    """Name of the method or row."""
    settings: Mapping[str, Any]
    """What was tried: values by setting."""
    validation_loss: float | None
    """CRITERION in nats per label token, the mean over seeds; None if training diverged or died."""
    by_epoch: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Validation losses by seed: before training, then after each epoch."""
    cause: str = ""
    """Why there is no loss."""
    diverged: bool = False
    """Whether there is none because training diverged, which would repeat itself."""

    @property
    def loss(self) -> float:
        """The validation loss, infinite where there is none."""
        return math.inf if self.validation_loss is None else self.validation_loss


class Stored(TypedDict, total=False):
    """A trial in the record."""

    method: str
    settings: dict[str, Any]
    model: str
    task: str
    seeds: list[int]
    set: dict[str, Any]
    """What `--set` changed for all trials of the command; absent where it changed nothing."""
    validation_loss: float | None
    by_epoch: dict[str, list[float]]
    cause: str
    diverged: bool
    asked: str
    """A digest of everything that the trial was asked; the same question needs no second trial."""


class Record:
    """The file of a preset's trials, read and written for one model, one task and the same seeds."""

    def __init__(self, settings: Settings) -> None:
        """Raises UsageError where there is a file, and it is no record."""
        self.path = place(settings)
        self.of: dict[str, Any] = {
            "model": settings.model.name,
            "task": settings.task.name,
            "seeds": list(settings.seeds),
        }
        if changes := {key: plain(value) for key, value in settings.changes.items() if key != "task.test"}:
            self.of["set"] = changes
        found = find(settings)
        self.rows = read(found) if found else []

    def known(self, asked: str, settings: Mapping[str, Any]) -> Trial | None:
        """The trial that answered this question; None without one, and for one that died of something else.

        Raises UsageError where its row is not as it must be.
        """
        row = next((row for row in self.rows if row.get("asked") == asked), None)
        if row is None or (row.get("validation_loss") is None and not row.get("diverged")):
            return None
        if wrong := misfit(row, Stored, row["method"]):
            raise malformed(self.path, f"{wrong} is not what is stored there")
        return Trial(
            row["method"], settings, row["validation_loss"], row.get("by_epoch", {}), row.get("cause", ""),
            row.get("diverged", False),
        )  # fmt: skip

    def lower(self, trial: Trial) -> dict[str, Any] | None:
        """The row with the lowest loss if it is below `trial`'s: same method, documents, seeds and keys of settings."""
        subjects = {"method": trial.method, "set": None, **self.of}
        rows = [
            row for row in self.rows
            if all(row.get(key) == value for key, value in subjects.items())
            and list(row.get("settings", {})) == list(trial.settings)
            and isinstance(row.get("validation_loss"), float) and row["validation_loss"] < trial.loss
        ]  # fmt: skip
        return min(rows, key=lambda row: row["validation_loss"], default=None)

    def keep(self, asked: str, trial: Trial) -> None:
        """Writes a trial into the file, where it replaces an earlier one of the same settings. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.stem}.lock")):
            if self.path.is_file():
                self.rows = read(self.path)  # another command may have written its own trials
            row = self.row(asked, trial)
            rows = [other for other in self.rows if other.get("asked") != asked and subject(other) != subject(row)]
            self.rows = sorted([*rows, row], key=order)
            content = {"criterion": CRITERION, "trials": self.rows}
            replace(self.path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())

    def row(self, asked: str, trial: Trial) -> dict[str, Any]:
        """A trial as the file holds it."""
        found: dict[str, Any] = {"method": trial.method, "settings": dict(trial.settings), **self.of}
        found["validation_loss"] = trial.validation_loss
        if trial.by_epoch:
            found["by_epoch"] = {seed: list(losses) for seed, losses in trial.by_epoch.items()}
        if trial.cause:
            found |= {"cause": trial.cause, "diverged": trial.diverged}
        return {**found, "asked": asked}


def place(settings: Settings) -> Path:
    """Where the record of a preset is written."""
    return project.own("reports", "tune", f"{settings.preset}.trials.json")


def kept(settings: Settings) -> Path:
    """Where the record of the choices in a preset stands: beside it."""
    return Path(settings.source).with_suffix(".trials.json")


def find(settings: Settings) -> Path | None:
    """The record with which a tuning goes on: the one that it wrote, else the one beside the preset; None without."""
    return next((path for path in (place(settings), kept(settings)) if path.is_file()), None)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a record. Raises UsageError where the file is none."""
    try:
        rows = strict_json(path.read_bytes())["trials"]
        if not isinstance(rows, list) or not all(isinstance(row["method"], str) for row in rows):
            raise TypeError
        if not all(isinstance(row.get("settings", {}), dict) for row in rows):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise malformed(path, "not a record of trials") from None
    return rows


def malformed(path: Path, what: str) -> UsageError:
    """The complaint about a file that is no record."""
    return UsageError(f"{path}: {what}; expected what bakeoff tune writes; remove the file to begin anew")


def counts(settings: Settings) -> dict[str, int]:
    """How many settings were tried for each method on this model and task before the preset got its own.

    {} without a record beside the preset. Raises UsageError.
    """
    found: dict[str, int] = {}
    path = kept(settings)
    ours = {"model": settings.model.name, "task": settings.task.name}
    for row in read(path) if path.is_file() else []:
        if all(row.get(key, value) == value for key, value in ours.items()):
            found[row["method"]] = found.get(row["method"], 0) + 1
    return found


def lowest(trials: Sequence[Trial]) -> Trial:
    """The best trial: the lowest loss, and of equal losses the lowest settings."""
    return min(trials, key=lambda trial: (trial.loss, [ranked(value) for value in trial.settings.values()]))


def numeric(value: Any) -> bool:
    """Whether a setting's value is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def ranked(value: Any) -> tuple[bool, float, str]:
    """A key that sorts numbers by size, and other values by their text behind them."""
    return (False, value, "") if numeric(value) else (True, 0.0, json.dumps(value))


def order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """A key that sorts rows by method and then by settings."""
    return row["method"], [(key, ranked(value)) for key, value in row.get("settings", {}).items()]


def subject(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says was tried, and on what."""
    return {key: row.get(key) for key in ("method", "settings", "model", "task", "seeds", "set")}
