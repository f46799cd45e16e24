"""A run on another machine: what is sent there, what that machine must be, and what comes back."""

import contextlib
import hashlib
import os
import queue
import shutil
import socket
import tempfile
import threading
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from bakeoff import engine
from bakeoff.config import hardware
from bakeoff.core.errors import UsageError
from bakeoff.core.files import write_whole
from bakeoff.models import quantise
from bakeoff.runs.records import RunSpec
from bakeoff.session import worker
from bakeoff.session.executors.api import Job, Made

CHUNK = 32 * 2**20
"""Bytes of a file that are sent at once."""
LOG = 2**20
"""Bytes of a log's end that are sent."""


@dataclass(frozen=True)
class Parcel:
    """A run and all that it needs but the base model and the documents."""

    spec: dict[str, Any]
    """A RunSpec."""
    method: str
    """The text of the method's file."""
    durability: dict[str, float]
    """DurabilitySettings."""
    timeout: float
    """Seconds after which the run is ended; 0: never."""
    offline: bool
    """Whether nothing comes over the network."""
    fresh: bool = False
    """See Job."""


def parcel(job: Job) -> Parcel:
    """What is sent of a run."""
    text = Path(job.spec.method_file).read_text(encoding="utf-8")
    from bakeoff.session.plan import on_hub

    offline = not on_hub(job.spec.model["name"], job.spec.task["name"])
    return Parcel(asdict(job.spec), text, job.durability, job.timeout, offline, job.fresh)


def make(sent: Parcel, home: Path, folder: Path) -> Iterator[tuple[str, Any]]:
    """Makes a run on this machine, below `home` and with its adapter in `folder`; yields what came of it, kind by kind.

    ("news", News) any number of times; then ("result", Made), ("usage", text) or ("died", (phase, cause, stack,
    diverged)); the end of the log as ("log", bytes) before it.
    """
    spec = RunSpec(**sent.spec)
    log = home / "logs" / f"{spec.fingerprint}.log"
    for place in (home / "models", home / "partial", log.parent):
        place.mkdir(parents=True, exist_ok=True)
    try:
        check(spec)
    except UsageError as error:
        yield "usage", str(error)
        return
    if sent.fresh:
        shutil.rmtree(kept(home, spec.fingerprint), ignore_errors=True)
    worker.start_server(sent.offline)
    job = Job(here(spec, sent.method, home), folder, kept(home, spec.fingerprint), home / "models", log,
              sent.durability, sent.timeout)  # fmt: skip
    said: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=lambda: said.put(outcome(job, said)), daemon=True).start()
    while True:
        kind, value = said.get()
        if kind != "news":
            with contextlib.suppress(OSError):
                yield "log", log.read_bytes()[-LOG:]
        yield kind, value
        if kind != "news":
            return


def answered(steps: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """`steps` as they come; what they raise is the last of them, a run that died."""
    try:
        yield from steps
    except Exception as error:
        yield "died", ("start", f"{socket.gethostname()}: {worker.describe(error)}", traceback.format_exc(), False)


@contextlib.contextmanager
def alone(home: Path, fingerprint: str) -> Iterator[None]:
    """Inside, no other bake-off makes this run on this machine: what it keeps below `home` is that of one."""
    lock = home / "locks" / f"{fingerprint}.machine"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, thread_local=False):
        yield


def kept(home: Path, fingerprint: str) -> Path:
    """Where a machine keeps what an unfinished run has finished."""
    return home / "partial" / fingerprint


def outcome(job: Job, said: "queue.SimpleQueue[tuple[str, Any]]") -> tuple[str, Any]:
    """How a run on this machine ended; its news go to `said`."""
    arguments = (asdict(job.spec), str(job.folder), str(job.models), str(job.partial), job.durability)
    try:
        # What the machine's own scheduler gave this process, its cards for one, the run's process inherits late:
        # the server that it comes from may be older.
        given = {name: value for name, value in os.environ.items() if name.endswith("_VISIBLE_DEVICES")}
        made = worker.call(worker.run_job, *arguments, log=job.log, timeout=job.timeout, given=given,
                           emit=lambda news: said.put(("news", news)))  # fmt: skip
        return "result", made
    except UsageError as error:
        return "usage", str(error)
    except worker.Died as died:
        return "died", (died.phase, died.cause, died.stack, isinstance(died, worker.DiedDiverged))
    except Exception as error:
        return "died", ("start", worker.describe(error), "", False)


