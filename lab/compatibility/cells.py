"""One cell of the compatibility table: a method on a tiny random model of an architecture, held against transformers.

The method is attached, trained for two steps and compared with reference.py: losses, gradients, texts at several
batch sizes, counts, and the adapter that was saved.
"""

import contextlib
import dataclasses
import functools
import json
import random
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bakeoff.config.schema import (
    Computation,
    EngineSettings,
    GenerationSettings,
    MachineSettings,
    ModelSettings,
    Settings,
    TaskSettings,
    TrainingSettings,
)
from bakeoff.core.errors import UsageError, first_line
from bakeoff.core.events import silent
from bakeoff.core.validation import build
from bakeoff.data import tasks
from bakeoff.data.encoding import Encoder
from bakeoff.engine import layout, make
from bakeoff.methods.api import hook
from bakeoff.methods.parameters import count, shapes_of
from bakeoff.methods.registry import Entry, known_methods
from bakeoff.runs import adapters
from bakeoff.runs.generation import summarise
from bakeoff.runs.resources import Clock
from bakeoff.runs.training import fine_tune
from bakeoff.session import plan
from lab.compatibility import architectures
from lab.compatibility.reference import Reference, merged

METHODS = ("zero-shot", "full", "last-layer", "lora", "soft-prompt", "prefix", "prefix-projection", "p-tuning", "ia3")
SMALL = {
    "prefix": {"virtual_tokens": 4},
    "prefix-projection": {"virtual_tokens": 4, "hidden": 16},
    "p-tuning": {"virtual_tokens": 4, "hidden": 16},
}
"""Hyperparameters that fit a tiny model."""
PACKED = "packed"
BATCHES = (1, 4, 6)
"""Documents that are written together."""
LIMIT = 8
"""Tokens of a summary."""
RATES = {"full": 0.02, "last-layer": 0.05}
"""Learning rates so large that two steps change every text."""
CLOSE, CLOSE_GRADIENT = 1e-5, 1e-3
"""How far an fp32 loss and a gradient may be from the reference's, relatively; most are 2e-7 and 2e-6 apart, Mamba's
gradient 1e-4."""
LEAD = 1e-4
"""Two tokens whose logits are closer than this are equal in fp32."""


PLAIN = Computation(device="cpu", precision="fp32", attention="eager", threads=1, engine="plain",
                    packing=False, fused=False, compiled=False, shared_prefix=False)  # fmt: skip
"""Padded, as on a GPU."""


@dataclass(frozen=True)
class Cell:
    """One method on one architecture."""

    architecture: str
    method: str
    verdict: str
    """works, refused or wrong."""
    path: str = ""
    """How documents stand: packed, padded or one by one; empty where refused."""
    words: str = ""
    """The line with which it is refused, what is wrong, or why it isn't packed."""


