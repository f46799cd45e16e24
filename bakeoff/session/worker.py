"""A process for every run: start, progress, and a cause when it dies."""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from filelock import FileLock

from bakeoff import shipped
from bakeoff.config import project
from bakeoff.config.schema import DurabilitySettings
from bakeoff.core.errors import Diverged, UsageError
from bakeoff.core.events import Emit, silent
from bakeoff.runs.records import RunSpec

START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"  # Windows has no fork
PATIENCE = 2.0
"""Seconds that a process has to end when it is asked to, or to write its stack."""
DUMP = getattr(signal, "SIGUSR1", None)
"""Makes a process write its stack into its log; None where there is no such signal (Windows)."""
STACK = 60
"""Lines of a stack that are kept."""
EXHAUSTED = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "bad_alloc",
             "memoryerror")  # fmt: skip
"""What is printed or raised when memory ran out, in lower case."""
FULL = ("no space left on device", "file too large", "disk quota exceeded", "not enough space on the disk")
"""What is raised when a disk is full, in lower case."""
QUIET = {
    "PYTHONHASHSEED": "0",  # the order of a set, PEFT's list of target modules for one, is the same in every process
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it cuBLAS has no deterministic products
}


WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
"""How threads of OpenMP wait for each other, where the user says nothing of it.

By default they spin for milliseconds, on a core that another process may need: two bake-offs on two cores, each slowed
many times over. A thousand spins are the microseconds that a wait inside an operator takes; then a thread sleeps.
"""


def waiting() -> dict[str, str]:
    """WAITING, or nothing where the environment already decides how threads wait."""
    return {} if {*WAITING, "KMP_BLOCKTIME"} & set(os.environ) else dict(WAITING)


_ending: dict[str, Any] = {}
"""The process that answered last, by slot, if it has not been waited for."""
_living: set[Any] = set()
"""Processes that have not answered yet."""
_starting = threading.Lock()
"""Held while a process is started: what starts it changes the main module for a moment."""


class Died(Exception):
    """A process that ended without an answer, with the phase it was in and the cause in one line."""

    def __init__(self, phase: str, cause: str, stack: str = "") -> None:
        super().__init__(f"{cause} (during {phase})")
        self.phase, self.cause, self.stack = phase, cause, stack


class Stopped(Exception):
    """A process that `stop` ended: nothing is known of its run, and nothing is kept of it but its checkpoints."""


class DiedDiverged(Died):
    """Training that reached a loss that is not a number: made again, the run would end so again."""


