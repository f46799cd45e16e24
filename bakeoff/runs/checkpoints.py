"""What is kept of an unfinished run, so that a killed one goes on: training checkpoints and finished summaries."""

import base64
import contextlib
import hashlib
import json
import math
import os
import random
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bakeoff.config.schema import DurabilitySettings
from bakeoff.core.events import Emit, silent
from bakeoff.core.files import arrive, checksum, flush, write_whole
from bakeoff.runs.resources import Clock, Memory
from bakeoff.runs.tensor_files import save_tensors

SCHEMA = 4
KEPT = 2
"""Checkpoints on disk: the newest and, should it be damaged, the one before."""
BOOKED = ("training", "validation", "evaluation")
"""Phases whose seconds a resumed run takes over; what it does again (setup, checks) is booked as it is done."""


@dataclass
class Training:
    """All that training is between two steps: put back, it goes on as if nothing had happened."""

    trained: Sequence[torch.Tensor]
    optimizer: torch.optim.Optimizer
    schedule: Any
    order: torch.Generator
    curves: Any
    """A dataclass of numbers and lists of rows; its `steps` has one row a step."""
    of_method: Mapping[str, MutableMapping[str, torch.Tensor]] = field(default_factory=dict)
    """What the method keeps from one step to the next, in its own dictionaries."""
    epoch: int = 1
    """The epoch that is running."""
    window: int = 0
    """Its steps that are done."""
    drawn: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    """The state of `order` before this epoch's order was drawn."""
    best: float = math.inf
    """The lowest validation loss so far."""
    kept: list[torch.Tensor] = field(default_factory=list)
    """The weights that had it."""
    kept_step: int = 0
    """Steps that were done when they were kept."""
    over: bool = False
    """Whether all epochs are done: nothing but `kept` is needed any more."""


@dataclass(frozen=True)
class Chunk:
    """Summaries that were decoded together."""

    texts: dict[int, str]
    """Summary by index."""
    written: int
    """Tokens."""
    cut: tuple[int, ...] = ()
    """Indices of the summaries that the limit of tokens ended."""


