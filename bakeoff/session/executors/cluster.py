"""A Ray cluster: each run is a task with its processors or its card, and what it leaves comes back to this machine."""

import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from bakeoff.core.errors import UsageError, first_line
from bakeoff.core.events import Emit
from bakeoff.runs.records import RunSpec
from bakeoff.session import worker
from bakeoff.session.executors import remote
from bakeoff.session.executors.api import Job, Made, Waiting

PACKAGE = Path(__file__).resolve().parents[2]
PATIENCE = 10
"""Seconds without news after which a run asks whether a machine is left for it."""
RETRIES = 1
"""How often a run is made again whose machine was lost."""


def load() -> ModuleType:
    """Ray. Raises UsageError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UsageError("--executor ray: Ray is not installed; type pip install 'ray>=2.60,<3'") from None
    found: ModuleType = ray
    return found


def task(sent: remote.Parcel) -> Iterator[tuple[str, Any]]:
    """What a machine of the cluster does: it makes a run, and sends what came of it and the adapter's files."""
    yield from remote.answered(attempted(sent))


def attempted(sent: remote.Parcel) -> Iterator[tuple[str, Any]]:
    """See `task`. Raises OSError where this machine has no room."""
    home, name = remote.node_home(), RunSpec(**sent.spec).fingerprint
    folder = home / "staging" / name
    with remote.alone(home, name):
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        folder.mkdir(parents=True)
        try:
            for kind, value in remote.make(sent, home, folder):
                if kind == "result":
                    yield from remote.files(folder)
                    shutil.rmtree(remote.kept(home, name), ignore_errors=True)
                yield kind, value
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """Runs on a Ray cluster."""

    def __init__(self, text: str, parallel: int, machine: Mapping[str, Any]) -> None:
        """`text` is `ray` (the cluster of $RAY_ADDRESS, else one that is begun here) or `ray://HOST:PORT`.

        Raises UsageError where the cluster can't be reached or has nothing that a run needs.
        """
        self.ray = load()
        self.address = text if "://" in text else None
        self.begin()
        card = machine["device"] == "cuda"
        ranks = machine["ranks"]
        self.needs = {"num_gpus": ranks, "num_cpus": ranks} if card else {"num_cpus": machine["threads"]}
        self.needed = f"{ranks} GPU{'s' * (ranks > 1)}" if card else f"{machine['threads']} processors"
        fits = self.room()
        if not fits:
            have = [f"{one.get('GPU', 0):g} GPUs and {one.get('CPU', 0):g} processors" for one in self.machines()]
            raise UsageError(
                f"--executor {text}: a run needs {self.needed} of one machine, and the cluster's have "
                f"{', '.join(have) or 'none'}{'' if card else '; type --set machine.threads=1'}"
            )
        self.count = parallel or fits
        self.places = f"{self.count} at a time on a Ray cluster"
        self.waiting = threading.Semaphore(self.count)
        self.streams: set[Any] = set()
        self.stopped = False

    def begin(self) -> None:
        """Joins the cluster, unless this process has. Raises UsageError."""
        if self.ray.is_initialized():
            return
        try:
            self.ray.init(address=self.address, logging_level="ERROR", log_to_driver=False, include_dashboard=False
                          if self.address is None and not os.environ.get("RAY_ADDRESS") else None,
                          runtime_env={"py_modules": [str(PACKAGE)], "env_vars": dict(worker.QUIET)})  # fmt: skip
        except Exception as error:  # Ray's own complaints, of many kinds
            raise UsageError(
                f"--executor {self.address or 'ray'}: {first_line(error)}; is the cluster there?"
            ) from None

    def machines(self) -> list[Mapping[str, float]]:
        """What each machine of the cluster has that is there."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def room(self) -> int:
        """How many runs the machines that are there can make at once; each run is made on one of them."""
        kinds = {"GPU": self.needs.get("num_gpus", 0), "CPU": self.needs["num_cpus"]}
        return sum(
            min(int(have.get(kind, 0) // needed) for kind, needed in kinds.items() if needed)
            for have in self.machines()
        )

    @contextmanager
    def slot(self, waiting: Waiting) -> Iterator["Cluster"]:
        """See Executor: as many as `count` runs are given to the cluster at once."""
        with self.waiting:
            if self.stopped:
                raise worker.Stopped
            yield self

    def make(self, job: Job, emit: Emit) -> Made:
        """See Slot. A run whose machine was lost is made once more, on another one."""
        for attempt in range(RETRIES + 1):
            for left in job.folder.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            try:
                return self.follow(job, emit)
            except self.ray.exceptions.RayError as error:
                if self.stopped:
                    raise worker.Stopped from None
                if isinstance(error, self.ray.exceptions.RayTaskError):  # not the machine's fault: it would come again
                    raise worker.Died("start", f"failed on the cluster: {worker.describe(error.cause)}") from None
                if attempt == RETRIES:
                    raise worker.Died("start", f"lost on the cluster: {first_line(error)}") from None
                emit({"resumed": "its machine was lost; it is made again on another"})
        raise AssertionError

    def follow(self, job: Job, emit: Emit) -> Made:
        """Gives a run to the cluster and takes what comes back."""
        make = self.ray.remote(task).options(**self.needs, max_retries=0)
        stream = make.remote(remote.parcel(job))
        self.streams.add(stream)
        try:
            if self.stopped:  # `stop` may have looked at the streams before this one was there
                raise worker.Stopped
            for reference in self.arriving(stream, emit):
                kind, value = self.ray.get(reference)
                if kind == "news":
                    emit(value)
                elif made := remote.receive(kind, value, job):
                    return made
        except (KeyboardInterrupt, worker.Stopped):
            self.ray.cancel(stream, force=True)
            raise
        finally:
            self.streams.discard(stream)
        raise worker.Died("start", "the cluster ended the run without an answer")

    def arriving(self, stream: Any, emit: Emit) -> Iterator[Any]:
        """What a run sends, as it comes; says, once, where no machine that is left could make the run."""
        said = False
        while True:
            while not said and not self.ray.wait([stream], timeout=PATIENCE)[0]:
                if not self.room():
                    emit({"resumed": f"waits: no machine of the cluster is left that has {self.needed}"})
                    said = True
            try:
                reference = next(stream)
            except StopIteration:
                return
            yield reference

    def stop(self) -> None:
        """See Executor."""
        self.stopped = True
        for stream in list(self.streams):
            self.ray.cancel(stream, force=True)