def here(spec: RunSpec, method: str, home: Path) -> RunSpec:
    """The spec with its method's file in `home`: the file's name and text, wherever it came from."""
    data = method.encode()
    file = home / "methods" / hashlib.sha256(data).hexdigest()[:16] / Path(spec.method_file).name
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.parent / "writing.lock"):  # runs that begin here at once bring the same file
        if not file.is_file():
            write_whole(file, data)
    return replace(spec, method_file=str(file))


def check(spec: RunSpec) -> None:
    """Refuses a machine on which the run would be another one than was planned. Raises UsageError."""
    from bakeoff.session.plan import source_sha256

    device = spec.machine["device"]
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError(f"{socket.gethostname()}: torch finds no GPU there, and the plan is for one; "
                             "let the cluster give each run a card")  # fmt: skip
        if (count := torch.cuda.device_count()) < spec.machine.get("ranks", 1):
            raise UsageError(f"{socket.gethostname()}: machine.ranks = {spec.machine['ranks']}: each needs a GPU, and "
                             f"{count} are visible there; type --set machine.ranks={count}")  # fmt: skip
    found = {**hardware.versions(), **hardware.card(device), "source": source_sha256()}
    for package in spec.versions.keys() & {quantise.BITSANDBYTES, quantise.TORCHAO}:
        found |= quantise.installed(package)
    if spec.machine.get("compiled"):
        try:
            found["compiler"] = engine.compiler_version()
        except engine.NoCompiler as missing:
            raise UsageError(f"{socket.gethostname()}: {missing}, and the plan has compiled kernels") from None
    planned = {**spec.versions, "source": spec.hashes["source"]}
    for name, value in found.items():
        if value != planned.get(name):
            what = ("Bakeoff's own files differ", "there") if name == "source" else (
                f"{name} is {value}", f"{planned.get(name, 'unknown')} where the bake-off was planned")  # fmt: skip
            raise UsageError(
                f"{socket.gethostname()}: {what[0]} {what[1]}, so its runs would not be comparable; "
                "make both machines the same, or name machines that are"
            )


def node_home() -> Path:
    """Where a machine keeps converted models, kernels and checkpoints between runs."""
    user = getattr(os, "getuid", lambda: "user")()
    return Path(os.environ.get("BAKEOFF_NODE_STORE") or Path(tempfile.gettempdir(), f"bakeoff-node-{user}"))


def files(folder: Path) -> Iterator[tuple[str, Any]]:
    """The files of a folder as ("file", (name, bytes)), large ones in several parts."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        with path.open("rb") as file:
            while (part := file.read(CHUNK)) or not file.tell():
                yield "file", (name, part)
                if not part:
                    break


def receive(kind: str, value: Any, job: Job) -> Made | None:
    """Takes what `make` or `files` yielded on another machine; returns the run with the last of it.

    Raises UsageError, Died and DiedDiverged as a run on this machine does.
    """
    if kind == "file":
        name, part = value
        path = job.folder / name
        if not path.resolve().is_relative_to(job.folder.resolve()):
            raise worker.Died("storing", f"another machine sent a file called {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(part)
    elif kind == "log":
        job.log.write_bytes(value)
    elif kind == "usage":
        raise UsageError(value)
    elif kind == "died":
        phase, cause, stack, diverged = value
        raise (worker.DiedDiverged if diverged else worker.Died)(phase, cause, stack)
    elif kind == "result":
        result, predictions = value
        return {**result, "spec": asdict(job.spec)}, predictions
    return None
