"""Runs every check and every shape on one device, and writes reports/gpu/report.md (or .../rehearsal.md on a CPU)."""

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from bakeoff.config import hardware, project
from bakeoff.config.schema import Computation, EngineSettings, MachineSettings
from bakeoff.core.errors import UsageError
from bakeoff.engine.cuda.fused import REPAYS
from bakeoff.models import quantise
from bakeoff.session import worker
from lab.gpu import checks, others, report, shapes, speed

QUANTISED = ("nf4", "int8", "torchao-int8")
"""Values of model.quantisation that are checked, where their package is installed."""
BUDGET = 240.0
"""Seconds of figures after which no other one is begun."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    found = argparse.ArgumentParser(prog="python -m lab.gpu", description=__doc__)
    found.add_argument("--device", default="cuda", choices=("cuda", "cpu"),
                       help="cpu rehearses the same code on tiny shapes in under a minute")  # fmt: skip
    found.add_argument("--shapes", default="", help="names of shapes, as 135M,7B; by default all")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes; the exit status."""
    options = parser().parse_args(arguments)
    for name, value in worker.QUIET.items():  # as in the process of a run
        os.environ.setdefault(name, value)
    try:
        places = {precision: computation(options.device, precision) for precision in ("fp32", "bf16")}
    except UsageError as error:
        print(error)
        return 2
    known = shapes.SHAPES if options.device == "cuda" else shapes.REHEARSAL
    asked = [name for name in options.shapes.split(",") if name] or list(known)
    if unknown := [name for name in asked if name not in known]:
        print(f"--shapes {unknown[0]}: expected some of {', '.join(known)}")
        return 2
    found = measured({name: known[name] for name in asked}, places, options.device)
    folder = project.root() / "reports" / "gpu"
    folder.mkdir(parents=True, exist_ok=True)
    name = "report" if options.device == "cuda" else "rehearsal"
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = report.text(found)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"wrote {folder / f'{name}.md'}")
    return 1 if any(row["holds"] is False for row in found["checks"]) else 0


def computation(device: str, precision: str) -> Computation:
    """The cuda engine on `device`; on a CPU, where no run may use it, for a rehearsal. Raises UsageError."""
    if device == "cuda":
        return hardware.resolve(MachineSettings(device=device, precision=precision), EngineSettings())
    plain = hardware.resolve(MachineSettings(device="cpu", precision=precision, threads=1), EngineSettings())
    return dataclasses.replace(
        plain, engine="cuda", attention="sdpa", micro_batch_tokens=hardware.ROW, captured=True, fused=False,
        compiled=False, shared_prefix=False,
    )  # fmt: skip


def measured(sizes: dict[str, shapes.Shape], places: dict[str, Computation], device: str) -> dict[str, Any]:
    """Checks on the first shape, then figures of each while there is time."""
    begun = time.perf_counter()
    first = next(iter(sizes.values()))
    done = []
    for name, check in (("equal to plain", checks.equal), ("same seed, same bits", checks.same_bits),
                        ("killed and resumed", checks.resumes)):  # fmt: skip
        for precision, where in places.items():
            if precision == "bf16" or check is checks.equal:
                print(f"{name}, {precision}", flush=True)
                done.append({"name": f"{name}, {precision}", **checks.outcome(check, first, where)})
                shapes.free(device)
    rows = []
    where = places["bf16"]
    for kind in QUANTISED:
        name, package = f"a base in {kind}", quantise.package_of(kind)
        if find_spec(package) is None:
            done.append({"name": name, "holds": None, "says": f"{package} is not installed"})
            continue
        print(name, flush=True)
        done.append({"name": name, **checks.outcome(checks.quantised, first, where, kind)})
        shapes.free(device)
    start = time.perf_counter()
    for name, shape in sizes.items():
        for arm, how in arms(name, shape, where):
            if time.perf_counter() - start > BUDGET:
                rows.append({"shape": name, "arm": arm, "failed": "no time was left"})
                continue
            print(f"{name}: {arm}", flush=True)
            rows.append({"shape": name, "arm": arm, **attempt(how)})
            shapes.free(device)
    print("the suite", flush=True)  # last: where time is short, figures are rarer
    done.append({"name": "the suite against plain", **checks.outcome(checks.suite, device)})
    return {
        "device": device, "environment": {**hardware.environment(), **hardware.card(device)}, "checks": done,
        "rows": rows, "seconds": time.perf_counter() - begun,
    }  # fmt: skip


def arms(name: str, shape: shapes.Shape, where: Computation) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """Who trains and writes; of others than Bakeoff and transformers, those that are installed."""
    found: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        (report.OURS, partial(speed.ours, shape, where)),
        (report.COMPILED, partial(speed.ours, shape, where, steps=REPAYS)),
        (f"{report.OURS}, plain engine", partial(speed.ours, shape, checks.plain_of(where))),
        (report.OPPONENT, partial(speed.theirs, shape, where)),
    ]
    if find_spec("flash_attn"):
        found.append((f"{report.OPPONENT}, flash", partial(speed.theirs, shape, where, "flash_attention_2")))
    for library, arm in (("unsloth", "Unsloth"), ("vllm", "vLLM")):
        if find_spec(library):
            found.append((arm, partial(others.apart, library, name, where.device)))
    return found


def attempt(how: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures, or why there are none."""
    try:
        return how()
    except (RuntimeError, ValueError, torch.cuda.OutOfMemoryError) as error:
        return {"failed": (str(error).strip().splitlines() or [type(error).__name__])[0]}
