"""`pytest bench/ --preset smoke --method all` on a tiny model of each architecture, in this process.

python -m lab.faults.rehearsal [ARCHITECTURE ...]   prints what each bake-off came to
"""

import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bakeoff.config import presets
from bakeoff.config.schema import Settings, plain
from bakeoff.core.errors import UsageError, first_line
from bakeoff.core.events import silent
from bakeoff.runs import pipeline
from bakeoff.runs.records import RunResult
from bakeoff.runs.resources import Clock
from bakeoff.session import plan
from bakeoff.session.store import Store
from bakeoff.shipped import ROOT
from lab.compatibility import architectures
from lab.compatibility.cells import probed


def smoke(name: str) -> Settings:
    """The smoke preset with a model of the architecture `name`, on fewer papers."""
    preset = presets.load("smoke", changes=["task.train=4", "task.validation=2", "task.test=3",
                                             "task.max_target_tokens=12", "machine.threads=1",
                                             "engine.compiled=false"])  # fmt: skip
    return dataclasses.replace(preset, model=architectures.settings(name))


def preset(name: str) -> str:
    """The same as a preset's file."""
    text = (ROOT / "bench" / "presets" / "smoke.toml").read_text(encoding="utf-8")
    before, _, rest = text.partition("[model.architecture]\n")
    values = {key: value for key, value in architectures.ARCHITECTURES[name].items() if value is not None}
    return f"{before}[model.architecture]\n{toml(values)}\n[task]\n{rest.partition('[task]')[2]}"


def toml(values: dict[str, object]) -> str:
    """Keys and values, one a line; a nested table stands in its line."""
    return "".join(f"{key} = {literal(value)}\n" for key, value in values.items())


def literal(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def rehearse(name: str, folder: Path, method: str = "all") -> tuple[str, list[str]]:
    """The line with which the bake-off is refused, or empty; and all that `bench/` would find wrong with its runs.

    An exception that is not a plan's refusal is a fault: a late death.
    """
    asked, store = smoke(name), Store(folder)
    faults: list[str] = []
    try:
        chosen = plan.configured(asked, [method])
        methods = [(entry.name, entry.method, str(entry.file), plain(configured)) for entry, (configured, _) in chosen]
        found = probed(asked.model, asked.task, asked.machine, asked.engine, methods, store.models)
        planned = plan.make(asked, [method], store, found)
    except UsageError as refusal:
        return str(refusal), faults
    for spec in (spec for specs in planned.specs.values() for spec in specs):
        try:
            result, _ = pipeline.run(spec, folder / "runs" / spec.method, store.models, silent, Clock())
            faults += [f"{spec.method}: {fault}" for fault in shortcomings(result)]
        except Exception as error:  # late: a plan accepted it
            faults.append(f"{spec.method} died late: {type(error).__name__}: {first_line(error)}")
    return "", faults


def shortcomings(result: RunResult) -> Iterator[str]:
    """What `bench/` asserts of a trained run and is not so, but for whether it learned."""
    if result.parameters is None or result.spec["control"]:
        return
    counts = result.parameters
    trained = counts["expected"]["trainable"]
    if counts["expected"] != counts["requires_grad"] or {counts["optimizer"], counts["saved"]} != {trained}:
        yield f"counts disagree: {counts}"
    if result.evidence["frozen_changed"]:
        yield f"weights changed that are not trained: {result.evidence['frozen_changed'][:3]}"
    if result.evidence["reloaded_trained"] != result.evidence["trained"]:
        yield "the reloaded tensors are not the trained ones"
    if any(row["again"] != row["summary"] for row in result.evidence["reloaded"]):
        yield "the reloaded adapter writes other summaries"


def main() -> int:
    """Rehearses all, or those that were named; the number of bake-offs with a fault."""
    import torch

    torch.set_num_threads(1)
    bad = 0
    for name in sys.argv[1:] or architectures.ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            refusal, faults = rehearse(name, Path(folder))
        bad += bool(faults)
        print(f"{name:18} {'refused: ' + refusal if refusal else '; '.join(faults) or 'ran'}", flush=True)
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