class Checkpointer:
    """The folder of an unfinished run. Without a folder it keeps nothing and finds nothing."""

    def __init__(
        self,
        folder: Path | None = None,
        settings: DurabilitySettings | None = None,
        clock: Clock | None = None,
        emit: Emit = silent,
    ) -> None:
        self.folder, self.emit = folder, emit
        self.settings = settings or DurabilitySettings()
        self.clock = clock or Clock()
        self.memory: Memory | None = None
        self.saved_at = time.monotonic()
        self.saved_step = 0
        self.beside = ThreadPoolExecutor(1)
        self.begun: tuple[int, Future[str]] | None = None
        """Number and checksum of the checkpoint whose tensors are being written."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(".*.new"):
                left.unlink(missing_ok=True)

    # Training

    def restore(self, state: Training) -> bool:
        """Puts the newest checkpoint that is what was written into `state`; False where there is none."""
        for body in self._checkpoints():
            thaw(state, load_file(self._path(body["number"], "safetensors")), body)
            for phase in BOOKED:
                self.clock.seconds[phase] = body["seconds"][phase]
            if self.memory:
                self.memory.raise_to(body["memory"])
            self.saved_step = len(state.curves.steps)
            lost = max(0, self.computed() - self.saved_step - body["repeated"])
            self.emit({"resumed": f"goes on after step {self.saved_step}, {lost} computed again"})
            return True
        if self.folder is not None and self.computed():
            self.emit({"resumed": f"starts again, {self.computed()} steps computed again"})
        return False

    def counts(self) -> None:
        """Counts a step as it begins: whatever moment a process dies at, what it had begun is on the tally."""
        if self.folder is not None:
            with (self.folder / "computed").open("ab", buffering=0) as tally:
                tally.write(b".")

    def stepped(self, state: Training) -> None:
        """Saves a checkpoint when one is due."""
        steps = len(state.curves.steps)
        every, seconds = self.settings.checkpoint_steps, self.settings.checkpoint_seconds
        if (every and steps - self.saved_step >= every) or (seconds and time.monotonic() - self.saved_at >= seconds):
            self.save(state)

    def computed(self) -> int:
        """Steps that all processes of this run began, lost ones among them: one byte each in a file."""
        path = self.folder / "computed" if self.folder else None
        return path.stat().st_size if path and path.exists() else 0

    def repeated(self, steps: int) -> int:
        """Of the steps begun, how many were begun again, where the run has `steps`."""
        return max(0, self.computed() - steps)

    def begin(self, state: Training) -> None:
        """Starts to write a checkpoint's tensors, beside what goes on: none of them may change until `save`."""
        if self.folder is None:
            return
        with self.clock("checks"):
            number = max(self._numbers(), default=0) + 1
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors_of(state).items()}
            self.begun = number, self.beside.submit(save_tensors, tensors, self._aside(number))

    def save(self, state: Training) -> None:
        """Completes a checkpoint, begun or not: tensors first, then the page that vouches for them. Raises OSError."""
        if self.folder is None:
            return
        if self.begun is None:
            self.begin(state)
        assert self.begun is not None
        with self.clock("checks"):
            number, writing = self.begun
            self.begun = None
            path = self._path(number, "safetensors")
            try:
                found = writing.result()
                arrive(self._aside(number), path)
                body = {
                    "schema": SCHEMA,
                    "run": self.folder.name,
                    "number": number,
                    "tensors": found,
                    "seconds": {phase: self.clock.elapsed(phase) for phase in BOOKED},
                    "memory": self.memory.read() if self.memory else {},
                    "repeated": self.repeated(len(state.curves.steps)),
                    **plain_of(state),
                }
                write_whole(self._path(number, "json"), seal(body))
            except BaseException:
                self._aside(number).unlink(missing_ok=True)
                if not self._path(number, "json").exists():  # nothing vouches for the tensors
                    path.unlink(missing_ok=True)
                raise
            for old in self._numbers():
                if old <= number - KEPT:  # beside what goes on: gigabytes take a quarter of a second
                    self.beside.submit(self._forget, old)
        self.saved_at, self.saved_step = time.monotonic(), len(state.curves.steps)
        self.emit({"kept": f"{self.saved_step} steps"})

    def _checkpoints(self) -> Iterator[dict[str, Any]]:
        """The pages of all checkpoints that are what was written, newest first; others are removed.

        What is not believed must not stand among the KEPT, or the one that is believed would make room for it.
        """
        if self.folder is None:
            return
        for number in sorted(self._numbers(), reverse=True):
            try:
                body = unseal(self._path(number, "json").read_bytes())
                whole = (body["schema"], body["run"], body["number"]) == (SCHEMA, self.folder.name, number)
                whole = whole and body["tensors"] == checksum(self._path(number, "safetensors"))
            except FileNotFoundError:  # killed between the two files
                self._forget(number)
                continue
            except (OSError, ValueError, KeyError, TypeError):
                whole = False
            if whole:
                yield body
            else:
                self.emit({"resumed": f"checkpoint {number} is damaged and not believed"})
                self._forget(number)

    def _forget(self, number: int) -> None:
        """Removes a checkpoint, its page first."""
        for kind in ("json", "safetensors"):
            with contextlib.suppress(OSError):
                self._path(number, kind).unlink()

    def _numbers(self) -> set[int]:
        found = (path.stem.removeprefix("checkpoint-") for path in (self.folder or Path()).glob("checkpoint-*.*"))
        return {int(number) for number in found if number.isdecimal()}

    def _path(self, number: int, kind: str) -> Path:
        assert self.folder is not None
        return self.folder / f"checkpoint-{number:08}.{kind}"

    def _aside(self, number: int) -> Path:
        """Where a checkpoint's tensors are until they are whole."""
        path = self._path(number, "safetensors")
        return path.with_name(f".{path.name}.new")

    # Summaries

    def summaries(self, weights: str) -> dict[int, Chunk]:
        """Finished chunks by number that were written with these weights (a digest); a damaged line is dropped."""
        if self.folder is None or not (path := self.folder / "summaries.jsonl").exists():
            return {}
        lines = path.read_bytes().splitlines(keepends=True)
        found, good = {}, []
        for line in lines:
            try:
                body = unseal(line)
                if body["weights"] != weights:
                    raise ValueError
            except (ValueError, KeyError, TypeError):
                continue
            good.append(line)
            texts = {int(index): text for index, text in body["texts"].items()}
            found[body["chunk"]] = Chunk(texts, body["written"], tuple(body["cut"]))
            self.clock.seconds["evaluation"] = body["seconds"]
            if self.memory:
                self.memory.raise_to(body["memory"])
        if len(good) < len(lines):
            self.emit({"resumed": f"{len(lines) - len(good)} damaged lines of summaries are not believed"})
            write_whole(path, b"".join(good))
        if found:
            self.emit({"resumed": f"goes on after {sum(len(chunk.texts) for chunk in found.values())} summaries"})
        return found

    def keep(self, weights: str, number: int, chunk: Chunk) -> None:
        """Adds a finished chunk to the journal. Raises OSError."""
        if self.folder is None:
            return
        body = {
            "weights": weights,
            "chunk": number,
            "texts": {str(index): text for index, text in chunk.texts.items()},
            "written": chunk.written,
            "cut": list(chunk.cut),
            "seconds": self.clock.elapsed("evaluation"),
            "memory": self.memory.read() if self.memory else {},
        }
        path = self.folder / "summaries.jsonl"
        with path.open("ab") as journal:
            journal.write(seal(body))
            journal.flush()
            os.fsync(journal.fileno())
        flush(self.folder)
        self.emit({"kept": f"all of training and chunk {number + 1} of the summaries"})


def seal(body: dict[str, Any]) -> bytes:
    """One line of JSON that carries its own checksum; names in `body` must be texts, or they are sorted otherwise."""
    text = json.dumps(body, sort_keys=True)
    sealed = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": body}
    return json.dumps(sealed, sort_keys=True).encode() + b"\n"


