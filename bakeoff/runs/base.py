"""The base model of a run: loaded afresh as often as asked, and prepared by the run's engine."""

import random
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bakeoff import engine
from bakeoff.config import hardware
from bakeoff.config.schema import Computation, ModelSettings
from bakeoff.core.errors import UsageError
from bakeoff.models import loading


class Base:
    """The base model, its tokenizer, and the engine that computes it."""

    def __init__(self, settings: ModelSettings, cache: Path, where: Computation, known: str = "") -> None:
        """`cache` holds converted models; `known`: the hash that the plan has found.

        Raises UsageError for a model with another hash.
        """
        self.settings, self.where = settings, where
        self.tokenizer, self.words = None, 0
        self.own: set[int] = set()
        engine.open_kernels(where, cache.parent / engine.KERNELS)
        self.source = loading.locate(settings, known, cache)
        refuse_other(f"--model {settings.name}", self.source.sha256, known)
        self.folder = loading.prepare(self.source, cache, planned=bool(known))
        self.ends = loading.end_tokens(self.folder)

    def load(self) -> tuple[Any, Any]:
        """Model (fp32 on the CPU, or on the run's GPU) and tokenizer.

        The tokenizer is the one that was loaded before, if nobody gave it a word since.
        """
        known = self.tokenizer if self.tokenizer is not None and len(self.tokenizer) == self.words else None
        found = loading.load(self.settings, self.source, self.folder, self.where.attention, known, self.where)
        self.tokenizer, self.words = found[1], len(found[1])
        self.own = set(map(id, found[0].parameters()))
        return found

    @property
    def engine(self) -> engine.Engine:
        """How the model computes, once it is loaded."""
        assert self.tokenizer is not None
        return engine.make(self.where, self.tokenizer.pad_token_id)

    def prepared(
        self, model: Any, answers: Mapping[str, str] | None = None, steps: int = 0
    ) -> AbstractContextManager[Any]:
        """Inside, `model`, a method attached, ready to train; `answers` and `steps` as in Engine.prepared."""
        added = [parameter for parameter in model.parameters() if id(parameter) not in self.own]
        return self.engine.prepared(model, added, answers, steps)


def refuse_other(what: str, found: str, planned: str) -> None:
    """Raises UsageError where a run, perhaps on another machine, reads what its plan did not: its figures would stand
    under a fingerprint that is not theirs. `planned` is empty where no plan was made."""
    if planned and found != planned:
        raise UsageError(
            f"{what}: not what stood there when the bake-off was planned; if it was changed since, type the same "
            "command again, and if this is another machine, put a copy of the same there"
        )


def seed_everything(seed: int, where: Computation) -> None:
    """Seeds every generator that a method may draw from; fixes threads and algorithms: a run repeats to the bit."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(hardware.threads_of_rank(where))
    if where.device == "cpu":
        hardware.keep_freed_memory()
    # Some CUDA kernels have no deterministic form; they warn into the run's log. Gradients come from none of them:
    # see machine.repeatable.
    torch.use_deterministic_algorithms(True, warn_only=where.device == "cuda")
    # Nothing reads memory before it is written, so filling it first would only take time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
