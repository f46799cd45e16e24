"""Synthetic runs: plausible figures from a name and a number, nothing computed."""

import random
from typing import Any

from bakeoff.config.schema import Settings
from bakeoff.metrics.rouge import METRICS, Prediction
from bakeoff.report.comparison import MEMORY, SECONDS
from bakeoff.runs.records import RunResult

DOOMED = '''"""Dies at its first step."""

import os
from dataclasses import dataclass
from typing import ClassVar

from bakeoff import ParameterCounts, Shapes


@dataclass(frozen=True)
class Doomed:
    name: ClassVar[str] = "doomed"

    def attach(self, model, tokenizer):
        model.requires_grad_(True)
        if next(model.parameters()).device.type != "meta":
            next(model.parameters()).register_hook(lambda gradient: os._exit(7))
        return model

    def expected_parameters(self, shapes: Shapes):
        total = shapes.total
        return ParameterCounts(total=total, trainable=total, frozen=0, tied=shapes.tied, tied_trainable=shapes.tied)
'''
"""A method file whose run dies in its first backward pass."""
BASE = 134_515_008
RECIPE = {"epochs": 3, "learning_rate": 1e-3, "batch_size": 8, "schedule": "linear"}


def settings(**changes: Any) -> Settings:
    """Settings of a preset that no file holds."""
    return Settings(**{"preset": "synthetic", "description": "Figures that a factory made.", **changes})


def scores(mean: float, seed: int = 0, documents: int = 20) -> dict[str, list[float]]:
    """F1 in 0..1 by metric, spread around `mean`."""
    draw = random.Random(f"{mean} {seed}")
    level = {"rouge1": 1.0, "rouge2": 0.4, "rougeL": 0.8}
    return {m: [min(1.0, max(0.0, draw.gauss(mean * level[m], 0.1))) for _ in range(documents)] for m in METRICS}


def run(method: str = "lora", mean: float = 0.37, *, seed: int = 42, control: bool = False, trained: int = 460_800,
        documents: int = 20, passes: int = 3, **changes: Any) -> RunResult:  # fmt: skip
    """A finished run; `changes` replace fields of the RunResult."""
    found = changes.pop("scores", None) or scores(mean, seed, documents)
    counts = {"total": BASE + trained, "trainable": trained, "frozen": BASE, "added": trained, "tied": 28_311_552}
    spec = {
        "method": method, "control": control, "seed": seed, "hyperparameters": {} if control else {"rank": 16},
        "training": {} if control else {**RECIPE, "epochs": passes}, "hashes": {"model": "a" * 64, "data": "b" * 64},
        "machine": {"device": "cpu", "precision": "bf16", "attention": "eager", "threads": 2},
    }  # fmt: skip
    if control:
        changes = {"seconds": {**dict.fromkeys(SECONDS.values(), 0.0), "evaluation": 31.25}, **changes}
    values: dict[str, Any] = {
        "fingerprint": f"{method}-{seed}",
        "spec": spec,
        "parameters": None if control else {"requires_grad": counts},
        "steps": [] if control else [{"step": n, "epoch": 1 + (n - 1) // 10, "loss": 3.2 - 0.3 * n**0.4}
                                     for n in range(1, 10 * passes + 1)],
        "epochs": [] if control else curve(passes, mean),
        "seconds": {"setup": 0.7, "training": 40 + 100 * mean, "validation": 9.5, "evaluation": 31.25, "checks": 4.0},
        "tokens": {} if control else {"training": 58_854, "labels": 8_478, "generated": 2_597},
        "memory_bytes": {} if control else {**dict.fromkeys(MEMORY), "resident": 9 * 10**8, "max_resident": 18 * 10**8},
        "adapter_bytes": None if control else 4 * trained + 400,
        "truncated": {} if control else {"documents": 17, "summaries": 0},
        "scores": found,
        "document_ids": [f"paper-{n}" for n in range(len(found["rouge1"]))],
        "signature": "rouge-score:0.1.2|stemmer:yes",
        "environment": {"python": "3.11.7", "system": "Linux", "model_note": "" if control else "dequantised Q4_1"},
        "finished": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    return RunResult(**{**values, **changes})


def curve(passes: int, mean: float = 0.3) -> list[dict[str, float]]:
    """Losses that fall; the last epoch is the best."""
    start = {"epoch": 0, "validation_loss": 3.27, "best": 0}
    rest = [
        {"epoch": n, "training_loss": 3 - 0.3 * n, "validation_loss": 3.2 - mean * n**0.5, "best": int(n == passes)}
        for n in range(1, passes + 1)
    ]
    return [start, *rest]


def predictions(result: RunResult, summary: str = "A summary.") -> list[Prediction]:
    """The same summary for every document of `result`."""
    return [Prediction(name, f"Document {name}.", "A reference.", summary) for name in result.document_ids]