def start_server(offline: bool) -> None:
    """Starts the forkserver, which imports torch once; harmless when it runs already."""
    if START != "forkserver":
        return
    multiprocessing.get_context(START).set_forkserver_preload(["bakeoff.session.preload"])
    changes = {
        "BAKEOFF_COMMAND": str(os.getpid()),
        **QUIET,
        **waiting(),
        **({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"} if offline else {}),
    }
    # The server takes its path from the environment alone, and may run in another folder. What is installed it finds
    # by itself: a folder of packages before the standard library could hide a module of that.
    here = [str(shipped.ROOT)] if shipped.CHECKOUT else []
    path = os.pathsep.join(filter(None, [*here, os.environ.get("PYTHONPATH", "")]))
    with environment({**changes, **({"PYTHONPATH": path} if path else {})}):
        from multiprocessing.forkserver import ensure_running

        ensure_running()


@contextlib.contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """os.environ with `changes` inside the block."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def call(
    job: Callable[..., Any], *arguments: Any, log: Path, emit: Emit = silent, timeout: float = 0.0, slot: str = "",
    given: Mapping[str, str] | None = None, stopped: Callable[[], bool] = lambda: False,
) -> Any:  # fmt: skip
    """`job(*arguments, emit)` in a process of its own; what it prints goes to `log`.

    After `timeout` seconds it is ended (0: never). `slot` names where it computes: the process that computed there
    before it is waited for. `given` are environment variables of the process. Raises UsageError as the job raised it,
    Stopped where `stop` ended it or `stopped` says, once nothing waits any more, that it is not to begin, Died for any
    other end.
    """
    context: Any = multiprocessing.get_context(START)
    ours, theirs = context.Pipe(duplex=False)
    if last := _ending.pop(slot, None):  # nothing else computes, or holds memory, while a run is timed
        last.join(PATIENCE)
        _end(last)
    told = (theirs, job, arguments, str(log), project.root(), dict(given or {}))
    process = context.Process(target=_child, args=told, daemon=True)
    with _starting, _plain_main():
        if stopped():  # asked where `stop` can't look between the answer and the start
            ours.close()
            theirs.close()
            raise Stopped
        process.start()
        _living.add(process)
    theirs.close()
    phase, answered = "start", False
    end = time.monotonic() + timeout if timeout else None
    try:
        while True:
            try:
                if end is not None and not ours.poll(max(0.0, end - time.monotonic())):
                    stack = _stack(process, log)
                    raise Died(phase, f"ended after {timeout:g} s (--run-timeout)", stack)
                kind, value = ours.recv()
            except (EOFError, OSError):  # OSError: it died in the middle of a message
                process.join()
                if process not in _living:
                    raise Stopped from None
                raise Died(phase, cause_of(process.exitcode, log)) from None
            if kind == "news":
                phase = value.get("phase", phase)
                emit(value)
            elif kind == "result":
                # What it answered is stored while it ends: to give back gigabytes takes the system most of a second.
                answered = True
                _ending[slot] = process
                return value
            elif kind == "usage":
                raise UsageError(value)
            elif kind == "diverged":
                raise DiedDiverged(phase, value)
            else:
                raise Died(phase, value)
    finally:
        _living.discard(process)
        if not answered:
            _end(process)
        ours.close()


def stop() -> None:
    """Ends every process that has not answered; `call`, in whatever thread it waits, raises Stopped."""
    with _starting:
        while _living:
            process = _living.pop()
            process.terminate()


def _end(process: Any) -> None:
    """Ends a process, the harder the longer it stays."""
    if process.is_alive():
        process.terminate()
        process.join(PATIENCE)
    if process.is_alive():
        process.kill()
    process.join()


def _stack(process: Any, log: Path) -> str:
    """Where `process` stands, from its own dump in the log; empty where it gives none."""
    if DUMP is None:
        return ""
    with contextlib.suppress(OSError):
        before = log.stat().st_size
        os.kill(process.pid, DUMP)
        end, size = time.monotonic() + PATIENCE, before
        while time.monotonic() < end:
            time.sleep(0.1)
            if before < log.stat().st_size == size:  # it has stopped growing
                break
            size = log.stat().st_size
        lines = log.read_bytes()[before:].decode(errors="replace").splitlines()
        return "\n".join(lines[-STACK:])
    return ""


@contextlib.contextmanager
def _plain_main() -> Iterator[None]:
    """Hides the main module: a child would import pytest's start script again and needs nothing of it."""
    main = sys.modules["__main__"]
    saved: dict[str, Any] = {
        name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__
    }
    main.__dict__["__spec__"] = None
    try:
        yield
    finally:
        main.__dict__.update(saved)


def cause_of(exitcode: int | None, log: Path) -> str:
    """An exit code in words; `log` tells whether memory ran out before the process could say so."""
    cause = f"ended with exit code {exitcode} and no answer"
    if exitcode is not None and exitcode < 0:
        names = {int(known): known.name for known in signal.Signals}
        name = names.get(-exitcode, "a signal without a name")
        hint = "; the system may be out of memory" if name == "SIGKILL" else ""
        cause = f"killed by signal {-exitcode} ({name}{hint})"
    with contextlib.suppress(OSError):
        last = log.read_bytes()[-2000:].decode(errors="replace").lower()
        if any(words in last for words in EXHAUSTED):
            return f"out of memory ({cause})"
    return cause


def _child(
    connection: Connection, job: Callable[..., Any], arguments: tuple[Any, ...], log: str, home: Path,
    given: Mapping[str, str],
) -> None:  # fmt: skip
    """Runs in the new process: everything printed goes to the log, everything raised goes to the parent by kind."""
    os.environ.update(given)  # which cards a process sees is read when CUDA starts
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    project.use(home)
    # Read when CUDA starts. A child that no server of ours started (Windows) has none of QUIET.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = QUIET["CUBLAS_WORKSPACE_CONFIG"]
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = sys.stderr = os.fdopen(handle, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
        if DUMP is not None:
            faulthandler.register(DUMP, file=2, all_threads=True)
        answer = job(*arguments, lambda news: connection.send(("news", news)))
        with contextlib.suppress(OSError):
            sys.stdout.flush()  # whoever has the answer may read the log
        connection.send(("result", answer))
    except UsageError as error:
        connection.send(("usage", str(error)))
    except Diverged as error:
        connection.send(("diverged", str(error)))
    except BaseException as error:
        with contextlib.suppress(MemoryError, OSError):  # the cause must get through, with or without its traceback
            traceback.print_exc()
        connection.send(("death", describe(error)))
    finally:
        with contextlib.suppress(OSError):  # a full disk has no room for the log, either
            sys.stdout.flush()


def _end_with_parent() -> None:
    """Waits for the end of the process that asked for this one, however it ends, and ends at once."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def describe(error: BaseException) -> str:
    """An exception in one line; memory that ran out and a full disk are called that, whoever raised it."""
    text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in EXHAUSTED):
        return f"out of memory ({text})"
    if any(words in str(error).lower() for words in FULL):
        return f"disk full ({text})"
    return text


def run_job(
    spec: dict[str, Any], folder: str, cache: str, partial: str, durability: dict[str, Any], emit: Emit
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The job of a run: everything that it needs in, everything that it found out, as plain data."""
    from bakeoff.runs.checkpoints import Checkpointer
    from bakeoff.runs.pipeline import run
    from bakeoff.runs.resources import Clock

    clock = Clock()
    # One writer of a run: a worker whose parent was killed a moment ago may not have ended yet.
    place = Path(partial)
    lock = place.parents[1] / "locks" / f"{place.name}.writer"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        kept = Checkpointer(Path(partial), DurabilitySettings(**durability), clock, emit)
        result, predictions = run(RunSpec(**spec), Path(folder), Path(cache), emit, clock, kept)
    return asdict(result), [asdict(prediction) for prediction in predictions]
