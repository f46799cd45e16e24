"""What only a process with torch can tell a plan: hashes, the machine resolved, and whether each method fits."""

import dataclasses
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bakeoff import engine
from bakeoff.config import hardware
from bakeoff.config.schema import (
    Computation,
    EngineSettings,
    MachineSettings,
    MeasureSettings,
    ModelSettings,
    ScoringSettings,
    TaskSettings,
    plain,
)
from bakeoff.core.errors import UsageError, first_line
from bakeoff.core.events import Emit
from bakeoff.core.validation import build
from bakeoff.data import other_text, tasks
from bakeoff.data.encoding import Encoder, template_of
from bakeoff.methods.parameters import shapes_of
from bakeoff.methods.registry import Entry, find
from bakeoff.metrics.rouge import Scorer
from bakeoff.models import blueprint, loading, positions, quantise
from bakeoff.runs.attaching import fitted
from bakeoff.session.plan import MACHINE


def probe(
    asked: Mapping[str, Any], methods: list[tuple[str, str, str, dict[str, Any]]], cache: str, emit: Emit
) -> dict[str, Any]:
    """Hashes of model and data, the machine resolved, its compiler, and each method's hyperparameters as the model
    decides them.

    Runs in a process of its own. `asked` are settings by section, and how many runs share the processor; each of
    `methods` is a row's name, its method's, its file, and its hyperparameters. Raises UsageError.
    """
    where = hardware.resolve(
        build(MachineSettings, asked["machine"], "run"),
        build(EngineSettings, asked["engine"], "run"),
        asked.get("parallel", 1),
    )
    settings = build(ModelSettings, asked["model"], "run")
    documents = build(TaskSettings, asked["task"], "run")
    loaded, notes = loaded_task(documents, build(ScoringSettings, asked["scoring"], "run"))
    texts = other_text.load(build(MeasureSettings, asked["measure"], "run"))
    source = loading.locate(settings, cache=Path(cache))
    quantise.refuse_base(settings, source.kind, where.device, where.sharded)
    store = Path(cache).parent
    with ThreadPoolExecutor(1) as beside:
        # The C compiler works while Python converts a model.
        compiling = beside.submit(engine.compile_kernels, store / engine.KERNELS) if where.compiled else None
        folder = loading.prepare(source, Path(cache))
    tokenizer = loading.load_tokenizer(settings, folder)
    compiler, why = "not asked for", ""
    if compiling:
        try:
            compiler = compiling.result()
        except engine.NoCompiler as missing:
            compiler, why, where = "none", str(missing), dataclasses.replace(where, compiled=False)
    if where.sharded:
        engine.refuse_undivided(loading.meta_model(settings, folder))
    if where.checkpoint_activations and not loading.meta_model(settings, folder).supports_gradient_checkpointing:
        raise UsageError(
            f"machine.checkpoint_activations: --model {settings.name} can't compute its layers again; "
            "type --set machine.checkpoint_activations=false"
        )
    chosen = attention(settings, folder, where, asked["engine"]["attention"] != "auto", store)
    fitting = Fitting(settings, documents, loaded, tokenizer, folder)
    decided = {
        name: fitting.decided(dataclasses.replace(find(Path(file), base), name=name, base=base), values)
        for name, base, file, values in methods
    }
    return {
        "model": source.sha256,
        "data": loaded.sha256,
        "text": other_text.sha256(texts),
        "machine": plain(dataclasses.replace(where, attention=chosen)),
        "compiler": compiler,
        "card": {**hardware.card(where.device), **quantise.versions(settings)},
        "cards": hardware.cards(where.device),
        "no compiler": why,
        "methods": decided,
        "prompts": fitting.prompts,
        "notes": notes + fitting.notes,
    }


