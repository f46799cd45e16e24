"""The spine: attach a method, train, summarise, score, and gather the evidence. One call is one run."""

import dataclasses
import datetime
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import torch

from bakeoff.config import hardware
from bakeoff.config.schema import (
    Computation,
    GenerationSettings,
    MeasureSettings,
    ModelSettings,
    ScoringSettings,
    TaskSettings,
    TrainingSettings,
)
from bakeoff.core.disk_list import DiskList
from bakeoff.core.errors import UsageError
from bakeoff.core.events import Emit
from bakeoff.core.validation import build
from bakeoff.data import other_text, tasks
from bakeoff.data.encoding import Encoded, Encoder, template_of
from bakeoff.methods.parameters import count, shapes_of
from bakeoff.methods.registry import Entry, find
from bakeoff.metrics.rouge import Prediction, Scorer
from bakeoff.runs import adapters, side_effects
from bakeoff.runs.base import Base, refuse_other, seed_everything
from bakeoff.runs.checkpoints import Checkpointer
from bakeoff.runs.generation import summarise
from bakeoff.runs.ranks import Alone, assembled
from bakeoff.runs.records import Evidence, RunResult, RunSpec
from bakeoff.runs.resources import Clock, Memory, release
from bakeoff.runs.training import Curves, fine_tune, steps_of
from bakeoff.runs.verify import Check, together


def run(
    spec: RunSpec, folder: Path, cache: Path, emit: Emit, clock: Clock, checkpointer: Checkpointer | None = None
) -> tuple[RunResult, list[Prediction]]:
    """Makes the run that `spec` describes; leaves the trained tensors in `folder`/adapter.

    `cache` holds converted models; `checkpointer` what an interrupted process of this run has finished.
    Raises UsageError for what the user can mend and Diverged for a loss that is not finite.
    """
    entry = find(Path(spec.method_file), spec.base)
    method = build(entry.kind, spec.hyperparameters, spec.method_file)
    emit({"phase": "setup"})
    with clock("setup"):
        task = task_of(spec)
    if not entry.needs_model:
        with clock("evaluation"):
            return finish(spec, task, method.summarise(task.examples), clock)
    with ExitStack() as patches, ExitStack() as others:
        with clock("setup"):
            where = build(Computation, spec.machine, "run")
            trains = not entry.control or where.sharded
            ranks = others.enter_context(assembled(spec, where, cache)) if trains else Alone()
        made = ModelRun(spec, entry, method, task, cache, emit, clock, checkpointer or Checkpointer(), patches)
        made.train(ranks)
        if not where.sharded:
            others.close()
            ranks = Alone()
        return made.complete(ranks, folder)


def task_of(spec: RunSpec) -> tasks.Task:
    """The documents of a run. Raises UsageError where they are not those of its plan."""
    found = tasks.load(build(TaskSettings, spec.task, "run"), Scorer(build(ScoringSettings, spec.scoring, "run")))
    refuse_other(f"--task {found.name}", found.sha256, spec.hashes.get("data", ""))
    return found


