"""One run in several processes: each computes the gradient of its share of the documents, and all sum them.

The optimizer step is that of one process but for the order of the sum (data parallelism; Li et al. 2020,
arXiv:2006.15704). Rank 0 is the run's own process, which alone keeps checkpoints, writes and reports.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import distributed

from bakeoff.config import project
from bakeoff.config.schema import Computation
from bakeoff.core.validation import build
from bakeoff.data.encoding import Encoded
from bakeoff.models import quantise
from bakeoff.runs.checkpoints import Checkpointer, Training, plain_of, tensors_of, thaw
from bakeoff.runs.records import RunSpec

PARENT = Path(__file__).resolve().parents[2]
"""The folder in which Python finds Bakeoff."""
READY = "ready"
"""What a rank says once it has been told its run."""
LOST = 70
"""Exit code of a run that lost one of its ranks (EX_SOFTWARE of sysexits.h)."""
GRACE = 10
"""Seconds for which a rank that fails stays: what fails on all ranks alike, rank 0 says."""


class Alone:
    """One process: it computes everything, and there is nobody to tell."""

    rank, size = 0, 1

    def share(self, examples: Sequence[Encoded]) -> Sequence[Encoded]:
        """The sequences that this rank computes: all of one rank, else in turn by length, so that all have as much."""
        if self.size == 1:
            return examples
        return sorted(examples, key=lambda example: len(example.ids))[self.rank :: self.size]

    def add_gradients(self, trained: Sequence[torch.nn.Parameter]) -> None:
        """Sums the gradients of all ranks; a parameter without one on every rank keeps none."""

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all ranks, in its place."""
        return tensor

    def copy(self, state: Training, resumed: bool) -> bool:
        """Gives rank 0's training, if it was resumed, to all ranks; returns whether it was."""
        return resumed

    def draw(self, seed: int, step: int) -> None:
        """Begins a step's random numbers: each rank drops out its own."""

    def same(self, found: Any) -> Any:
        """What rank 0 found, on all ranks."""
        return found


