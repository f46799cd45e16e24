"""Finished runs on disk, by fingerprint: each written completely or not at all, and checked when it is read."""

import dataclasses
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bakeoff.core.columns import by_column, numbers
from bakeoff.core.errors import UsageError
from bakeoff.core.files import checksum, flush, replace
from bakeoff.core.validation import misfit, strict_json
from bakeoff.data.sources import ASPECTS
from bakeoff.metrics.rouge import Prediction
from bakeoff.runs.records import RunResult

SCHEMA = 2
"""Of a stored run's manifest."""
MANIFEST = "manifest.json"
ALIKE = ("environment", "document_ids", "parameters", "data", "notes", "signature")
"""What runs have in common, as the parts of their specs."""
OWN = ("epochs", "seconds", "tokens", "memory_bytes", "evidence", "truncated", "forgetting", "inference")
"""What each run has of its own, under the same keys."""
LOOKS_EVERY = 0.2
"""Seconds after which it is said again that a lock is not free."""


class Store:
    """A folder with `runs/<fingerprint>/`, `partial/<fingerprint>/` (what is kept of unfinished runs), `models/`
    (converted base models) and `logs/`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = root / "models"
        self.logs = root / "logs"
        self.unfinished = root / "partial"
        self.staged = root / "staging"
        self.everywhere = (self.staged, self.unfinished, root / "runs")
        """Where killed processes may have left something, `runs` if they were of an earlier version."""
        self.metrics = root / "metrics"
        """What metrics beside ROUGE said of stored summaries; made when it is needed."""
        self.going: set[Path] = set()
        """Folders that this process is removing."""
        try:
            for folder in (self.models, self.logs, *self.everywhere, root / "locks"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{root}: runs can't be kept here: {error.strerror}; type --store FOLDER") from None

    def folder(self, fingerprint: str) -> Path:
        """Where a finished run is."""
        return self.root / "runs" / fingerprint

    def find(self, fingerprint: str) -> RunResult | None:
        """The finished run, or None when there is none or its files are not what was written."""
        folder = self.folder(fingerprint)
        if not intact(folder):
            return None
        try:
            found = read_result(folder / "result.json")
        except UsageError:  # its checksum holds and it is no run all the same: never believed
            return None
        return found if found.fingerprint == fingerprint else None

    def predictions(self, fingerprint: str) -> list[Prediction]:
        """What a finished run wrote, in the order of its document_ids."""
        return read_predictions(self.folder(fingerprint) / "predictions.jsonl")

    def partial(self, fingerprint: str) -> Path:
        """Where an unfinished run keeps what it has finished."""
        return self.unfinished / fingerprint

    def forget_partial(self, fingerprint: str) -> None:
        """Drops what an unfinished run kept; a disk may take a second for gigabytes, and nobody waits for it."""
        gone = self.unfinished / f".{fingerprint}-{time.time_ns()}"
        try:
            os.rename(self.partial(fingerprint), gone)
        except FileNotFoundError:
            return
        except OSError:  # a file that somebody has open, where a system doesn't rename it then
            shutil.rmtree(self.partial(fingerprint), ignore_errors=True)
            return
        self.going.add(gone)
        threading.Thread(target=shutil.rmtree, args=(gone, True)).start()

    @contextmanager
    def computing(self, waiting: Callable[[], None] = lambda: None, device: str = "") -> Iterator[None]:
        """Held while a run computes on a device, the processor if it has no name: nothing else does while it is timed.

        `waiting` is called again and again while another process holds it; what it raises ends the waiting. The system
        lets go of the lock when its holder dies. It may be given back by another thread.
        """
        name = f"computing-{device}.lock" if device else "computing.lock"
        with held(self.root / name, waiting):
            self.sweep()
            yield

    @contextmanager
    def making(self, fingerprint: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Held while a run is looked for and made: no run is made twice. See `computing`."""
        with held(self.lock(fingerprint), waiting):
            self.remove(fingerprint)
            yield

    def lock(self, fingerprint: str) -> Path:
        """The lock of a run."""
        return self.root / "locks" / fingerprint

    def sweep(self) -> None:
        """Removes what killed processes left of runs that nobody is making."""
        left = {path for folder in self.everywhere for path in folder.glob(".*")} - self.going
        for fingerprint in {folder.name[1:].partition("-")[0] for folder in left}:
            lock = FileLock(self.lock(fingerprint))
            try:
                with lock.acquire(timeout=0):
                    self.remove(fingerprint, self.everywhere)
            except (Timeout, RuntimeError):  # somebody is making it; RuntimeError: this thread is
                pass

    def remove(self, fingerprint: str, folders: Sequence[Path] = ()) -> None:
        """Removes what a killed process left of a run whose lock is held.

        By default where it is made: to look through `runs` takes as long as there are finished runs.
        """
        for folder in folders or (self.staged, self.unfinished):
            for left in set(folder.glob(f".{fingerprint}-*")) - self.going:
                shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def staging(self, fingerprint: str) -> Iterator[Path]:
        """A folder to make a run in; gone afterwards unless `commit` took it."""
        folder = Path(tempfile.mkdtemp(dir=self.staged, prefix=f".{fingerprint}-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def commit(self, staging: Path, result: RunResult, predictions: Sequence[Prediction]) -> None:
        """Completes `staging` and renames it into place; an older run of the same fingerprint gives way."""
        write_json(staging / "result.json", dataclasses.asdict(result))
        lines = [json.dumps(dataclasses.asdict(prediction), ensure_ascii=False) for prediction in predictions]
        (staging / "predictions.jsonl").write_bytes("".join(line + "\n" for line in lines).encode())
        names = sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())
        (staging / MANIFEST).write_bytes(manifest(staging, names).encode())
        for path in [*staging.rglob("*"), staging]:
            flush(path)
        target = self.folder(result.fingerprint)
        aside = self.staged / f".{target.name}-old"
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(target, aside)
        os.rename(staging, target)
        flush(target.parent)
        shutil.rmtree(aside, ignore_errors=True)
        self.forget_partial(result.fingerprint)


@contextmanager
def held(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """A lock file of which the system lets go when its holder dies. Raises what `waiting` raises."""
    lock, patience = FileLock(path, thread_local=False), 0.0
    while not lock.is_locked:
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            waiting()
            patience = LOOKS_EVERY
    try:
        yield
    finally:
        lock.release()


def matching(name: str, root: Path) -> list[Path]:
    """The folders of finished runs whose fingerprint begins with `name`."""
    return sorted((root / "runs").glob(f"{name}*")) if name.isalnum() else []


def amend(folder: Path, files: Mapping[str, bytes]) -> None:
    """Adds files to a stored run, or replaces them: for what describes a run and is no evidence of it.

    The run is intact at every moment: its manifest names a file neither before nor while it is written. Raises OSError.
    """
    listed = json.loads((folder / MANIFEST).read_bytes())["checksums"]
    replace(folder / MANIFEST, manifest(folder, sorted(set(listed) - set(files))).encode())
    for name, content in files.items():
        replace(folder / name, content)
    replace(folder / MANIFEST, manifest(folder, sorted({*listed, *files})).encode())


def manifest(folder: Path, names: Iterable[str]) -> str:
    """The text of a run's manifest: the schema, and the checksum of each of its files."""
    listed = {name: checksum(folder / name) for name in names}
    return json.dumps({"schema": SCHEMA, "checksums": listed}, indent=1) + "\n"


def intact(folder: Path) -> bool:
    """Whether a run's files, the manifest among them, are byte for byte what was written."""
    try:
        text = (folder / MANIFEST).read_bytes().decode()
        listed = json.loads(text)["checksums"]
        return {"result.json", "predictions.jsonl"} <= set(listed) and text == manifest(folder, listed)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def foreign_schema(folder: Path) -> object | None:
    """The schema of a stored run that another Bakeoff wrote; None where it is this one's, or can't be told."""
    try:
        schema = json.loads((folder / MANIFEST).read_bytes())["schema"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return None if schema == SCHEMA else schema


def read_result(path: Path) -> RunResult:
    """A stored RunResult. Raises UsageError naming the file where it is not one."""
    try:
        found = RunResult(**strict_json(path.read_text(encoding="utf-8")))
        hints = typing.get_type_hints(RunResult)
        wrong = [misfit(getattr(found, name), hint, name) for name, hint in hints.items()]
        if not any(wrong):
            count = len(found.document_ids)
            fits = {m: len(v) == count and all(0 <= value <= 1 for value in v) for m, v in found.scores.items()}
            wrong += [f"scores.{metric}" for metric, right in fits.items() if not right]
            wrong += ["scores"] if count and not found.scores else []
        if any(wrong):
            raise ValueError(f"{next(filter(None, wrong))} is not what is stored there")
        return compact(found)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = (str(error).splitlines() or [""])[0][:100]
        raise UsageError(f"{path}: not a stored run ({type(error).__name__}: {reason})") from None


def compact(run: RunResult) -> RunResult:
    """`run` in a fifth of the memory: numbers in 8 bytes each, and what thousands of runs have in common held once."""
    alike = {name: once(json.dumps(getattr(run, name))) for name in ALIKE}
    spec = {sys.intern(key): once(json.dumps(value)) for key, value in run.spec.items()}
    scores = {sys.intern(metric): numbers(values) for metric, values in run.scores.items()}
    own = {name: interned(getattr(run, name)) for name in OWN}
    return dataclasses.replace(run, steps=by_column(run.steps), scores=scores, spec=spec, **alike, **own)


@lru_cache(maxsize=512)
def once(text: str) -> Any:
    """What a JSON text holds: the same object for the same text."""
    return json.loads(text)


def interned(value: Any) -> Any:
    """`value` with one key for all equal ones."""
    if isinstance(value, dict):
        return {sys.intern(key): interned(item) for key, item in value.items()}
    return [interned(item) for item in value] if isinstance(value, list) else value


def read_predictions(path: Path) -> list[Prediction]:
    """Predictions from a JSONL file, one a written summary. Raises UsageError with the line."""
    found: list[Prediction] = []
    nameless: list[tuple[int, int]] = []
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        before = error.object[: error.start].count(b"\n")
        raise UsageError(f"{path}:{before + 1}: not UTF-8; save the file as UTF-8") from None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = strict_json(line)
            made = prediction(row)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UsageError(
                f'{path}:{number}: expected an object with the texts "reference" (or a list "references") and "summary"'
            ) from None
        if row.get("id") is None:
            nameless.append((len(found), number))
        found.append(made)
    if not found:
        raise UsageError(f"{path}: the file has no predictions")
    given = {one.id for one in found}
    for place, number in nameless:
        name = str(number)
        while name in given:
            name += "-made"
        found[place] = dataclasses.replace(found[place], id=name)
    return found


def prediction(row: dict[str, Any]) -> Prediction:
    """A line of predictions; its id is empty where none is given. Raises ValueError, KeyError or TypeError."""
    name = row.get("id")
    references: Any = row.get("references") or [row["reference"]]
    if not isinstance(references, list):
        raise TypeError
    made = Prediction(
        id="" if name is None else str(name),
        document=row.get("document", ""),
        reference=row["reference"] if "reference" in row else references[0],
        summary=row["summary"],
        references=tuple(references),
        aspect=row.get("aspect", ""),
        cut=row.get("cut"),
    )
    texts = (made.id, made.document, made.reference, made.summary, made.aspect, *made.references)
    if isinstance(name, (dict, list)) or any(misfit(t, str, "") for t in texts) or misfit(made.cut, bool | None, "cut"):
        raise TypeError
    "".join(texts).encode()  # JSON lets half of a surrogate pair in
    return made


def one_document_an_id(path: Path, found: list[Prediction]) -> list[Prediction]:
    """The predictions with an id for each document.

    Earlier versions wrote a line a reference, and an aspect as the end of the id (`P16-1001/outcome`).
    Raises UsageError where one id stands for two documents.
    """
    whole: dict[tuple[str, str, str], Prediction] = {}
    stems: dict[str, set[str]] = {}
    for one in found:
        stem, _, aspect = one.id.rpartition("/")
        if stem and aspect in ASPECTS:
            stems.setdefault(stem, set()).add(one.document)
    documents: dict[str, str] = {}
    for one in found:
        stem, _, aspect = one.id.rpartition("/")
        if not one.aspect and one.document and len(stems.get(stem, ())) == 1 and aspect in ASPECTS:
            one = dataclasses.replace(one, id=stem, aspect=aspect.capitalize())
        if documents.setdefault(one.id, one.document) != one.document:
            raise UsageError(f"{path}: the id {one.id!r} stands for two documents; give each an id of its own")
        key = (one.id, one.aspect, one.summary)
        before = whole.get(key)
        references = tuple(dict.fromkeys((*(before.references if before else ()), *one.references)))
        whole[key] = dataclasses.replace(before or one, references=references)
    return list(whole.values())


def write_json(path: Path, value: object) -> None:
    """JSON that refuses NaN, readable, one trailing newline; ASCII, since a path may hold what UTF-8 can't."""
    path.write_bytes((json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
