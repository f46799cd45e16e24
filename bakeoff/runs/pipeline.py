"""The spine: attach a method, train, summarise, score, and gather the evidence. One call is one run."""

import dataclasses
import datetime
import functools
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from bakeoff.config import hardware
from bakeoff.config.schema import (
    GenerationSettings,
    MachineSettings,
    ModelSettings,
    ScoringSettings,
    TaskSettings,
    TrainingSettings,
)
from bakeoff.core.disk_list import Shelf
from bakeoff.core.validation import build
from bakeoff.data import tasks
from bakeoff.data.encoding import Encoder, template_of
from bakeoff.engine import layout
from bakeoff.engine.attention import llama_like
from bakeoff.engine.cpu import layers, native
from bakeoff.engine.cpu.compiler import PLACE
from bakeoff.methods.parameters import count, shapes_of
from bakeoff.methods.registry import load_file
from bakeoff.metrics.rouge import Prediction, Scorer
from bakeoff.models import loading
from bakeoff.runs import adapters
from bakeoff.runs.checkpoints import Partial
from bakeoff.runs.generation import decoding, summarise
from bakeoff.runs.records import RunResult, RunSpec
from bakeoff.runs.resources import Clock, Memory, release
from bakeoff.runs.training import fine_tune

Tell = Callable[[dict[str, Any]], None]
CHECKED = 4
"""Test documents, those with the shortest summaries of WORDS words or more, that the reloaded model must summarise
as the trained one does."""
WORDS = 8
SMALL = 2**30
"""Bytes of a model that may stay in memory beside the one that is loaded again: it writes these summaries anew only if
the other's differ. A larger one gives way, so it writes them before."""


def run(
    spec: RunSpec, folder: Path, cache: Path, tell: Tell, clock: Clock, partial: Partial | None = None
) -> tuple[RunResult, list[Prediction]]:
    """Makes the run that `spec` describes; leaves the trained tensors in `folder`/adapter.

    `cache` holds converted models; `partial` what an interrupted process of this run has finished. Raises UsageError
    for what the user can mend and Diverged for a loss that is not finite.
    """
    entry = next(entry for entry in load_file(Path(spec.method_file)) if entry.name == spec.method)
    method = build(entry.kind, spec.hyperparameters, spec.method_file)
    partial = partial or Partial()
    tell({"phase": "setup"})
    with clock("setup"):
        task_settings = build(TaskSettings, spec.task, "run")
        task = tasks.load(task_settings, Scorer(build(ScoringSettings, spec.scoring, "run")))
    if not entry.needs_model:
        with clock("evaluation"):
            summaries = method.summarise(task.examples)
            return finish(spec, task, summaries, clock)

    with clock("setup"):
        where = build(MachineSettings, spec.machine, "run")
        base = Base(build(ModelSettings, spec.model, "run"), cache, where, spec.hashes.get("model", ""))
        seed_everything(spec.seed, where)
        memory = partial.memory = Memory(where.device)
        model, tokenizer = base.load()
        shapes = shapes_of(model)
        model = base.settle(method.attach(model, tokenizer))
        memory.placed()
        answers = layout.answers(model)
        encoder = Encoder(tokenizer, task, task_settings, base.ends, template_of(method, task_settings))
        train, validation = (
            Shelf(encoder.example(e) for e in tasks.each_reference(split))
            for split in (task.examples.train, task.examples.validation)
        )
        prompts = [encoder.asked(example) for example in task.examples.test]
    with clock("checks"):
        before = adapters.frozen_digests(model)

    recipe = build(TrainingSettings, spec.training, "run")
    curves = fine_tune(
        model, train, validation, recipe, where, seed=spec.seed, pad=tokenizer.pad_token_id, clock=clock, tell=tell,
        partial=partial,
    )  # fmt: skip

    with clock("evaluation"):
        generation = build(GenerationSettings, spec.generation, "run")
        ids = [prompt for prompt, _ in prompts]
        limit = task_settings.max_target_tokens
        write = functools.partial(summarise, max_new_tokens=limit, settings=generation, machine=where, ends=base.ends)
        tell({"phase": "evaluation", "done": 0, "documents": len(ids)})
        weights = together(adapters.trained_digests(model))
        small = sum(parameter.nbytes for parameter in model.parameters()) <= SMALL
        with decoding(model, where):
            texts, written = write(
                model, tokenizer, ids, tell=tell, done=partial.summaries(weights),
                keep=functools.partial(partial.keep, weights),
            )  # fmt: skip
            cost = memory.read()
            shortest = sorted(texts, key=lambda place: (len(texts[place].split()) < WORDS, len(texts[place]), place))
            few = [] if entry.control else shortest[:CHECKED]
            asked = [ids[place] for place in few]
            first = {number: texts[place] for number, place in enumerate(few)}
            exact = where.precision == "fp32"  # in bf16 a text may depend on how many are written together
            if not small and not exact:
                with clock("checks"):
                    first, _ = write(model, tokenizer, asked)

    with clock("checks"):
        tell({"phase": "checks"})
        after = adapters.frozen_digests(model)
        parameters = {
            "expected": dataclasses.asdict(method.expected_parameters(shapes)),
            "requires_grad": dataclasses.asdict(count(model, shapes)),
            "optimizer": curves.optimizer_parameters,
            "saved": 0,
        }
        evidence: dict[str, Any] = {
            "frozen_before": together(before),
            "frozen_after": together(after),
            "frozen_changed": sorted(name for name in before if before[name] != after[name]),
            "layout": answers,
        }
        adapter_bytes = None
        if not entry.control:
            file = adapters.save(model, folder / "adapter")
            parameters["saved"] = adapters.saved_parameters(file)
            adapter_bytes = file.stat().st_size
            if not small:
                del model
                release(where.device)
            again = base.settle(method.attach(*base.load()), answers)
            adapters.load(again, folder / "adapter")
            evidence["trained"], evidence["reloaded_trained"] = weights, together(adapters.trained_digests(again))
            second, _ = write(again, tokenizer, asked)
            if small and not exact and second != first:
                first, _ = write(model, tokenizer, asked)
            evidence["reloaded"] = [
                {
                    "id": task.examples.test[place].id,
                    "aspect": task.examples.test[place].aspect,
                    "summary": first[number],
                    "again": second[number],
                }
                for number, place in enumerate(few)
            ]
    return finish(
        spec,
        task,
        [texts[place] for place in range(len(ids))],
        clock,
        parameters=parameters,
        steps=curves.steps,
        epochs=curves.epochs,
        tokens={"training": curves.tokens, "labels": curves.labels, "generated": written},
        memory_bytes=cost,
        adapter_bytes=adapter_bytes,
        evidence=evidence,
        truncated={
            "documents": sum(
                cut_documents(examples, cuts)
                for examples, cuts in (
                    (tasks.each_reference(task.examples.train), (e.document_cut for e in train)),
                    (tasks.each_reference(task.examples.validation), (e.document_cut for e in validation)),
                    (task.examples.test, (cut for _, cut in prompts)),
                )
            ),
            "summaries": sum(e.summary_cut for e in chain(train, validation)),
        },
        repeated_steps=partial.repeated(len(curves.steps)),
        model_note=base.source.note,
        documents=layout.summary(answers, where.packing),
    )