class ModelRun:
    """A run of a method on a model, in the order of its methods."""

    def __init__(
        self, spec: RunSpec, entry: Entry, method: Any, task: tasks.Task, cache: Path, emit: Emit, clock: Clock,
        checkpointer: Checkpointer, patches: ExitStack,
    ) -> None:  # fmt: skip
        """Loads the model, attaches the method, encodes the documents."""
        self.spec, self.entry, self.method, self.task = spec, entry, method, task
        self.emit, self.clock, self.checkpointer = emit, clock, checkpointer
        settings = build(TaskSettings, spec.task, "run")
        self.limit = settings.max_target_tokens
        self.measure = build(MeasureSettings, spec.measure, "run")
        with clock("setup"):
            where = build(Computation, spec.machine, "run")
            self.base = Base(build(ModelSettings, spec.model, "run"), cache, where, spec.hashes.get("model", ""))
            seed_everything(spec.seed, where)
            self.memory = checkpointer.memory = Memory(where.device)
            model, self.tokenizer = self.base.load()
            self.engine = self.base.engine
            self.shapes = shapes_of(model)
            attached = method.attach(model, self.tokenizer)
            encoder = Encoder(self.tokenizer, task, settings, self.base.ends, template_of(method, settings))
            self.training, self.validation = (
                DiskList(encoder.example(e) for e in tasks.each_reference(split))
                for split in (task.examples.train, task.examples.validation)
            )
            prompts = [encoder.asked(example) for example in task.examples.test]
            self.prompts = [ids for ids, _ in prompts]
            self.cuts = [cut for _, cut in prompts]
            self.others = self.other_text(encoder)
            if hasattr(method, "initialise"):
                initialise(entry, method, attached, self.training)
            self.patches = patches
            recipe = build(TrainingSettings, spec.training, "run")
            self.model = patches.enter_context(
                self.base.prepared(attached, steps=0 if entry.control else steps_of(recipe, len(self.training)))
            )
            self.memory.placed()
            self.answers = self.engine.answers(self.model)
            self.documents, self.slower = self.engine.documents(self.model), self.engine.reason(self.model)
        with clock("checks"):
            self.frozen = adapters.frozen_digests(self.model)
        self.curves = Curves()
        self.texts: dict[int, str] = {}
        self.written = 0
        self.cut: set[int] = set()
        self.cost: dict[str, int | None] = {}
        self.forgotten: dict[str, float] = {}
        self.inference: dict[str, dict[str, float]] = {}

    def other_text(self, encoder: Encoder) -> tuple[list[Encoded], ...]:
        """Text that is not the task's, and some prompts, where forgetting is measured."""
        if not self.measure.forgetting or self.entry.control:
            return ()
        read = other_text.load(self.measure)
        refuse_other("measure.text", other_text.sha256(read), self.spec.hashes.get("text", ""))
        texts = [encoder.text(text, self.measure.text_tokens) for text in read]
        prompts = [encoder.every_token(ids) for ids in self.prompts[: self.measure.forgetting]]
        return tuple([one for one in part if len(one.ids) > one.prompt] for part in (texts, prompts))

    def train(self, ranks: Alone) -> None:
        """Trains the method, together with the other ranks."""
        self.curves = fine_tune(
            self.engine, self.model, self.training, self.validation, build(TrainingSettings, self.spec.training, "run"),
            seed=self.spec.seed, clock=self.clock, emit=self.emit, checkpointer=self.checkpointer,
            method=self.method, ranks=ranks,
        )  # fmt: skip

    def complete(self, ranks: Alone, folder: Path) -> tuple[RunResult, list[Prediction]]:
        """All that comes after training. Where the model is sharded, every rank does the same."""
        self.write(ranks)
        self.forget()
        return self.result(folder)

    def summaries(self, model: Any, prompts: Sequence[Sequence[int]], **durably: Any) -> tuple[dict[int, str], int]:
        """What `model` writes of `prompts`, by index, and how many tokens that is."""
        generation = build(GenerationSettings, self.spec.generation, "run")
        return summarise(
            self.engine, model, self.tokenizer, prompts, self.limit, generation, ends=self.base.ends, **durably
        )

    def write(self, ranks: Alone) -> None:
        """Writes a summary of every test document, and picks those that the reloaded model must write again."""
        with self.clock("evaluation"):
            self.emit({"phase": "evaluation", "done": 0, "documents": len(self.prompts)})
            weights = together(adapters.trained_digests(self.model))
            with self.engine.writing(self.model):
                self.texts, self.written = self.summaries(
                    self.model, self.prompts, emit=self.emit, done=ranks.same(self.checkpointer.summaries(weights)),
                    keep=lambda number, chunk: self.checkpointer.keep(weights, number, chunk), cut=self.cut,
                )  # fmt: skip
                self.cost = self.memory.read()
                self.check = Check.of(self.model, self.texts, weights, self.base.where.precision == "fp32")
                if self.check.ahead and not self.entry.control:
                    with self.clock("checks"):
                        self.check.first, _ = self.summaries(self.model, self.asked)

    def forget(self) -> None:
        """Measures what the trained model says of other text and of the prompts, beside what the base model does."""
        if not self.others:
            return
        with self.clock("checks"):
            base, _ = self.base.load()
            with self.base.prepared(base.requires_grad_(False)) as base:
                self.forgotten = side_effects.forgetting(self.engine, base, self.model, *self.others)

    @property
    def asked(self) -> list[Sequence[int]]:
        """The prompts of the summaries that are checked."""
        return [self.prompts[index] for index in self.check.indices]

    def result(self, folder: Path) -> tuple[RunResult, list[Prediction]]:
        """Gathers the evidence, saves and reloads what was trained, scores, and closes the books."""
        with self.clock("checks"):
            self.emit({"phase": "checks"})
            after = adapters.frozen_digests(self.model)
            parameters = {
                "expected": dataclasses.asdict(self.method.expected_parameters(self.shapes)),
                "requires_grad": dataclasses.asdict(count(self.model, self.shapes)),
                "optimizer": self.curves.optimizer_parameters,
                "saved": 0,
            }
            evidence: Evidence = {
                "frozen_before": together(self.frozen),
                "frozen_after": together(after),
                "frozen_changed": sorted(name for name in self.frozen if self.frozen[name] != after[name]),
                "layout": self.answers,
            }
            adapter_bytes = None
            if not self.entry.control:
                file = adapters.save(self.model, folder / "adapter")
                parameters["saved"] = adapters.saved_parameters(file)
                adapter_bytes = file.stat().st_size
                evidence.update(self.reloaded(folder / "adapter"))
        return finish(
            self.spec,
            self.task,
            [self.texts[index] for index in range(len(self.prompts))],
            self.clock,
            cut=self.cut,
            parameters=parameters,
            steps=self.curves.steps,
            epochs=self.curves.epochs,
            tokens={
                "training": self.curves.tokens,
                "labels": self.curves.labels,
                "generated": self.written,
            },
            memory_bytes=self.cost,
            adapter_bytes=adapter_bytes,
            evidence=evidence,
            forgetting=self.forgotten,
            inference=self.inference,
            truncated=self.truncated(),
            repeated_steps=self.checkpointer.repeated(len(self.curves.steps)),
            model_note=self.base.source.note,
            documents=self.documents,
            engine_reason=self.slower,
        )

    def truncated(self) -> dict[str, int]:
        """How many documents and summaries were cut to the task's limits."""
        train, validation = self.task.examples.train, self.task.examples.validation
        splits = (
            (tasks.each_reference(train), (one.document_cut for one in self.training)),
            (tasks.each_reference(validation), (one.document_cut for one in self.validation)),
            (self.task.examples.test, self.cuts),
        )
        return {
            "documents": sum(cut_documents(examples, cuts) for examples, cuts in splits),
            "summaries": sum(one.summary_cut for one in chain(self.training, self.validation)),
        }

    def reloaded(self, adapter: Path) -> Evidence:
        """What the plain base model with the saved tensors writes, beside what the trained one wrote."""
        if not self.check.small:
            self.patches.close()
            del self.model
            release(self.base.where.device)
        with self.base.prepared(self.method.attach(*self.base.load()), self.answers) as again:
            adapters.load(again, adapter)
            second, _ = self.summaries(again, self.asked)
            trained = together(adapters.trained_digests(again))
            self.infer(again, "attached")
        del again  # a large model stands there once
        release(self.base.where.device)
        if self.measure.inference and (whole := self.whole(adapter)) is not None:
            with self.base.prepared(whole.requires_grad_(False)) as whole:
                self.infer(whole, "merged")
        if self.check.doubtful(second):
            self.check.first, _ = self.summaries(self.model, self.asked)
        examples = [self.task.examples.test[index] for index in self.check.indices]
        return {
            "trained": self.check.weights,
            "reloaded_trained": trained,
            "reloaded": [
                {"id": e.id, "aspect": e.aspect, "summary": self.check.first[number], "again": second[number]}
                for number, e in enumerate(examples)
            ],
        }

    def whole(self, adapter: Path) -> Any:
        """The base model with what was saved in its weights; None where the method has no such form.

        Quantised weights have none, either: they would be quantised anew, which makes another model of the sum.
        """
        if self.base.settings.quantisation:
            return None
        model = self.method.attach(*self.base.load())
        adapters.load(model, adapter)
        return side_effects.merged(model)

    def infer(self, model: Any, form: str) -> None:
        """Measures what it costs to write with `model`, if asked."""
        if self.measure.inference:
            prompts = self.prompts[: self.measure.inference]
            self.inference[form] = side_effects.cost(self.engine, model, prompts, self.summaries)