class Workbench:
    """Documents and a folder for all cells."""

    def __init__(self, folder: Path, compiled: bool = False) -> None:
        self.folder = folder
        self.cache = folder / "models"
        self.compiled = compiled
        file = folder / "uneven.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in documents()))
        self.task_settings = TaskSettings(name=str(file), train=0, validation=0, test=0, max_input_tokens=112,
                                          max_target_tokens=LIMIT)  # fmt: skip
        self.task = tasks.load(self.task_settings)
        known = known_methods()
        projected = dataclasses.replace(known["prefix"], name="prefix-projection", base="prefix")
        self.entries: dict[str, Entry] = {**known, projected.name: projected}

    def cell(self, architecture: str, method: str) -> Cell:
        """Works, refused, or what is wrong; a traceback is wrong, too."""
        state = torch.random.get_rng_state()
        try:
            return self._cell(architecture, method)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            words = f"{type(error).__name__}: {first_line(error)} ({Path(place.filename).name}:{place.lineno})"
            return Cell(architecture, method, "wrong", "", f"traceback: {words}")
        finally:
            torch.random.set_rng_state(state)

    def _cell(self, architecture: str, name: str) -> Cell:
        entry = self.entries[name]
        options = SMALL.get(name, {})
        asked = dataclasses.replace(
            PLAIN, engine="cpu", packing=True, fused=True, compiled=self.compiled, shared_prefix=True
        )
        try:
            planned = self.planned(architecture, entry, options, asked)
        except UsageError as error:
            return Cell(architecture, name, "refused", "", str(error))
        torch.manual_seed(5)
        bench = Trial(self, architecture, entry, build(entry.kind, planned, str(entry.file)))
        found = bench.train(asked)
        faults = list(found)
        paths: list[str] = []
        reason = ""
        for machine in (asked, PLAIN):
            model = bench.settled(machine)
            path, why = standing(model, machine)
            if path in paths:
                continue
            paths.append(path)
            reason = reason or why
            faults += [f"{path}: {fault}" for fault in bench.faults(model, machine)]
        if faults:
            return Cell(architecture, name, "wrong", paths[0], "; ".join(faults))
        return Cell(architecture, name, "works", paths[0], reason if paths[0] != PACKED else "")

    def planned(self, architecture: str, entry: Entry, options: dict[str, Any], machine: Computation) -> dict[str, Any]:
        """The method's hyperparameters, as a plan decides them. Raises UsageError where it refuses the method."""
        found = probed(
            architectures.settings(architecture), self.task_settings, of(MachineSettings, machine),
            of(EngineSettings, machine), [(entry.name, entry.method, str(entry.file), options)], self.cache,
        )  # fmt: skip
        decided: dict[str, Any] = found["methods"][entry.name]
        return decided


