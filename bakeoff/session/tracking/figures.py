"""What trackers are told: settings and figures by name."""

import math
from collections.abc import Mapping
from typing import Any

from bakeoff.core.events import News
from bakeoff.runs.records import RunResult, RunSpec


def asked(spec: RunSpec) -> dict[str, str]:
    """What a run was asked, by dotted key, as text."""
    found: dict[str, Any] = {"method": spec.method, "seed": spec.seed, "fingerprint": spec.fingerprint}
    for name in ("model", "task", "training", "generation", "scoring", "machine"):
        found |= {f"{name}.{key}": value for key, value in getattr(spec, name).items()}
    found |= {f"hyperparameters.{key}": value for key, value in spec.hyperparameters.items()}
    return {key: str(value) for key, value in found.items() if value not in ("", None, [], {}, ())}


def live(news: News) -> dict[str, float]:
    """The figures of an event; empty where it has none."""
    phase = news.get("phase")
    found: dict[str, float] = {}
    if phase == "training":
        found = {"training/loss": news["loss"], "training/tokens": float(news["tokens"])}
    elif phase == "validation":
        found = {"validation/loss": news["validation_loss"], "training/epoch_loss": news["training_loss"]}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def final(result: RunResult) -> dict[str, float]:
    """Means of the scores, seconds by phase, and bytes; without what was not measured."""
    found: dict[str, float | None] = {
        f"scores/{metric}": sum(values) / len(values) for metric, values in result.scores.items() if values
    }
    found |= {f"seconds/{phase}": value for phase, value in result.seconds.items()}
    found |= {f"memory_bytes/{counter}": value for counter, value in result.memory_bytes.items()}
    found["adapter_bytes"] = result.adapter_bytes
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def compared(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Mean and bounds of every score by method, from intervals by method and metric."""
    found = {
        f"{name}/{metric}{suffix}": value
        for name, intervals in rows.items()
        for metric, one in intervals.items()
        for suffix, value in (("", one.mean), ("/low", one.low), ("/high", one.high))
    }
    return {name: float(value) for name, value in found.items() if value is not None}
