"""What was asked for becomes runs: settings, methods, model, data and machine, all checked before the first run."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bakeoff.config import hardware
from bakeoff.config.schema import (
    READ_LATER,
    Settings,
    TrainingSettings,
    plain,
)
from bakeoff.data.sources import remote
from bakeoff.methods.registry import Entry
from bakeoff.methods.selection import configure, refuse_unread, select
from bakeoff.models import quantise
from bakeoff.runs.records import RunSpec
from bakeoff.session import worker
from bakeoff.session.store import Store

WAY = ("core", "config", "metrics", "data", "methods", "models", "engine", "runs")
"""The folders on a run's way: a change in a file of one of them makes another run. Reports are not among them."""
PROBED = ("model", "task", "scoring", "measure", "machine", "engine")
"""The sections of settings that decide what `probe` finds."""
PACKAGE = Path(__file__).resolve().parents[1]
MACHINE = "machine.json"
"""What was timed of this machine, in a store. Who holds its lock computes something else."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of a bake-off, in order, by method."""

    settings: Settings
    entries: tuple[Entry, ...]
    specs: dict[str, tuple[RunSpec, ...]]
    """Method name to one RunSpec a seed; a control has one, since its rows don't depend on the seed."""
    found: dict[str, Any]
    """What `probe` found: hashes of model and data, the machine resolved, its compiler and its GPU."""


def make(
    settings: Settings, asked: Sequence[str], store: Store, found: dict[str, Any] | None = None, parallel: int = 1
) -> Plan:
    """The checked plan for `--method asked`. Raises UsageError for everything that a user can mend.

    `found` is what another process's plan found, which is then not checked again. `parallel` runs share the processor.
    """
    chosen = configured(settings, asked)
    methods = [(entry.name, entry.method, str(entry.file), plain(method)) for entry, (method, _) in chosen]
    if found is None:
        read = {**sections(settings), "parallel": parallel or 1}
        found = worker.call(probe, read, methods, str(store.models), log=store.logs / "prepare.log")
    refuse_optimizers(chosen, found["machine"]["device"])
    hashes = {"model": found["model"], "data": found["data"], "text": found["text"], "source": source_sha256()}
    versions = {**hardware.versions(), "compiler": found["compiler"], **found["card"]}
    specs = {}
    for entry, (_, recipe) in chosen:
        seeds = settings.seeds[:1] if entry.control else settings.seeds
        specs[entry.name] = tuple(
            RunSpec(
                method=entry.name,
                base=entry.method,
                control=entry.control,
                method_file=str(entry.file),
                hyperparameters=found["methods"][entry.name],
                seed=seed,
                model=plain(settings.model),
                task=plain(settings.task),
                training={} if entry.control else plain(recipe),
                generation=plain(settings.generation),
                scoring={key: value for key, value in plain(settings.scoring).items() if key not in READ_LATER},
                measure={} if entry.control else plain(settings.measure),
                machine=found["machine"],
                hashes={**hashes, "method": entry.sha256, "prompt": found["prompts"].get(entry.name, "")},
                versions={**versions, **of_optimizer(recipe)},
            )
            for seed in seeds
        )
    return Plan(settings, tuple(entry for entry, _ in chosen), specs, found)


def refuse_optimizers(chosen: Sequence[tuple[Entry, tuple[Any, TrainingSettings]]], device: str) -> None:
    """Raises UsageError where a method asks for an optimizer that can't be had on `device`."""
    for entry, (_, recipe) in chosen:
        if recipe.optimizer == "adamw8bit" and not entry.control:
            quantise.refuse(f"method {entry.name!r}, optimizer = 'adamw8bit'", device, "training.optimizer=adamw")


def of_optimizer(recipe: TrainingSettings) -> dict[str, str]:
    """The version of what an optimizer needs beside torch."""
    return quantise.installed() if recipe.optimizer == "adamw8bit" else {}


def configured(settings: Settings, asked: Sequence[str]) -> list[tuple[Entry, tuple[Any, TrainingSettings]]]:
    """The methods of `--method asked`, each with its hyperparameters and recipe. Raises UsageError."""
    entries = select(asked, settings)
    refuse_unread(settings, entries)
    return [(entry, configure(entry, settings)) for entry in entries]


def sections(settings: Settings) -> dict[str, Any]:
    """The settings that `probe` reads, by section, as a process can be sent them."""
    return {name: plain(getattr(settings, name)) for name in PROBED}


def probe(*asked: Any) -> dict[str, Any]:
    """What `session.probe` finds, which loads torch: in a process of its own."""
    from bakeoff.session.probe import probe

    return probe(*asked)


def source_sha256(package: Path = PACKAGE) -> str:
    """Of every source file, Python and C, in the folders on a run's way: their names and what stands in them."""
    digest = hashlib.sha256()
    for folder in WAY:
        for file in sorted((package / folder).rglob("*.*")):
            if file.suffix in (".py", ".c", ".h"):
                digest.update(f"{file.relative_to(package).as_posix()}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def on_hub(model: str, task: str) -> bool:
    """Whether the names of a model and of documents are of what comes over the network."""
    remote_model = "/" in model and not os.path.exists(os.path.expanduser(model)) and not model.endswith(".gguf")
    return remote_model or remote(task)
