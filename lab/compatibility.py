"""Which method works on which architecture: python -m lab.compatibility (`make compatibility`).

Each method is attached to a tiny random model of each architecture, trained for two steps, and held against
transformers alone (lab/reference.py): losses, gradients, texts at several batch sizes, counts, and the adapter that was
saved. Writes docs/compatibility.md and docs/compatibility.json.

python -m lab.compatibility --only llama,gpt2 --method lora   prints these cells and writes nothing
"""

import argparse
import dataclasses
import json
import random
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bakeoff import adapters, native, plan, run, tasks
from bakeoff.catalogue import Entry, load_file, shipped
from bakeoff.compiler import NoCompiler
from bakeoff.encoding import Encoded, Encoder, micro_batches
from bakeoff.errors import Diverged, UsageError, first_line
from bakeoff.generation import summarise
from bakeoff.parameters import count, shapes_of
from bakeoff.resources import Clock
from bakeoff.settings import GenerationSettings, MachineSettings, TaskSettings, TrainingSettings, build, plain
from bakeoff.training import fine_tune, loss_of
from lab import architectures
from lab.reference import Reference, merged

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "compatibility.md"
CELLS = ROOT / "docs" / "compatibility.json"
EXTRA = ROOT / "lab" / "peft_methods.py"
METHODS = ("zero-shot", "full", "last-layer", "lora", "soft-prompt", "prefix", "prefix-projection", "p-tuning", "ia3")
BATCHES = (1, 4, 6)
"""Documents that are written together."""
LIMIT = 8
"""Tokens of a summary."""
RATES = {"full": 0.02, "last-layer": 0.05}
"""Learning rates so large that two steps change every text."""
CLOSE = 2e-3
"""How far an fp32 loss or gradient may be from the reference's, relatively: a wrong mask is further by far."""
LEAD = 1e-3
"""Two tokens whose logits are closer than this are equal in fp32."""


