"""Losses of a finished run's weights on its training and validation documents, in a process of its own."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypedDict

from bakeoff.core.errors import UsageError
from bakeoff.core.events import Emit
from bakeoff.core.files import replace
from bakeoff.runs.records import RunResult
from bakeoff.session import worker
from bakeoff.session.store import Store


class Losses(TypedDict):
    """Nats per label token under the weights that a run kept."""

    training: float
    validation: float


def losses(run: RunResult, store: Store) -> Losses:
    """Losses of a finished run, from the store where they were measured before. Raises UsageError where it dies."""
    file = store.root / "studies" / f"{run.fingerprint}.json"
    if file.is_file():
        known: Losses = json.loads(file.read_bytes())
        return known
    log = store.logs / f"{run.fingerprint}.losses.log"
    try:
        with store.computing():
            found: Losses = worker.call(
                measure, run.spec, str(store.folder(run.fingerprint) / "adapter"), str(store.models), log=log
            )
    except worker.Died as died:
        raise UsageError(f"the losses of run {run.fingerprint[:12]} can't be measured: {died}; see {log}") from None
    replace(file, (json.dumps(found) + "\n").encode())
    return found


def measure(spec: dict[str, Any], adapter: str, cache: str, emit: Emit) -> Losses:
    """The base model with a run's saved weights on the run's documents, as its own validation computes them."""
    from bakeoff.config.schema import TaskSettings
    from bakeoff.core.validation import build
    from bakeoff.data import tasks
    from bakeoff.methods.registry import find
    from bakeoff.metrics.rouge import Scorer
    from bakeoff.runs import adapters
    from bakeoff.runs.checkpoints import Checkpointer
    from bakeoff.runs.pipeline import ModelRun
    from bakeoff.runs.records import RunSpec
    from bakeoff.runs.resources import Clock
    from bakeoff.runs.training import mean_loss

    asked = RunSpec(**{**spec, "measure": {}})
    entry = find(Path(asked.method_file), asked.base)
    method = build(entry.kind, asked.hyperparameters, asked.method_file)
    task = tasks.load(build(TaskSettings, asked.task, "run"), Scorer())
    with ExitStack() as patches:
        made = ModelRun(asked, entry, method, task, Path(cache), emit, Clock(), Checkpointer(), patches)
        adapters.load(made.model, Path(adapter))
        size = asked.training["micro_batch_size"]
        return {
            "training": mean_loss(made.engine, made.model, made.training, size),
            "validation": mean_loss(made.engine, made.model, made.validation, size),
        }
