"""This machine: a run at a time, several on shares of its processor, or one on each of its cards."""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace

from bakeoff.core.events import Emit
from bakeoff.session import worker
from bakeoff.session.executors.api import Job, Made, Waiting
from bakeoff.session.store import Store

PROCESSOR = ""
"""The name of the device that has no number."""


@dataclass(frozen=True)
class Place:
    """A share of the processor, or a card."""

    name: str
    """Of the slot: no two have the same."""
    devices: tuple[str, ...] = (PROCESSOR,)
    """What is locked while a run computes here: PROCESSOR, which its shares lock together, or cards."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of a process that computes here."""
    stopped: Callable[[], bool] = field(default=lambda: False, compare=False, repr=False)
    """Whether no run is to begin here any more."""

    def make(self, job: Job, emit: Emit) -> Made:
        """See Slot."""
        arguments = (asdict(job.spec), str(job.folder), str(job.models), str(job.partial), job.durability)
        made: Made = worker.call(
            worker.run_job, *arguments, log=job.log, emit=emit, timeout=job.timeout, slot=self.name,
            given=self.environment, stopped=self.stopped,
        )  # fmt: skip
        return made


class Local:
    """Runs in processes of this machine; no other bake-off on the same store computes on a device that one is on."""

    def __init__(self, store: Store, places: Sequence[Place] = (Place("processor"),), words: str = "") -> None:
        """`words` say what the places are, where there are several."""
        self.count, self.places = len(places), words
        self.stopped = False
        self.locks = {device: Shared(store, device) for place in places for device in place.devices}
        self.free: queue.SimpleQueue[Place] = queue.SimpleQueue()
        for place in places:
            self.free.put(replace(place, stopped=lambda: self.stopped))

    @contextmanager
    def slot(self, waiting: Waiting) -> Iterator[Place]:
        """See Executor. Raises Stopped once `stop` was called."""
        place = self.free.get()
        try:
            with ExitStack() as locks:
                for device in sorted(place.devices):  # in one order everywhere: nobody waits for one who waits for him
                    locks.enter_context(self.locks[device].held(waiting))
                if self.stopped:
                    raise worker.Stopped
                yield place
        finally:
            self.free.put(place)

    def stop(self) -> None:
        """See Executor."""
        self.stopped = True
        worker.stop()


class Shared:
    """The lock of a device, held by this process as long as one of its runs is there."""

    def __init__(self, store: Store, device: str) -> None:
        self.store, self.device = store, device
        self.users, self.changing, self.lock = 0, threading.Lock(), ExitStack()

    @contextmanager
    def held(self, waiting: Waiting) -> Iterator[None]:
        """Inside, no other process computes on the device."""
        with self.changing:
            if not self.users:
                self.lock.enter_context(self.store.computing(waiting, self.device))
            self.users += 1
        try:
            yield
        finally:
            with self.changing:
                self.users -= 1
                if not self.users:
                    self.lock.close()


def shares(store: Store, count: int) -> Local:
    """`count` runs at a time on the processor of this machine, each with its share of the threads."""
    places = [Place(f"processor {number}") for number in range(1, count + 1)]
    return Local(store, places, f"{count} at a time on one processor") if count > 1 else Local(store)


def cards(store: Store, visible: Mapping[str, str], ranks: int = 1) -> Local:
    """A run at a time on each of the cards, or on each group of `ranks` cards, as CUDA_VISIBLE_DEVICES names them.

    What each of them is, by its name, is what other bake-offs lock, too.
    """
    names = list(visible)
    groups = [names[start : start + ranks] for start in range(0, len(names) - ranks + 1, ranks)]
    places = [Place(f"card {','.join(group)}", tuple(f"cuda-{visible[name]}" for name in group),
                    {"CUDA_VISIBLE_DEVICES": ",".join(group)}) for group in groups]  # fmt: skip
    each = f"{ranks} of {len(visible)} cards" if ranks > 1 else f"{len(visible)} cards"
    return Local(store, places, f"one at a time on each of {each}" if len(places) > 1 else "")