def unseal(line: bytes) -> dict[str, Any]:
    """What was sealed. Raises ValueError where a byte is another than `seal` wrote."""
    try:
        body: dict[str, Any] = json.loads(line)["body"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("not a sealed line") from None
    if seal(body) != line:
        raise ValueError("the checksum differs")
    return body


def tensors_of(state: Training) -> dict[str, torch.Tensor]:
    """What of `state` is large, by name: weights, the best ones unless they are the same, moments, the method's own."""
    kept = () if state.kept_step == len(state.curves.steps) else state.kept
    found: dict[str, torch.Tensor] = {}
    for name, values in (("trained", state.trained), ("kept", kept)):
        found |= {f"{name}.{index}": value for index, value in enumerate(values)}
    for index, moments in {} if state.over else state.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{name}": value for name, value in flat(moments).items() if torch.is_tensor(value)}
    for part, own in {} if state.over else state.of_method.items():
        found |= {f"method/{part}/{name}": value for name, value in own.items()}
    return found


def plain_of(state: Training) -> dict[str, Any]:
    """The rest of `state` and the random generators, as what JSON holds."""
    import numpy

    optimizer = state.optimizer.state_dict()
    numbers: dict[str, dict[str, Any]] = {}  # JSON holds texts as names
    for index, moments in optimizer["state"].items():
        if found := {name: value for name, value in flat(moments).items() if not torch.is_tensor(value)}:
            numbers[str(index)] = found
    drawn: Any = numpy.random.get_state()
    kind, words, *rest = drawn
    generation, internal, gauss = random.getstate()
    draws = {"numpy": [kind, words.tolist(), *rest], "python": [generation, list(internal), gauss],
             "torch": text_of(torch.get_rng_state()), "order": text_of(state.drawn)}  # fmt: skip
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        draws["cuda"] = text_of(torch.cuda.get_rng_state())
    return {
        "epoch": state.epoch,
        "window": state.window,
        "best": state.best,
        "kept_step": state.kept_step,
        "curves": vars(state.curves),
        "groups": optimizer["param_groups"],
        "numbers": numbers,
        "schedule": state.schedule.state_dict(),
        "random": draws,
    }


def flat(moments: Mapping[str, Any]) -> dict[str, Any]:
    """What an optimizer keeps of a parameter, without tables in tables: `table/name` for each of their values."""
    found: dict[str, Any] = {}
    for name, value in moments.items():
        inner = {f"{name}/{key}": one for key, one in flat(value).items()} if isinstance(value, Mapping) else None
        found |= {name: value} if inner is None else inner
    return found


def deep(moments: Mapping[str, Any]) -> dict[str, Any]:
    """What `flat` was given."""
    found: dict[str, Any] = {}
    for name, value in moments.items():
        table, _, key = name.rpartition("/")
        (found.setdefault(table, {}) if table else found)[key] = value
    return found


def thaw(state: Training, tensors: dict[str, torch.Tensor], plain: dict[str, Any]) -> None:
    """Puts back what `tensors_of` and `plain_of` took."""
    import numpy

    moments: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in plain["numbers"].items()}
    for name in [name for name in tensors if name.startswith("optimizer.")]:
        _, index, moment = name.split(".", 2)
        moments.setdefault(int(index), {})[moment] = tensors.pop(name)
    nested = {index: deep(values) for index, values in moments.items()}
    state.optimizer.load_state_dict({"state": nested, "param_groups": plain["groups"]})
    state.schedule.load_state_dict(plain["schedule"])
    for name, value in plain["curves"].items():
        setattr(state.curves, name, value)
    state.epoch, state.window = plain["epoch"], plain["window"]
    state.best, state.kept_step = plain["best"], plain["kept_step"]
    for part, kept in state.of_method.items():
        kept.clear()
        for name in [name for name in tensors if name.startswith(f"method/{part}/")]:
            kept[name.split("/", 2)[2]] = tensors.pop(name).to(state.trained[0].device)
    with torch.no_grad():
        for number, parameter in enumerate(state.trained):
            parameter.copy_(tensors.pop(f"trained.{number}"))
    state.kept = []
    if state.kept_step == len(state.curves.steps):  # whatever was the best when the tensors were written
        state.kept = [parameter.detach().clone() for parameter in state.trained]
    elif state.kept_step:
        state.kept = [
            tensors.pop(f"kept.{number}").to(parameter.device) for number, parameter in enumerate(state.trained)
        ]
    draws = plain["random"]
    state.drawn = tensor_of(draws["order"])
    state.order.set_state(state.drawn)
    torch.set_rng_state(tensor_of(draws["torch"]))
    if "cuda" in draws:
        torch.cuda.set_rng_state(tensor_of(draws["cuda"]))
    numpy.random.set_state(tuple(draws["numpy"]))
    version, internal, gauss = draws["python"]
    random.setstate((version, tuple(internal), gauss))


def text_of(state: torch.Tensor) -> str:
    """A generator's state, as JSON holds it."""
    return base64.b64encode(state.numpy().tobytes()).decode()


def tensor_of(text: str) -> torch.Tensor:
    """The state that `text_of` took."""
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