def loaded_task(documents: TaskSettings, scoring: ScoringSettings) -> tuple[tasks.Task, list[str]]:
    """The task, and what must be said of its references. Raises UsageError where nothing of them can be scored."""
    scorer = Scorer(scoring)
    loaded = tasks.load(documents, scorer)
    covered = scorer.coverage((example.id, example.references) for example in loaded.examples.test)
    if covered.refusal:
        raise UsageError(f"--task {loaded.name}: {covered.refusal}")
    return loaded, [covered.note] if covered.note else []


def attention(settings: ModelSettings, folder: Path | None, where: Computation, forced: bool, store: Path) -> str:
    """The attention that a run's model is loaded with; `forced`: the user named it."""
    wanted = where.attention
    # Torch's own kernel takes a quick exp, exact to 20 bits: enough for bf16, and none of what fp32 is asked for.
    if (
        not forced
        and where.packing
        and where.device == "cpu"
        and where.precision == "bf16"
        and engine.replaceable_attention(loading.meta_model(settings, folder))
    ):
        wanted = engine.quicker_attention(store / MACHINE, where)
    return loading.attention(settings, folder, wanted, forced=forced)


class Fitting:
    """Whether methods fit a model and its tokenizer, one after another."""

    def __init__(
        self, settings: ModelSettings, documents: TaskSettings, task: tasks.Task, tokenizer: Any, folder: Path | None
    ) -> None:
        self.settings, self.documents, self.task, self.tokenizer = settings, documents, task, tokenizer
        self.base = blueprint.builder(settings, folder, len(tokenizer))
        self.shapes = shapes_of(self.base("meta"))
        self.ends = loading.end_tokens(folder)
        self.encoders: dict[str, Encoder] = {}
        self.prompts: dict[str, str] = {}
        """Hash of the rendered prompt, by method."""
        self.notes: list[str] = []

    def decided(self, entry: Entry, hyperparameters: dict[str, Any]) -> dict[str, Any]:
        """A row's hyperparameters as the model decides them. Raises UsageError where it doesn't fit."""
        method = build(entry.kind, hyperparameters, str(entry.file))
        if entry.needs_model:
            method, _, attached = fitted(entry, method, self.base, self.settings.name)
            quantise.refuse_method(entry.name, self.settings, self.shapes, attached)
            refuse_text(entry.name, method, self.tokenizer)
            encoder = self.encoder(template_of(method, self.documents))
            self.prompts[entry.name] = encoder.sha256()
            self.notes += self.positions(entry.name, attached, encoder)
        found: dict[str, Any] = plain(method)
        return found

    def encoder(self, template: str) -> Encoder:
        """The encoder for `template`, checked when it is first asked for."""
        if template not in self.encoders:
            made = Encoder(self.tokenizer, self.task, self.documents, self.ends, template)
            self.encoders[template] = made
            self.notes += checked(made, self.settings.name)
        return self.encoders[template]

    def positions(self, name: str, attached: Any, encoder: Encoder) -> Iterator[str]:
        """What must be said of a model's positions. Raises UsageError where they end before a document does."""
        longest = self.documents.max_input_tokens
        if encoder is self.encoders.get("chat") and positions.limited(attached):  # a template's words are more
            longest = encoder.longest()
        note = positions.check(
            attached, f"method {name!r}", self.settings.name, longest, engine.virtual_tokens(attached),
            self.documents.max_target_tokens,
        )  # fmt: skip
        if note:
            yield note


def refuse_text(name: str, method: Any, tokenizer: Any) -> None:
    """Raises UsageError where a method has settings that it can't use with this tokenizer."""
    if hasattr(method, "check"):
        try:
            method.check(tokenizer)
        except (UsageError, ValueError) as error:
            why = first_line(error)
            raise UsageError(
                f"method {name!r}: {why}{'' if '; ' in why else f'; change --set methods.{name}.KEY'}"
            ) from None


def checked(encoder: Any, name: str) -> list[str]:
    """What must be said of the texts that the model called `name` will be asked. Raises UsageError."""
    try:
        return list(encoder.check())
    except UsageError as error:
        raise UsageError(f"--model {name}: {error}") from None