class Trial:
    """One method, trained on one architecture."""

    def __init__(self, bench: Workbench, architecture: str, entry: Entry, method: Any) -> None:
        self.bench, self.name, self.entry, self.method = bench, architecture, entry, method
        self.settings = architectures.settings(architecture)
        base = self.base(PLAIN)
        self.tokenizer = base.load()[1]
        encoder = Encoder(self.tokenizer, bench.task, bench.task_settings)
        found = bench.task.examples
        self.train_examples = [encoder.example(example) for example in found.train]
        self.validation = [encoder.example(example) for example in found.validation]
        self.prompts = [encoder.prompt(example)[0] for example in found.test]
        self.trained: Any = None
        self.patches = contextlib.ExitStack()

    def base(self, machine: Computation) -> architectures.Wide:
        """The base model as a run loads it."""
        return architectures.Wide(self.settings, self.bench.cache, machine)

    def clean(self) -> Any:
        """A fresh base model with the method attached and nothing more."""
        return self.method.attach(*self.base(PLAIN).load())

    def train(self, machine: Computation) -> Iterator[str]:
        """Two steps of the one training loop; yields what is wrong with the counts or the loss before any step."""
        base = self.base(machine)
        model, tokenizer = base.load()
        shapes = shapes_of(model)
        attached = self.method.attach(model, tokenizer)
        hook(self.method, "initialise")(attached, [torch.tensor([example.ids]) for example in self.train_examples])
        model = self.patches.enter_context(base.prepared(attached))
        before = Reference(self.clean(), model)
        with torch.no_grad():
            first = sum(float(before.loss(example.ids, example.prompt)) for example in self.validation)
        labels = sum(len(example.ids) - example.prompt for example in self.validation)
        recipe = TrainingSettings(
            epochs=0 if self.entry.control else 2, learning_rate=RATES.get(self.entry.name, 0.1), batch_size=4,
            micro_batch_size=2, warmup=0.0, schedule="constant",
        )  # fmt: skip
        curves = fine_tune(base.engine, model, self.train_examples, self.validation, recipe, seed=1, clock=Clock(),
                           method=self.method)  # fmt: skip
        self.trained = model
        if curves.epochs and apart(curves.epochs[0]["validation_loss"], first / labels) > CLOSE:
            yield f"the first loss is {curves.epochs[0]['validation_loss']:.4f}, expected {first / labels:.4f}"
        expected, counted = self.method.expected_parameters(shapes), count(model, shapes)
        if expected != counted:
            yield f"counts: expected {expected}, attached {counted}"
        if not self.entry.control and curves.optimizer_parameters != counted.trainable:
            yield f"the optimizer holds {curves.optimizer_parameters} of {counted.trainable}"

    def settled(self, machine: Computation) -> Any:
        """The trained model, placed and prepared for `machine`."""
        base = self.base(machine)
        model = self.patches.enter_context(base.prepared(self.method.attach(*base.load())))
        there = dict(self.trained.named_parameters())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(there[name])
        return model

    @functools.cached_property
    def right(self) -> tuple[Reference, dict[int, str], dict[int, float]]:
        """The reference, its texts by place, and how narrowly each was chosen; LoRA's are W + (alpha / r) B A's."""
        reference = Reference(self.clean(), self.trained)
        if self.entry.name != "lora":
            return reference, *self.texts(reference)
        whole = merged(self.base(PLAIN).load()[0], self.trained)
        return reference, *self.texts(Reference(whole, whole))

    def faults(self, model: Any, machine: Computation) -> Iterator[str]:
        """What of `model`, on `machine`, is not the reference's."""
        reference, texts, leads = self.right
        yield from self.loss_faults(model, machine, reference)
        written = {}
        for size in BATCHES:
            written[size] = self.write(model, machine, size)
            differing = [place for place, text in written[size].items()
                         if text != texts[place] and leads[place] > LEAD]  # fmt: skip
            if differing:
                yield f"{len(differing)} of {len(texts)} texts differ at batch size {size}"
        if not self.entry.control:
            yield from self.reload_faults(model, machine, written[4])

    def loss_faults(self, model: Any, machine: Computation, reference: Reference) -> Iterator[str]:
        """Losses and gradients at micro-batch 1 and 4."""
        model.eval()
        right = torch.stack([reference.loss(example.ids, example.prompt) for example in self.train_examples]).sum()
        trained = {name: p for name, p in reference.model.named_parameters() if p.requires_grad}
        if trained:
            gradients = dict(zip(trained, torch.autograd.grad(right, list(trained.values()), allow_unused=True),
                                 strict=True))  # fmt: skip
        engine = make(machine, self.tokenizer.pad_token_id)
        for size in (1, 4):
            model.zero_grad(set_to_none=True)
            total = 0.0
            for micro in engine.micro_batches(model, self.train_examples, size):
                loss = engine.loss(model, micro)
                total += loss.item()
                if trained:
                    loss.backward()
            if apart(total, right.item()) > CLOSE:
                yield f"loss at micro-batch {size} is {total:.4f}, expected {right.item():.4f}"
            if trained and (far := distance(model, gradients)) > CLOSE_GRADIENT:
                yield f"gradient at micro-batch {size} is off by {far:.2g} of its norm"
        model.zero_grad(set_to_none=True)

    def texts(self, reference: Reference) -> tuple[dict[int, str], dict[int, float]]:
        """The reference's texts by place, and how narrowly each was chosen."""
        ends = [self.tokenizer.eos_token_id]
        found = [reference.greedy(prompt, LIMIT, ends) for prompt in self.prompts]
        return {n: spelled(ids, ends) for n, (ids, _) in enumerate(found)}, {
            n: lead for n, (_, lead) in enumerate(found)
        }

    def write(self, model: Any, machine: Computation, size: int) -> dict[int, str]:
        """Bakeoff's texts by place, as token ids in words."""
        engine, words = make(machine, self.tokenizer.pad_token_id), Spelling(self.tokenizer)
        found, _ = summarise(engine, model, words, self.prompts, LIMIT, GenerationSettings(size))
        return dict(sorted(found.items()))

    def reload_faults(self, model: Any, machine: Computation, written: dict[int, str]) -> Iterator[str]:
        """Whether the saved adapter holds what was trained, and writes the same."""
        with tempfile.TemporaryDirectory(dir=self.bench.folder) as folder:
            file = adapters.save(model, Path(folder) / "adapter")
            saved, counted = (
                adapters.saved_parameters(file),
                sum(p.numel() for p in model.parameters() if p.requires_grad),
            )
            if saved != counted:
                yield f"{saved} numbers are saved, {counted} trained"
            base = self.base(machine)
            with base.prepared(self.method.attach(*base.load()), layout.answers(model)) as again:
                adapters.load(again, Path(folder) / "adapter")
                other = self.write(again, machine, 4) != written
            if other:
                yield "the reloaded adapter writes other texts"