PLAIN = MachineSettings(device="cpu", precision="fp32", attention="eager", threads=1, packing=False, fused=False,
                        compiled=False, shared_prefix=False)  # fmt: skip
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
        known = {**shipped(), **{entry.name: entry for entry in load_file(EXTRA)}}
        self.entries: dict[str, Entry] = {name: known[name] for name in METHODS}

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
        options = hyperparameters(architecture, name)
        method = build(entry.kind, options, str(entry.file))
        asked = dataclasses.replace(PLAIN, packing=True, fused=True, compiled=self.compiled, shared_prefix=True)
        if refusal := self.refusal(architecture, entry, options, asked):
            return Cell(architecture, name, "refused", "", refusal)
        torch.manual_seed(5)
        bench = Trial(self, architecture, entry, method)
        found = bench.train(asked)
        faults = list(found)
        paths = []
        for machine in (asked, PLAIN):
            model = bench.settled(machine)
            path = standing(model, machine)
            if path in paths:
                continue
            paths.append(path)
            faults += [f"{path}: {fault}" for fault in bench.faults(model, machine)]
        if faults:
            return Cell(architecture, name, "wrong", paths[0], "; ".join(faults))
        return Cell(architecture, name, "works", paths[0], "")

    def refusal(self, architecture: str, entry: Entry, options: dict[str, Any], machine: MachineSettings) -> str:
        """The line with which a plan refuses the method; empty where it accepts it."""
        try:
            plan.probe(plain(architectures.settings(architecture)), plain(self.task_settings), plain(machine),
                       [(entry.name, str(entry.file), options)], str(self.cache), lambda news: None)  # fmt: skip
        except UsageError as error:
            return str(error)
        return ""


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

    def base(self, machine: MachineSettings) -> architectures.Wide:
        """The base model as a run loads it."""
        return architectures.Wide(self.settings, self.bench.cache, machine)

    def clean(self) -> Any:
        """A fresh base model with the method attached and nothing more."""
        return self.method.attach(*self.base(PLAIN).load())

    def train(self, machine: MachineSettings) -> Iterator[str]:
        """Two steps of the one training loop; yields what is wrong with the counts and with the first step's loss."""
        base = self.base(machine)
        model, tokenizer = base.load()
        shapes = shapes_of(model)
        model = base.settle(self.method.attach(model, tokenizer))
        before = Reference(self.clean(), model)
        with torch.no_grad():
            first = sum(float(before.loss(example.ids, example.prompt)) for example in self.train_examples)
        labels = sum(len(example.ids) - example.prompt for example in self.train_examples)
        recipe = TrainingSettings(
            epochs=0 if self.entry.control else 2, learning_rate=RATES.get(self.entry.name, 0.1), batch_size=4,
            micro_batch_size=2, warmup=0.0, schedule="constant",
        )  # fmt: skip
        curves = fine_tune(model, self.train_examples, self.validation, recipe, machine, seed=1,
                           pad=tokenizer.pad_token_id, clock=Clock())  # fmt: skip
        self.trained = model
        if curves.steps and apart(curves.steps[0]["loss"], first / labels) > CLOSE:
            yield f"the first step's loss is {curves.steps[0]['loss']:.4f}, expected {first / labels:.4f}"
        expected, counted = self.method.expected_parameters(shapes), count(model, shapes)
        if expected != counted:
            yield f"counts: expected {expected}, attached {counted}"
        if not self.entry.control and curves.optimizer_parameters != counted.trainable:
            yield f"the optimizer holds {curves.optimizer_parameters} of {counted.trainable}"

    def settled(self, machine: MachineSettings) -> Any:
        """The trained model, placed and prepared for `machine`."""
        base = self.base(machine)
        model = base.settle(self.method.attach(*base.load()))
        there = dict(self.trained.named_parameters())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(there[name])
        return model

    def faults(self, model: Any, machine: MachineSettings) -> Iterator[str]:
        """What of `model`, on `machine`, is not the reference's."""
        reference = Reference(self.clean(), model)
        yield from self.loss_faults(model, machine, reference)
        texts, leads = self.texts(reference)
        written = {}
        for size in BATCHES:
            written[size] = self.write(model, machine, size)
            differing = [place for place, text in written[size].items()
                         if text != texts[place] and leads[place] > LEAD]  # fmt: skip
            if differing:
                yield f"{len(differing)} of {len(texts)} texts differ at batch size {size}"
        if self.entry.name == "lora":
            whole = merged(self.base(machine).load()[0], model)
            alone, _ = self.texts(Reference(whole, whole))
            if any(alone[place] != texts[place] and leads[place] > LEAD for place in texts):
                yield "the reference itself is not W + (alpha / r) B A"
        if not self.entry.control:
            yield from self.reload_faults(model, machine, written[4])

    def loss_faults(self, model: Any, machine: MachineSettings, reference: Reference) -> Iterator[str]:
        """Losses and gradients at micro-batch 1 and 4."""
        model.eval()
        right = torch.stack([reference.loss(example.ids, example.prompt) for example in self.train_examples]).sum()
        trained = {name: p for name, p in reference.model.named_parameters() if p.requires_grad}
        if trained:
            gradients = dict(zip(trained, torch.autograd.grad(right, list(trained.values()), allow_unused=True),
                                 strict=True))  # fmt: skip
        for size in (1, 4):
            model.zero_grad(set_to_none=True)
            total = 0.0
            for micro in micro_batches(self.train_examples, size):
                loss = loss_of(model, micro, self.tokenizer.pad_token_id, machine)
                total += float(loss)
                if trained:
                    loss.backward()
            if apart(total, float(right)) > CLOSE:
                yield f"loss at micro-batch {size} is {total:.4f}, expected {float(right):.4f}"
            if trained and (far := distance(model, gradients)) > CLOSE:
                yield f"gradient at micro-batch {size} is off by {far:.2g} of its norm"
        model.zero_grad(set_to_none=True)

    def texts(self, reference: Reference) -> tuple[dict[int, str], dict[int, float]]:
        """The reference's texts by place, and how narrowly each was chosen."""
        ends = [self.tokenizer.eos_token_id]
        found = [reference.greedy(prompt, LIMIT, ends) for prompt in self.prompts]
        return {n: spelled(ids, ends) for n, (ids, _) in enumerate(found)}, {n: lead for n, (_, lead) in enumerate(found)}

    def write(self, model: Any, machine: MachineSettings, size: int) -> dict[int, str]:
        """Bakeoff's texts by place, as token ids in words."""
        found, _ = summarise(model, Spelling(self.tokenizer), self.prompts, LIMIT, GenerationSettings(size), machine)
        return dict(sorted(found.items()))

    def reload_faults(self, model: Any, machine: MachineSettings, written: dict[int, str]) -> Iterator[str]:
        """Whether the saved adapter holds what was trained, and writes the same."""
        with tempfile.TemporaryDirectory(dir=self.bench.folder) as folder:
            file = adapters.save(model, Path(folder) / "adapter")
            saved, counted = adapters.saved_parameters(file), sum(p.numel() for p in model.parameters() if p.requires_grad)
            if saved != counted:
                yield f"{saved} numbers are saved, {counted} trained"
            again = run.reloaded(self.base(machine), self.method, Path(folder) / "adapter")
            if self.write(again, machine, 4) != written:
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


def standing(model: Any, machine: MachineSettings) -> str:
    """How documents stand: packed, padded, or one by one."""
    from bakeoff.attention import packable

    return "packed" if machine.packing and packable(model) else "padded"


def hyperparameters(architecture: str, method: str) -> dict[str, Any]:
    """What a method's count can't read from shapes."""
    values = architectures.ARCHITECTURES[architecture]
    if method in ("prefix", "prefix-projection"):
        config = architectures.configuration(architecture)
        heads = next(values[key] for key in ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads",
                                             "hidden_size") if key in values)  # fmt: skip
        width = 32 * values.get("num_key_value_heads", heads) // heads
        return {"layers": config.num_hidden_layers, "width": width}
    return {}


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


def main() -> None:
    """Writes the table, or prints the cells that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="architectures, with commas")
    parser.add_argument("--method", default="", help="methods, with commas")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(architectures.ARCHITECTURES)
    methods = arguments.method.split(",") if arguments.method else list(METHODS)
    torch.set_num_threads(1)
    import time
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(Path(folder))
        for name in names:
            for method in methods:
                t = time.time()
                cell = bench.cell(name, method)
                print(f"{name:18} {method:18} {cell.verdict:8} {cell.path:8} {time.time()-t:.1f}s {cell.words}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