class Ranks(Alone):
    """The processes of one run, joined by torch.distributed."""

    def __init__(self, rank: int, size: int, sharded: bool = False) -> None:
        """`sharded`: every rank computes as many documents as every other one."""
        self.rank, self.size, self.sharded = rank, size, sharded

    def share(self, examples: Sequence[Encoded]) -> Sequence[Encoded]:
        """See Alone. Where a rank lacks a document, it computes the shortest one without its labels, which adds 0."""
        ours = list(super().share(examples))
        if self.sharded and len(ours) < -(-len(examples) // self.size):
            shortest = min(examples, key=lambda example: len(example.ids))
            ours.append(replace(shortest, prompt=len(shortest.ids)))
        return ours

    def add_gradients(self, trained: Sequence[torch.nn.Parameter]) -> None:
        """See Alone."""
        there = torch.tensor([one.grad is not None for one in trained], device=trained[0].device, dtype=torch.int32)
        held = self.add(there).tolist()
        summed = [one for one, ranks in zip(trained, held, strict=True) if ranks]
        for one in summed:
            if one.grad is None:
                one.grad = torch.zeros_like(one)
            elif not one.grad.is_contiguous():
                one.grad = one.grad.contiguous()
        waiting = [distributed.all_reduce(one.grad, async_op=True) for one in summed]
        for work in waiting:
            work.wait()

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Alone."""
        distributed.all_reduce(tensor)
        return tensor

    def copy(self, state: Training, resumed: bool) -> bool:
        """See Alone."""
        found = None
        if self.rank == 0 and resumed:
            tensors = {name: tensor.detach().cpu() for name, tensor in tensors_of(state).items()}
            found = tensors, plain_of(state)
        found = self.same(found)
        if self.rank and found:
            thaw(state, *found)
        return bool(found)

    def draw(self, seed: int, step: int) -> None:
        """See Alone. A step's numbers follow from seed, step and rank, so that a resumed run draws the same."""
        torch.manual_seed(((seed * 1_000_003 + step) * 1_009 + self.rank) % 2**63)

    def same(self, found: Any) -> Any:
        """See Alone."""
        sent = [found]
        distributed.broadcast_object_list(sent)
        return sent[0]


@contextlib.contextmanager
def joined(where: Computation, rank: int, place: str) -> Iterator[Ranks]:
    """The group of a run's ranks, which meet at the file `place`."""
    backend = "nccl" if where.device == "cuda" else "gloo"
    meeting = distributed.FileStore(place, where.ranks)
    distributed.init_process_group(backend, store=meeting, rank=rank, world_size=where.ranks)
    try:
        yield Ranks(rank, where.ranks, where.sharded)
    finally:
        distributed.destroy_process_group()
        torch.set_num_threads(where.threads)


@contextlib.contextmanager
def assembled(spec: RunSpec, where: Computation, cache: Path) -> Iterator[Alone]:
    """The ranks of a run, of which the other ones are started and ended here; Alone if it has one.

    Raises RuntimeError where one of them can't be started. Where one is lost later, this process ends with LOST.
    """
    if where.ranks == 1:
        yield Alone()
        return
    with tempfile.TemporaryDirectory(prefix="bakeoff-ranks-") as folder, contextlib.ExitStack() as running:
        place, over = str(Path(folder, "meeting")), threading.Event()
        told = {"spec": asdict(spec), "cache": str(cache), "place": place, "project": str(project.root())}
        others = [running.enter_context(started({**told, "rank": rank}, card(rank, where)))
                  for rank in range(1, where.ranks)]  # fmt: skip
        for rank, other in enumerate(others, 1):
            if not any(line.strip() == READY for line in other.stdout):
                raise RuntimeError(
                    f"rank {rank} of {where.ranks} ended with exit code {other.wait()}; see the run's log"
                )
        for rank, other in enumerate(others, 1):
            threading.Thread(target=watch, args=(rank, other, over), daemon=True).start()
        with joined(where, 0, place) as ranks:
            try:
                yield ranks
            except RuntimeError:
                # Gloo may call a lost rank a connection reset before `watch` has said which one is lost.
                for rank, other in enumerate(others, 1):
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        end(rank, other.wait(timeout=1))
                raise
            finally:
                over.set()


def card(rank: int, where: Computation) -> dict[str, str]:
    """The environment in which a rank sees its own card alone; nothing on a CPU."""
    if where.device != "cuda":
        return {}
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return {"CUDA_VISIBLE_DEVICES": names[rank] if names else str(rank)}


@contextlib.contextmanager
def started(told: dict[str, Any], given: Mapping[str, str]) -> Iterator[Any]:
    """The process of another rank; ended with the block, and with this process by the end of its input."""
    path = os.pathsep.join(filter(None, [str(PARENT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, **given}
    command = [sys.executable, "-m", "bakeoff.runs.ranks"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(told) + "\n")
            process.stdin.flush()
            yield process
        finally:
            process.kill()


def watch(rank: int, process: Any, over: threading.Event) -> None:
    """Ends this process if `process` ends before all ranks are done: what it was to send would be waited for."""
    code = process.wait()
    if not over.is_set():
        end(rank, code)


def end(rank: int, code: int) -> NoReturn:
    """Ends this process, which lost a rank, and says which one."""
    print(f"rank {rank} ended with exit code {code} while the run was made", file=sys.stderr, flush=True)
    os._exit(LOST)


def follow() -> None:
    """The process of a rank but the first: prepares the same model, and trains it with the others."""
    from bakeoff.core.events import silent
    from bakeoff.methods.registry import find
    from bakeoff.runs.pipeline import ModelRun, task_of
    from bakeoff.runs.resources import Clock

    told = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_input, daemon=True).start()
    # What anybody prints, C libraries too, belongs into the run's log: nobody reads on behind READY.
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    project.use(Path(told["project"]))
    spec = RunSpec(**told["spec"])
    entry = find(Path(spec.method_file), spec.base)
    method = build(entry.kind, spec.hyperparameters, spec.method_file)
    where, task = build(Computation, spec.machine, "run"), task_of(spec)
    said.write(READY + "\n")
    said.flush()
    with joined(where, told["rank"], told["place"]) as ranks, contextlib.ExitStack() as patches:
        try:
            made = ModelRun(spec, entry, method, task, Path(told["cache"]), silent, Clock(), Checkpointer(), patches)
            made.train(ranks)
            if where.sharded:
                made.complete(ranks, Path(patches.enter_context(tempfile.TemporaryDirectory())))
        except Exception:
            traceback.print_exc()
            time.sleep(GRACE)
            raise
    threading.Event().wait()  # until rank 0, which has still to write what they made, ends this process


def end_with_input() -> None:
    """Ends this process at the end of its input: rank 0 is gone."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    quantise.leave_out()
    follow()