class Spelling:
    """A tokenizer that writes token ids out, so that two texts are equal only where all tokens are."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def decode(self, ids: Iterable[int], **options: Any) -> str:
        """Ids in decimal."""
        return " ".join(map(str, ids))


def spelled(ids: Sequence[int], ends: Sequence[int]) -> str:
    """What `Spelling` writes of these, up to the first end token."""
    stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return " ".join(map(str, ids[:stop]))


def apart(found: float, right: float) -> float:
    """The relative difference."""
    return abs(found - right) / max(abs(right), 1e-9)


def distance(model: torch.nn.Module, right: dict[str, torch.Tensor | None]) -> float:
    """How far the gradients are from `right`, of its norm."""
    off = size = 0.0
    there = dict(model.named_parameters())
    for name, gradient in right.items():
        found = there[name].grad
        wanted = torch.zeros_like(there[name]) if gradient is None else gradient
        off += float(((torch.zeros_like(wanted) if found is None else found) - wanted).double().square().sum())
        size += float(wanted.double().square().sum())
    return (off / max(size, 1e-18)) ** 0.5


def probed(
    model: ModelSettings,
    task: TaskSettings,
    machine: MachineSettings,
    engine: EngineSettings,
    methods: list[tuple[str, str, str, dict[str, Any]]],
    cache: Path,
) -> dict[str, Any]:
    """What a plan finds, in this process. Raises UsageError for what it refuses."""
    asked = Settings(model=model, task=task, machine=machine, engine=engine)
    return plan.probe(plan.sections(asked), methods, str(cache), silent)


def of(kind: Any, where: Computation) -> Any:
    """The part of `where` that `kind` is."""
    return kind(**{field.name: getattr(where, field.name) for field in dataclasses.fields(kind)})


def standing(model: Any, machine: Computation) -> tuple[str, str]:
    """How documents stand together in training and in writing, and why not in one row, or not even padded."""
    packing = layout.packed(model)
    if machine.packing and not packing:
        return PACKED, ""
    training = "alone" if layout.padded(model) else "padded"
    writing = ("alone" if layout.alike(model) else "by length") if layout.written(model) else "padded"
    path = training if training == writing else f"{training} / {writing}"
    if layout.cached(model):
        path += ", no cache"
    return path, "; ".join(dict.fromkeys(filter(None, (
        packing, layout.padded(model), layout.written(model), layout.written(model) and layout.alike(model),
        layout.cached(model)))))  # fmt: skip


def documents() -> list[dict[str, str]]:
    """Documents of uneven length: a few words, or more than the limit."""
    draw = random.Random(11)
    syllables = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "knrst"]

    def words(number: int) -> str:
        return " ".join(draw.choice(syllables) for _ in range(number))

    lengths = {"train": (2, 21, 5, 13), "validation": (1, 9), "test": (1, 24, 3, 11, 40, 6)}
    return [
        {"id": f"{split}-{number}", "document": words(length), "summary": words(2), "split": split}
        for split, several in lengths.items()
        for number, length in enumerate(several)
    ]
