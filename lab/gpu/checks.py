"""Whether a device computes what it should: each check answers with what was compared, or with what is wrong."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bakeoff import engine
from bakeoff.config.hardware import repeatable
from bakeoff.config.schema import Computation, DurabilitySettings, ModelSettings, TrainingSettings
from bakeoff.core.events import Emit, News, silent
from bakeoff.core.packed import parts
from bakeoff.engine.cuda.fused import REPAYS
from bakeoff.methods.parameters import count, shapes_of
from bakeoff.models import loading
from bakeoff.runs import adapters
from bakeoff.runs.base import seed_everything
from bakeoff.runs.checkpoints import Checkpointer
from bakeoff.runs.resources import Clock
from bakeoff.runs.training import fine_tune
from bakeoff.shipped import ROOT
from lab.gpu import shapes
from lab.gpu.shapes import Shape

CLOSE = {"fp32": 1e-4, "bf16": 0.05}
"""Largest distance of two gradients that counts as rounding, as a share of their length."""
KILLED, SUITE = 180.0, 240.0
"""Seconds that the process which is killed, and the tests, may take."""
RECIPE = TrainingSettings(epochs=2, batch_size=4, micro_batch_size=2, learning_rate=1e-3)


def plain_of(where: Computation) -> Computation:
    """The plain engine on the same device."""
    return dataclasses.replace(where, engine="plain", packing=False, captured=False, micro_batch_tokens=0)


def equal(shape: Shape, where: Computation) -> str:
    """The engine's loss, gradient and (in fp32) texts against plain's. Raises AssertionError."""
    found = []
    examples = shapes.documents(shape, 6)
    for one in (where, plain_of(where)):
        model, added = shapes.with_lora(shapes.base(shape, one))
        made = engine.make(one, 0)
        with made.prepared(model, added, steps=REPAYS) as model:
            reason = made.reason(model)
            loss = made.loss(model.train(), examples)
            with repeatable(one.device):
                loss.backward()
            gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]).cpu()
            with made.writing(model):
                texts = made.generate(
                    model, [example.ids[: example.prompt] for example in examples], shape.labels, rows=len(examples),
                    ends=(), vocabulary=range(shape.vocabulary),
                )  # fmt: skip
        found.append((loss.item(), gradient, texts, reason))
        del model, added, loss
        shapes.free(one.device)
    (ours, gradient, texts, reason), (right, of_plain, plain_texts, _) = found
    apart = float(torch.norm(gradient - of_plain) / torch.norm(of_plain))
    same = sum(a == b for a, b in zip(texts, plain_texts, strict=True))
    assert apart <= CLOSE[where.precision], f"the gradient is {apart:.2g} away from plain's"
    assert abs(ours / right - 1) <= CLOSE[where.precision] / 10, f"the loss is {ours}, plain's {right}"
    assert where.precision != "fp32" or same == len(texts), f"{len(texts) - same} of {len(texts)} texts are others"
    why = f"; not faster because {reason}" if reason else ""
    return f"gradients differ by {apart:.1e} of their length, {same} of {len(texts)} texts are the same{why}"


def trained(shape: Shape, where: Computation, emit: Emit = silent, folder: Path | None = None) -> dict[str, Any]:
    """Losses and weights of a few steps; `emit` hears of each."""
    seed_everything(0, where)
    model, added = shapes.with_lora(shapes.base(shape, where))
    made = engine.make(where, 0)
    examples = shapes.documents(shape, 12)
    with made.prepared(model, added, steps=REPAYS) as model:
        curves = fine_tune(
            made, model, examples[:8], examples[8:], RECIPE, seed=0, clock=Clock(),
            emit=emit,
            checkpointer=Checkpointer(folder, DurabilitySettings(checkpoint_steps=1), emit=emit) if folder else None,
        )  # fmt: skip
        weights = torch.cat([p.detach().flatten().cpu() for p in model.parameters() if p.requires_grad])
    return {"losses": [row["loss"] for row in curves.steps], "weights": weights}


def same_bits(shape: Shape, where: Computation) -> str:
    """Two trainings from one seed. Raises AssertionError."""
    first, second = trained(shape, where), trained(shape, where)
    assert first["losses"] == second["losses"], f"losses {first['losses']} and {second['losses']}"
    assert torch.equal(first["weights"], second["weights"]), "the weights differ"
    return f"{len(first['losses'])} steps, trained twice, have the same losses and weights to the bit"


def killed(shape: Shape, where: Computation, folder: str) -> None:
    """Trains in this process, and kills it after the third step."""

    def kill(news: News) -> None:
        if news.get("step") == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    trained(shape, where, kill, Path(folder))


def resumes(shape: Shape, where: Computation) -> str:
    """A training whose process is killed after its third step, and that goes on in another. Raises AssertionError."""
    whole, heard = trained(shape, where), list[News]()
    with tempfile.TemporaryDirectory() as folder:
        process = multiprocessing.get_context("spawn").Process(target=killed, args=(shape, where, folder))
        process.start()
        process.join(KILLED)
        code = process.exitcode
        process.kill()  # if it takes too long: nothing computes beside what is measured later
        process.join()
        assert code == -signal.SIGKILL, f"the process to be killed ended with {code}"
        again = trained(shape, where, heard.append, Path(folder))
    assert any("goes on after step" in news.get("resumed", "") for news in heard), "the training began anew"
    assert whole["losses"] == again["losses"], f"losses {whole['losses']} and {again['losses']}"
    assert torch.equal(whole["weights"], again["weights"]), "the weights differ"
    return "a training that was killed after step 3 and resumed has the same losses and weights to the bit"


def suite(device: str) -> str:
    """The tests that hold the engine against plain, on a card those that need one. Raises AssertionError."""
    # Compiling takes minutes for all architectures; `equal` has looked at one of them.
    chosen = ["-m", "cuda and not compiles"] if device == "cuda" else ["-k", "cuda and not card and llama"]
    options = ["-q", "--color=no", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "tests/engine/test_engines.py", *chosen, *options]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SUITE)
    lines = found.stdout.strip().splitlines() or found.stderr.strip().splitlines() or ["it said nothing"]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    assert found.returncode == 0, "; ".join([lines[-1], *failed[:3]])
    return lines[-1].strip("= ")


def quantised(shape: Shape, where: Computation, how: str) -> str:
    """A LoRA beside the model in few bits: counted in full, frozen to the bit, trained. Raises AssertionError."""
    with tempfile.TemporaryDirectory() as folder:
        shapes.base(shape, where).save_pretrained(folder)
        loading.byte_tokenizer().save_pretrained(folder)
        settings = ModelSettings(name=folder, quantisation=how)
        source = loading.locate(settings)
        model, _ = loading.load(settings, source, Path(folder), "sdpa", where=where)
    base = shapes_of(model)
    model, added = shapes.with_lora(model)
    made = engine.make(where, 0)
    with made.prepared(model, added) as model:
        before = adapters.frozen_digests(model)
        examples = shapes.documents(shape, 12)
        steps = fine_tune(made, model, examples[:8], examples[8:], RECIPE, seed=0, clock=Clock()).steps
        after, found = adapters.frozen_digests(model), count(model, base)
        bits = (
            8
            * sum(p.nbytes for one in model.parameters() for p in parts(one) if p.dtype in (torch.uint8, torch.int8))
            / sum(base.size(f"{name}.weight") for name in base.linear if name != base.head)
        )
    assert before == after, "a quantised weight was changed"
    assert found.total - found.added == base.total, f"{found.total - found.added} parameters, expected {base.total}"
    return f"{bits:.2f} bits a weight without its scales; {len(steps)} steps, the last loss {steps[-1]['loss']:.3f}"


def outcome(check: Callable[..., str], *given: Any) -> dict[str, Any]:
    """What `check` says, and whether it holds; whatever it raises is its answer."""
    try:
        return {"holds": True, "says": check(*given)}
    except Exception as error:  # a missing operator or memory that ran out is an answer, too
        first = (str(error).strip().splitlines() or [""])[0]
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        return {"holds": False, "says": kind + first}