def cut_documents(examples: Iterable[tasks.Example], cuts: Iterable[bool]) -> int:
    """Documents of which any example was cut; the examples of a document stand together."""
    marked = zip((example.id for example in examples), cuts, strict=True)
    return sum(any(cut for _, cut in group) for _, group in groupby(marked, key=lambda pair: pair[0]))


class Base:
    """The base model of a run, loaded afresh as often as asked."""

    def __init__(self, settings: ModelSettings, cache: Path, where: MachineSettings, known: str = "") -> None:
        """`known`: the hash of a GGUF file that the plan has read."""
        self.settings, self.where = settings, where
        self.tokenizer, self.words = None, 0
        self.own: set[int] = set()
        if where.compiled:
            native.build(cache.parent / PLACE)
        else:
            native.close()
        self.source = loading.locate(settings, known)
        self.folder = loading.prepare(self.source, cache, planned=bool(known))
        self.ends = loading.end_tokens(self.folder)

    def load(self) -> tuple[Any, Any]:
        """Model (fp32, on the CPU) and tokenizer: the one that was loaded before, if nobody gave it a word since."""
        known = self.tokenizer if self.tokenizer is not None and len(self.tokenizer) == self.words else None
        found = loading.load(self.settings, self.source, self.folder, self.where.attention, known)
        self.tokenizer, self.words = found[1], len(found[1])
        self.own = set(map(id, found[0].parameters()))
        return found

    def settle(self, model: Any, answers: Mapping[str, str] | None = None) -> Any:
        """`model` on its device: frozen weights in the run's precision, trained ones in fp32.

        How its documents may stand together is found here, while all of it is in fp32, or known from `answers`.
        """
        import torch

        model.to(self.where.device)
        added = [parameter for parameter in model.parameters() if id(parameter) not in self.own]
        layout.settle(model, added, self.where.packing, answers)
        frozen = torch.bfloat16 if self.where.precision == "bf16" else torch.float32
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else frozen)
        if self.where.packing and self.where.fused and llama_like(model) and layout.packable(model):
            layers.install(model)
        return model


def finish(
    spec: RunSpec,
    task: tasks.Task,
    summaries: list[str],
    clock: Clock,
    model_note: str = "",
    documents: str = "",
    **measured: Any,
) -> tuple[RunResult, list[Prediction]]:
    """Scores the summaries and closes the books."""
    test = task.examples.test
    scorer = task.examples.scorer
    with clock("evaluation"):
        predictions = [
            Prediction(e.id, e.document, e.summary, summary, e.references, e.aspect)
            for e, summary in zip(test, summaries, strict=True)
        ]
        ids, scores = scorer.score(predictions)
        note = scorer.coverage((one.id, one.references) for one in predictions).note
    return RunResult(
        fingerprint=spec.fingerprint,
        spec=dataclasses.asdict(spec),
        scores=scores,
        document_ids=ids,
        signature=scorer.signature(),
        data=dict(task.counts),
        notes=[note] if note else [],
        environment={
            **spec.versions,  # compiler and card are known to the plan alone
            **hardware.environment(),
            "model_note": model_note,
            "documents": documents,
        },
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=dict(clock.seconds),
        **{"parameters": None, **measured},
    ), predictions


def together(digests: dict[str, str]) -> str:
    """One digest of many, whatever their order."""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def seed_everything(seed: int, where: MachineSettings) -> None:
    """Seeds every generator that a method may draw from; fixes threads and algorithms: a run repeats to the bit."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(where.threads)
    if where.device == "cpu":
        hardware.keep_freed_memory()
    # Some CUDA kernels have no deterministic form; they warn into the run's log. Gradients come from none of them:
    # see machine.repeatable.
    torch.use_deterministic_algorithms(True, warn_only=where.device == "cuda")
    # Nothing reads memory before it is written, so filling it first would only take time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
