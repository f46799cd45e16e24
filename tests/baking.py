"""What tests of whole runs share: the smoke preset made smaller, and what an adapter holds."""

import hashlib
import textwrap

SMALL = ["task.train=4", "task.validation=2", "task.test=3", "task.max_target_tokens=8", "machine.threads=1"]


def adapter(store, run):
    """sha256 of a run's trained tensors."""
    [file] = (store.folder(run.fingerprint) / "adapter").glob("*.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


WHOLE = """
import os, resource, signal, time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

@dataclass(frozen=True)
class Whole:
    name: ClassVar[str] = "NAME"
    place: str = ""
    def attach(self, model, tokenizer):
ATTACH
        return model.requires_grad_(True)
    def after_step(self, model, step, steps):
STEP
    def expected_parameters(self, shapes):
        from bakeoff import ParameterCounts
        return ParameterCounts(total=shapes.total, trainable=shapes.total, frozen=0, tied=shapes.tied,
                               tied_trainable=shapes.tied)
"""


def whole(name, attach="pass", step="pass"):
    """The text of a method file that trains every weight, and does something where it attaches or after a step."""
    attach, step = (textwrap.indent(textwrap.dedent(code).strip(), " " * 8) for code in (attach, step))
    return WHOLE.replace("NAME", name).replace("ATTACH", attach).replace("STEP", step)
