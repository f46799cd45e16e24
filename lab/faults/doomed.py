"""A LoRA with dropout that kills its bake-off at the moment which BAKEOFF_DOOM names; for lab.faults alone.

`BAKEOFF_DOOM=moment:count:whom` waits for the `count`-th time that the moment comes, then sends SIGKILL to the whole
process group (`whom` is `all`) or to the pytest process alone (`parent`). Without the variable it is a plain method.
"""

import functools
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft import LoraConfig, get_peft_model

from bakeoff.methods.parameters import ParameterCounts, Shapes
from bakeoff.runs import adapters, checkpoints, training
from bakeoff.runs.pipeline import Base
from bakeoff.session import store

MOMENTS = {  # name: (what is called then, its name, whether the kill comes before or after the call)
    "load": (Base, "load", "before"),
    "loaded": (Base, "load", "after"),
    "forward": (training, "loss_sum", "before"),
    "validation": (training, "mean_loss", "after"),
    "step": (torch.optim.AdamW, "step", "before"),
    "stepped": (torch.optim.AdamW, "step", "after"),
    "checkpoint": (checkpoints, "save_tensors", "before"),
    "checkpoint-torn": (checkpoints, "save_tensors", "torn"),
    "checkpoint-named": (checkpoints, "write_whole", "before"),
    "checkpointed": (checkpoints, "write_whole", "after"),
    "summaries": (checkpoints.Checkpointer, "keep", "before"),
    "summaries-torn": (checkpoints.Checkpointer, "keep", "torn"),
    "summaries-kept": (checkpoints.Checkpointer, "keep", "after"),
    "adapter": (adapters, "save", "before"),
    "adapter-saved": (adapters, "save", "after"),
    "result": (store, "write_json", "before"),
    "result-torn": (store, "write_json", "torn"),
    "result-named": (store, "manifest", "after"),
    "result-renamed": (store.Store, "forget_partial", "before"),
}


def strike(whom: str) -> None:
    """SIGKILL; where only the parent is hit, this process goes on as if nothing were wrong."""
    parent = multiprocessing.parent_process()
    if whom == "all" or parent is None or parent.pid is None:
        os.killpg(os.getpgrp(), signal.SIGKILL)
    else:
        os.kill(parent.pid, signal.SIGKILL)
    time.sleep(600)


def tear(name: str, arguments: tuple[Any, ...]) -> None:
    """Leaves half of what the call has just written."""
    path = (
        arguments[0].folder / "summaries.jsonl" if name == "keep" else next(a for a in arguments if hasattr(a, "stat"))
    )
    size = path.stat().st_size
    last = path.read_bytes().rstrip(b"\n").rfind(b"\n") + 1 if name == "keep" else 0
    os.truncate(path, (size + last) // 2)


def arm(doom: str) -> None:
    """Wraps the call that the moment stands for."""
    moment, count, whom = doom.split(":")
    place, name, when = MOMENTS[moment]
    real, calls = getattr(place, name), []

    @functools.wraps(real)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        due = len(calls) == int(count)
        if due and when == "before":
            strike(whom)
        value = real(*arguments, **named)
        if due and when == "torn":
            tear(name, arguments)
        if due:
            strike(whom)
        return value

    setattr(place, name, wrapped)


if "BAKEOFF_DOOM" in os.environ and not hasattr(sys, "_bakeoff_doomed"):
    sys._bakeoff_doomed = True  # type: ignore[attr-defined]  # the file is loaded once for its plan and once for its run
    arm(os.environ["BAKEOFF_DOOM"])


@dataclass(frozen=True)
class Doomed:
    """LoRA on q_proj and v_proj; its dropout draws from the random state that a checkpoint must hold."""

    name: ClassVar[str] = "doomed"

    rank: int = 8

    def attach(self, model: Any, tokenizer: Any) -> Any:
        """Wraps `model` in PEFT's LoRA."""
        config = LoraConfig(task_type="CAUSAL_LM", r=self.rank, lora_dropout=0.2, target_modules=["q_proj", "v_proj"])
        return get_peft_model(model, config)

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """rank x (inputs + outputs) for each matrix."""
        ends = (".q_proj.weight", ".v_proj.weight")
        added = sum(self.rank * sum(shapes[name]) for name in shapes if name.endswith(ends))
        total = shapes.total
        return ParameterCounts(total=total + added, trainable=added, frozen=total, added=added, tied=shapes.tied)
