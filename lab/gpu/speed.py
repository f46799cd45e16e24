"""Seconds and bytes of Bakeoff's engine, of plain, and of what a user would otherwise run."""

import tempfile
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch._inductor.utils import fresh_cache

from bakeoff import engine
from bakeoff.config.schema import Computation, TrainingSettings
from bakeoff.methods.parameters import shapes_of
from bakeoff.models import loading, memory
from bakeoff.runs.base import seed_everything
from bakeoff.runs.resources import Clock, synchronise
from bakeoff.runs.training import fine_tune
from lab.gpu import shapes
from lab.gpu.shapes import Shape
from lab.speed import opponents


def recipe_of(shape: Shape) -> TrainingSettings:
    """One epoch."""
    return TrainingSettings(epochs=1, batch_size=shape.batch, micro_batch_size=shape.trainer_size, learning_rate=1e-4)


def prompts_of(shape: Shape) -> list[list[int]]:
    """What is written after."""
    return [list(one.ids[: one.prompt]) for one in shapes.documents(shape, shape.prompts, seed=2)]


def rates(
    seconds: tuple[float, float], tokens: tuple[int, int], peaks: tuple[int | None, int | None]
) -> dict[str, Any]:  # fmt: skip
    """Tokens a second in training and in writing, and the peaks of both."""
    return {
        "training": tokens[0] / seconds[0], "writing": tokens[1] / seconds[1],
        "training bytes": peaks[0], "writing bytes": peaks[1],
    }  # fmt: skip


def ours(shape: Shape, where: Computation, steps: int = 0) -> dict[str, Any]:
    """Bakeoff by the engine that `where` names, its first micro-batch and first texts not timed.

    The model is prepared for `steps` optimizer steps: for many its layers are compiled.
    """
    seed_everything(0, where)
    shapes.free(where.device)
    if steps:  # what an earlier model or command compiled is compiled anew, and timed
        torch._dynamo.reset()
    examples, prompts = shapes.documents(shape, shape.documents + 1), prompts_of(shape)
    model = shapes.base(shape, where)
    sizes = shapes_of(model)
    model, added = shapes.with_lora(model)
    made = engine.make(where, 0)
    synchronise()
    start = time.perf_counter()
    with fresh_cache() if steps else nullcontext(), made.prepared(model, added, steps=steps) as model:
        synchronise()
        preparing = time.perf_counter() - start
        reason = made.reason(model)
        uncompiled = made.answers(model).get("fused", reason or "this engine compiles none") if steps else ""
        tokens = max(sum(len(one.ids) for one in micro)
                     for micro in made.micro_batches(model, examples[: shape.batch], shape.trainer_size))  # fmt: skip
        work = memory.Work(tokens, tokens * shape.labels // (2 * shape.tokens // 3), shape.rows, shape.tokens)
        needed = memory.estimate(model, sizes, work, precision=where.precision)
        fine_tune(made, model, examples[: shape.batch], examples[-1:], recipe_of(shape), seed=0, clock=Clock())
        synchronise()
        start = time.perf_counter()
        curves = fine_tune(made, model, examples[:-1], examples[-1:], recipe_of(shape), seed=0, clock=Clock())
        synchronise()
        seconds = time.perf_counter() - start  # with the validation before and after, as Trainer's
        trained = shapes.peak(where.device)
        shapes.free(where.device)
        asked: dict[str, Any] = {"rows": shape.rows, "ends": (), "vocabulary": range(shape.vocabulary)}
        with made.writing(model):
            size = made.chunk(model, shape.rows)
            made.generate(model, prompts[:size], shape.labels, **asked)
            synchronise()
            start = time.perf_counter()
            texts = [
                text
                for at in range(0, len(prompts), size)
                for text in made.generate(model, prompts[at : at + size], shape.labels, **asked)
            ]
            synchronise()
            wrote = time.perf_counter() - start
    done = curves.tokens, sum(map(len, texts))
    found = rates((seconds, wrote), done, (trained, shapes.peak(where.device)))
    found |= {"preparing, s": preparing, "step, s": seconds / -(-shape.documents // shape.batch)}
    return {**found, "reason": reason, "uncompiled": uncompiled, "estimated bytes": needed.training}


def theirs(shape: Shape, where: Computation, attention: str = "sdpa") -> dict[str, Any]:
    """transformers' Trainer with PEFT, bf16 where Bakeoff computes so, and `generate` with the LoRA merged."""
    seed_everything(0, where)
    shapes.free(where.device)
    model, _ = shapes.with_lora(shapes.base(shape, where, attn_implementation=attention))
    trained, tokens, peak = by_trainer(model, shape, where)
    model, prompts, tokenizer = opponents.for_use(model), prompts_of(shape), padded_tokenizer()
    shapes.free(where.device)
    opponents.write(model, tokenizer, prompts[: shape.rows], shape.labels, shape.rows)
    synchronise()
    start = time.perf_counter()
    _, written = opponents.write(model, tokenizer, prompts, shape.labels, shape.rows)
    synchronise()
    wrote = time.perf_counter() - start
    return rates((trained, wrote), (tokens, written), (peak, shapes.peak(where.device)))


def by_trainer(model: Any, shape: Shape, where: Computation) -> tuple[float, int, int | None]:
    """Seconds, tokens and peak bytes of an epoch by transformers' Trainer."""
    torch.use_deterministic_algorithms(False)  # its users don't ask for it
    examples, bf16 = shapes.documents(shape, shape.documents + 1), where.precision == "bf16"
    tokenizer = padded_tokenizer()
    bench = SimpleNamespace(model=model, train=examples[:-1], validation=examples[-1:], recipe=recipe_of(shape),
                            where=where, tokenizer=tokenizer, seed=0)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        warm = SimpleNamespace(**{**vars(bench), "train": examples[: shape.batch]})
        opponents.train(warm, bf16=bf16, grouped=False, folder=folder)
        synchronise()
        start = time.perf_counter()
        _, tokens = opponents.train(bench, bf16=bf16, grouped=False, folder=folder)
        synchronise()
        trained = time.perf_counter() - start
    return trained, tokens, shapes.peak(where.device)


def padded_tokenizer() -> Any:
    """One token a byte; the end token pads."""
    tokenizer = loading.byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
