"""What is timed, one process an arm: training and generation by Bakeoff and by what a user would otherwise run."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch

from bakeoff.config.schema import Computation, GenerationSettings, ModelSettings, TaskSettings, TrainingSettings
from bakeoff.core.validation import build
from bakeoff.data import tasks
from bakeoff.data.encoding import Encoder
from bakeoff.methods.registry import find
from bakeoff.runs import adapters
from bakeoff.runs.base import Base, seed_everything
from bakeoff.runs.generation import summarise
from bakeoff.runs.resources import Clock, Memory, synchronise
from bakeoff.runs.training import fine_tune
from lab.speed import opponents, work
from lab.speed.flops import training_flops

STEP = 4
"""Documents in an optimizer step where equal work is checked: so few that the losses say what a step did."""
CHECKED = 4
"""Test documents whose logits and texts are compared."""


class Damped(torch.optim.AdamW):
    """AdamW as it is where equal work is checked."""

    def __init__(self, parameters: Any, **settings: Any) -> None:
        super().__init__(parameters, **{**settings, "eps": work.EPSILON})


class Bench:
    """A run's model, documents and recipe, set up as runs/pipeline.py does; `job` is plain data (see measure.py)."""

    def __init__(self, job: dict[str, Any]) -> None:
        spec = job["spec"]
        entry = find(Path(spec["method_file"]), spec["base"])
        self.method = build(entry.kind, spec["hyperparameters"], spec["method_file"])
        self.limits = build(TaskSettings, spec["task"], "speed")
        self.where = build(Computation, spec["machine"], "speed")
        self.generation = build(GenerationSettings, spec["generation"], "speed")
        self.recipe = build(TrainingSettings, spec["training"], "speed")
        if job["documents"]:
            self.recipe = replace(self.recipe, epochs=1, batch_size=STEP, micro_batch_size=STEP)
        self.seed = spec["seed"]
        task = tasks.load(self.limits)
        self.base = base = Base(build(ModelSettings, spec["model"], "speed"), Path(job["cache"]), self.where)
        if job["opponent"]:
            self.model, self.tokenizer = opponents.load(base, self.method, self.seed, self.where)
        else:
            seed_everything(self.seed, self.where)
            model, self.tokenizer = base.load()
            self.patches = contextlib.ExitStack()
            self.model = self.patches.enter_context(base.prepared(self.method.attach(model, self.tokenizer)))
            self.engine: Any = base.engine
        encoder = Encoder(self.tokenizer, task, self.limits)
        documents = job["documents"] or len(task.examples.train)
        self.train = [encoder.example(example) for example in task.examples.train[:documents]]
        self.validation = [encoder.example(example) for example in task.examples.validation]
        self.test = [encoder.example(example) for example in task.examples.test]
        self.prompts = [list(example.ids[: example.prompt]) for example in self.test]
        for parameter in self.model.parameters():  # memory-mapped weights are in memory before its level is read
            parameter.detach().reshape(-1)[::1024].sum()


