"""The history of a preset: a line of JSON for each finished bake-off, in history/ beside the folders of reports."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

import bakeoff
from bakeoff.config import project
from bakeoff.core.errors import UsageError, nearest
from bakeoff.core.files import flush
from bakeoff.core.validation import strict_json
from bakeoff.gate.verdicts import Gate
from bakeoff.report.comparison import Comparison
from bakeoff.report.results_json import content, finite

SCHEMA = 1
SHARED = ("preset", "model", "task", "signature", "environment", "settings", "metrics")
"""What a line has of results.json."""
FIGURES = ("rouge", "metrics", "seconds", "memory_bytes", "parameters", "hyperparameters", "seeds", "documents", "runs")
"""What a line has of a method in results.json: all but the scores of documents and the curves."""
PATIENCE = 5.0
"""Seconds that git has to name the commit."""


def path_of(report: Path, preset: str) -> Path:
    """The file of a preset's history, beside the folder of its report: reports/history/PRESET.jsonl by default."""
    return report.resolve().parent / "history" / f"{preset}.jsonl"


def line(comparison: Comparison, gate: Gate | None = None) -> dict[str, Any]:
    """The line of a bake-off: what results.json says of its methods, without the scores of documents."""
    whole = content(comparison)
    found = {
        "schema": SCHEMA,
        "finished": max((run.finished for row in comparison.methods for run in row.runs), default=""),
        "bakeoff": bakeoff.__version__,
        "commit": commit(project.root()),
        **{key: whole[key] for key in SHARED},
        "methods": {
            name: {key: figures[key] for key in FIGURES if key in figures} for name, figures in whole["methods"].items()
        },
        "gate": verdicts(gate) if gate else None,
    }
    return dict(finite(found))


def verdicts(gate: Gate) -> dict[str, Any]:
    """What the gate said: by method and metric, scores as F1 in 0..1."""
    found: dict[str, dict[str, Any]] = {}
    for one in gate.verdicts:
        found.setdefault(one.method, {})[one.metric] = {
            "verdict": one.word,
            "difference": one.contrast.difference,
            "low": one.contrast.low,
            "high": one.contrast.high,
            "p_holm": one.p,
        }
    return {
        "baseline": gate.baseline,
        "tolerance": gate.tolerance,
        "alpha": gate.alpha,
        "verdicts": found,
        "refusals": dict(gate.refusals),
    }


def commit(folder: Path) -> str | None:
    """The commit of the repository around `folder`, with `-dirty` where files differ from it; None if not known."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None


def append(path: Path, new: Mapping[str, Any], made: bool) -> bool:
    """Appends `new` to a history; returns whether it did.

    A bake-off that `made` no run is not appended if a line holds the same runs and the same verdicts. Two processes
    append one after another, and a line that a killed process left unfinished stays alone. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.stem}.lock")):
        if not made and any(same(new, old) for old in read(path)[0]):
            return False
        with open(path, "a+b") as file:
            torn = False
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"
            file.write((b"\n" if torn else b"") + json.dumps(new, allow_nan=False).encode() + b"\n")
        flush(path)
    return True


def same(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether two lines tell of the same runs and verdicts."""

    def told(one: Mapping[str, Any]) -> tuple[Any, Any]:
        return {name: figures.get("runs") for name, figures in one["methods"].items()}, one.get("gate")

    return told(new) == told(old)


def read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines of a history, and a note for each that is not one; without a file there are none. Raises OSError."""
    try:
        text = path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return [], []
    found, notes = [], []
    for number, one in enumerate(text.split("\n"), 1):
        if not one.strip():
            continue
        try:
            found.append(checked(strict_json(one)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            end = "it is incomplete" if number == text.count("\n") + 1 else "it is no bake-off of this schema"
            notes.append(f"{path.name}: line {number} was left out: {end}")
    return found, notes


def checked(value: Any) -> dict[str, Any]:
    """A line with what is read of it. Raises ValueError, KeyError or TypeError where that isn't there."""
    if value["schema"] != SCHEMA or isinstance(value["schema"], bool):
        raise ValueError
    texts = [value[key] for key in ("finished", "bakeoff", "preset", "model")]
    tables = [value["methods"], *value["methods"].values(), *(one["rouge"] for one in value["methods"].values())]
    if not all(isinstance(one, str) for one in texts) or not all(isinstance(one, dict) for one in tables):
        raise TypeError
    return dict(value)


def files(preset: str = "") -> Sequence[Path]:
    """The histories of all presets, or that of one. Raises UsageError where there is none."""
    known = sorted(project.own("reports", "history").glob("*.jsonl"))
    chosen = [path for path in known if not preset or path.stem == preset]
    if preset and not chosen and Path(preset).is_file():
        return [Path(preset)]
    if not chosen:
        asked = f"history {preset!r}: " if preset else "history: "
        advice = nearest(preset, [path.stem for path in known]) if known else "type pytest bench/ --method all first"
        raise UsageError(f"{asked}no bake-off was recorded in {project.own('reports', 'history')}; {advice}")
    return chosen
