"""Slurm: each run is a job, through submitit; the store must be on a file system that all machines share."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from bakeoff.core.errors import UsageError, first_line
from bakeoff.core.events import Emit
from bakeoff.session import worker
from bakeoff.session.executors import remote
from bakeoff.session.executors.api import Job, Made, Waiting
from bakeoff.session.store import Store

EVERY = 1.0
"""Seconds between two looks at a job."""
AT_ONCE = 64
"""Jobs in the queue at a time, where nobody says how many."""


def load() -> ModuleType:
    """submitit. Raises UsageError where it is not installed."""
    try:
        import submitit
    except ImportError:
        raise UsageError("--executor slurm: submitit is not installed; type pip install 'submitit>=1.5,<2'") from None
    found: ModuleType = submitit
    return found


def task(sent: remote.Parcel, home: str, folder: str, news: str) -> tuple[str, Any]:
    """What a job does: it makes a run in the shared store, writes its news to a file, and returns how it ended."""
    ended: tuple[str, Any] = "died", ("start", "no answer", "", False)
    with open(news, "a", encoding="utf-8") as file:
        for kind, value in remote.answered(remote.make(sent, Path(home), Path(folder))):
            if kind == "news":
                file.write(json.dumps(value) + "\n")
                file.flush()
            elif kind != "log":
                ended = kind, value
    return ended


class Slurm:
    """Runs as jobs of Slurm."""

    def __init__(self, store: Store, parallel: int, machine: Mapping[str, Any], cluster: str = "slurm") -> None:
        """`cluster` is submitit's: `slurm`, or `local` for processes of this machine. Raises UsageError."""
        submitit = load()
        self.store = store
        self.count = parallel or AT_ONCE
        self.places = f"up to {self.count} at a time as jobs of Slurm"
        try:
            self.executor = submitit.AutoExecutor(folder=store.root / "slurm", cluster=cluster)
        except Exception as error:  # submitit's own, where no Slurm is
            raise UsageError(f"--executor slurm: {first_line(error)}; type it on a machine that submits jobs") from None
        card = {"gpus_per_node": machine["ranks"]} if machine["device"] == "cuda" else {}
        self.executor.update_parameters(name="bakeoff", cpus_per_task=machine["threads"], timeout_min=24 * 60, **card)
        self.submitting, self.waiting = threading.Lock(), threading.Semaphore(self.count)
        self.jobs: set[Any] = set()
        self.stopped = False

    @contextmanager
    def slot(self, waiting: Waiting) -> Iterator["Slurm"]:
        """See Executor."""
        with self.waiting:
            if self.stopped:
                raise worker.Stopped
            yield self

    def make(self, job: Job, emit: Emit) -> Made:
        """See Slot. A job that Slurm ends (time, preemption, a lost machine) is a run that died; it can be resumed."""
        news = job.log.with_suffix(".news")
        news.unlink(missing_ok=True)
        with self.submitting:
            if self.stopped:
                raise worker.Stopped
            sent = remote.parcel(job)
            try:
                given = self.executor.submit(task, sent, str(self.store.root), str(job.folder), str(news))
            except Exception as error:  # submitit's own, of what sbatch answers
                raise worker.Died("start", f"Slurm took no job: {first_line(error)}; if the queue is full, type "
                                  f"--parallel {max(1, self.count // 2)}") from None  # fmt: skip
            self.jobs.add(given)
        try:
            self.follow(given, news, emit)
            try:
                kind, value = given.result()
            except Exception as error:  # what submitit makes of a job without an answer
                if self.stopped:
                    raise worker.Stopped from None
                raise worker.Died("start", f"Slurm job {given.job_id}: {first_line(error)}") from None
            made = remote.receive(kind, value, job)
            assert made is not None
            return made
        finally:
            self.jobs.discard(given)
            news.unlink(missing_ok=True)

    def follow(self, given: Any, news: Path, emit: Emit) -> None:
        """Passes on a job's news until it has ended. A job that nobody waits for any more is cancelled."""
        told = 0
        try:
            while not given.done():
                told = self.tell(news, told, emit)
                if self.stopped:
                    raise worker.Stopped
                time.sleep(EVERY)
            self.tell(news, told, emit)
        except BaseException:  # Ctrl-C, too
            given.cancel(check=False)
            raise

    def tell(self, news: Path, start: int, emit: Emit) -> int:
        """Passes on what a job wrote since byte `start`; returns where the next time begins."""
        try:
            data = news.read_bytes()[start:]
        except OSError:  # not yet begun
            return start
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.splitlines():
            emit(json.loads(line))
        return start + len(whole)

    def stop(self) -> None:
        """See Executor."""
        self.stopped = True
        for job in list(self.jobs):
            job.cancel(check=False)
