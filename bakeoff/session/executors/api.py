"""The Executor protocol: all that a session knows of the places where its runs are made."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bakeoff.core.events import Emit
from bakeoff.runs.records import RunSpec

Waiting = Callable[[], None]
"""Called again and again while another bake-off has the place that a run needs. Raises Stopped to end the waiting."""
Made = tuple[dict[str, Any], list[dict[str, Any]]]
"""A RunResult and its Predictions as plain data."""


@dataclass(frozen=True)
class Job:
    """A run that is to be made, and where what it leaves belongs."""

    spec: RunSpec
    """What is asked."""
    folder: Path
    """An empty folder that gets the adapter."""
    partial: Path
    """What an unfinished run keeps."""
    models: Path
    """Converted base models."""
    log: Path
    """What the run's process prints."""
    durability: dict[str, float]
    """DurabilitySettings."""
    timeout: float
    """Seconds after which the run is ended; 0: never."""
    fresh: bool = False
    """Whether what an unfinished run kept is dropped first, on whatever machine it is."""


class Slot(Protocol):
    """A place where one run is made at a time."""

    def make(self, job: Job, emit: Emit) -> Made:
        """Makes the run; `job.folder` and `job.log` are filled on this machine, wherever it was made.

        Raises UsageError for what a user can mend, Stopped after `Executor.stop`, and Died for any other end.
        """
        ...


class Executor(Protocol):
    """Places for runs."""

    count: int
    """How many runs are made at once."""
    places: str
    """Those places in words, for the report; empty for one run at a time on this machine."""
    stopped: bool
    """Whether `stop` was called."""

    def slot(self, waiting: Waiting) -> AbstractContextManager[Slot]:
        """A slot that nobody else uses inside the block; waits for one."""
        ...

    def stop(self) -> None:
        """Ends every run that is being made, and makes no other."""
        ...