def train(job: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Seconds, loss by step, tokens and peak bytes of one training; on a subset also logits and texts.

    `training` of Bakeoff are its seconds without those of evaluation, `flops` what they need.
    """
    bench = Bench(job)
    if job["documents"]:
        vars(torch.optim)["AdamW"] = Damped  # for both sides; this process trains nothing else
    memory, clock = level(bench), Clock()
    with busy() as load:
        start = time.perf_counter()
        if job["opponent"]:
            losses, tokens = opponents.train(bench, bf16=job["bf16"], grouped=job["grouped"], folder=job["folder"])
        else:
            curves = fine_tune(
                bench.engine, bench.model, bench.train, bench.validation, bench.recipe, seed=bench.seed, clock=clock
            )  # fmt: skip
            losses, tokens = [step["loss"] for step in curves.steps], curves.tokens
        synchronise()
        seconds = time.perf_counter() - start
    found: dict[str, Any] = {
        "seconds": seconds,
        "losses": losses,
        "peak": peak(memory),
        "tokens": tokens,
        "load": load,
    }
    if not job["opponent"]:
        lengths = [(len(example.ids), len(example.ids) - example.prompt) for example in bench.train]
        found["training"] = clock.elapsed("training")
        found["flops"] = training_flops(bench.method.attach(bench.base.load()[0], None), lengths, bench.recipe.epochs)
    if job["save"]:
        adapters.save(bench.model, Path(job["save"]))
    if job["documents"]:
        if job["adapter"]:
            # The same weights on both sides: Adam's first step is nearly the sign of a gradient, and rounding turns
            # some (of a soft prompt in bf16 2 in 100, each a step of 0.06). What training did, the losses say.
            adapters.load(bench.model, Path(job["adapter"]))
        found["logits"] = str(Path(job["folder"]) / f"logits-{os.getpid()}.npy")
        numpy.save(found["logits"], teacher_forced(bench, job))
        if not job["bf16"]:
            found["texts"] = write(bench, job, bench.prompts[:CHECKED])[0]
    return found


def generate(job: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Seconds, texts and tokens of the test set's summaries by a model whose adapter is loaded."""
    bench = Bench(job)
    adapters.load(bench.model, Path(job["adapter"]))
    if job["opponent"]:
        bench.model = opponents.for_use(bench.model)
        bench.model.to(torch.bfloat16 if job["bf16"] else torch.float32)
    memory = level(bench)
    with busy() as load:
        start = time.perf_counter()
        texts, tokens = write(bench, job, bench.prompts)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "texts": texts, "tokens": tokens, "peak": peak(memory), "load": load}


def level(bench: Bench) -> Memory:
    """Counts from here on what the bench's device takes."""
    memory = Memory(bench.where.device)
    memory.placed()
    return memory


def peak(memory: Memory) -> int | None:
    """Bytes of a GPU's memory or of the process, at most."""
    found = memory.read()
    return found["max_allocated"] if memory.device == "cuda" else found["max_resident"]


def write(bench: Bench, job: dict[str, Any], prompts: list[list[int]]) -> tuple[list[str], int]:
    """Summaries in the order of `prompts`, and how many tokens they have."""
    limit = bench.limits.max_target_tokens
    if job["opponent"]:
        size = job["batch"] or bench.generation.batch_size
        return opponents.write(bench.model, bench.tokenizer, prompts, limit, size)
    texts, tokens = summarise(bench.engine, bench.model, bench.tokenizer, prompts, limit, bench.generation)
    return [texts[place] for place in range(len(prompts))], tokens


@torch.no_grad()
def teacher_forced(bench: Bench, job: dict[str, Any]) -> numpy.ndarray:
    """label tokens x vocabulary: log-probabilities of the next token before each label of the first test documents."""
    bench.model.eval()
    rows = []
    for example in bench.test[:CHECKED]:
        if job["opponent"]:
            with torch.autocast(bench.where.device, dtype=torch.bfloat16, enabled=job["bf16"]):
                ids = torch.tensor([list(example.ids)], device=bench.where.device)
                logits = bench.model(input_ids=ids, use_cache=False).logits[0]
            logits = logits[example.prompt - 1 - len(example.ids) : -1]
        else:
            [batch] = bench.engine.batches(bench.model, [example])
            logits = bench.engine.label_logits(bench.model, batch)
        rows.append(logits.float().log_softmax(-1))
    return torch.cat(rows).cpu().numpy()


@contextlib.contextmanager
def busy() -> Iterator[dict[str, float | None]]:
    """Fills in, at the end, the share of the processors that others used meanwhile; None where it can't be known."""
    found: dict[str, float | None] = {"others": None}
    before, own, start = jiffies(), time.process_time(), time.perf_counter()
    yield found
    after = jiffies()
    if before is not None and after is not None:
        used = (after - before) / os.sysconf("SC_CLK_TCK") - (time.process_time() - own)
        found["others"] = max(0.0, used / (time.perf_counter() - start) / (os.cpu_count() or 1))


def jiffies() -> int | None:
    """Clock ticks that all processors together have worked since the system started; None where it doesn't say."""
    try:
        user, nice, system, _, _, irq, soft, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    except (OSError, ValueError):
        return None
    return user + nice + system + irq + soft