def initialise(entry: Entry, method: Any, model: Any, documents: Iterable[Encoded]) -> None:
    """Has `method` start what it trains from the training documents. Raises UsageError where it changed anything else.

    A saved adapter is loaded into a model that `attach` alone has made.
    """
    before = adapters.frozen_digests(model)
    method.initialise(model, [torch.tensor([one.ids]) for one in documents])
    after = adapters.frozen_digests(model)
    if changed := sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)):
        raise UsageError(
            f"method {entry.name!r}: initialise changed {changed[0]}, which is not trained, so its saved adapter would "
            f"not load on the base model; change it in attach; mend {entry.shown}"
        )


def cut_documents(examples: Iterable[tasks.Example], cuts: Iterable[bool]) -> int:
    """Documents of which any example was cut; the examples of a document stand together."""
    marked = zip((example.id for example in examples), cuts, strict=True)
    return sum(any(cut for _, cut in group) for _, group in groupby(marked, key=lambda pair: pair[0]))


def finish(
    spec: RunSpec,
    task: tasks.Task,
    summaries: list[str],
    clock: Clock,
    model_note: str = "",
    documents: str = "",
    engine_reason: str = "",
    cut: Collection[int] | None = None,
    **measured: Any,
) -> tuple[RunResult, list[Prediction]]:
    """Scores the summaries and closes the books; `cut` holds the indices of those that the limit of tokens ended."""
    test = task.examples.test
    scorer = task.examples.scorer
    with clock("evaluation"):
        predictions = [
            Prediction(e.id, e.document, e.summary, summary, e.references, e.aspect, None if cut is None else n in cut)
            for n, (e, summary) in enumerate(zip(test, summaries, strict=True))
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
            "engine_reason": engine_reason,
        },
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=dict(clock.seconds),
        **{"parameters": None, **measured},
    ), predictions
