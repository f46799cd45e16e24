"""Kills bake-offs at 25 moments, types the same command again, and compares with a bake-off that nobody killed.

`python -m lab.faults` writes reports/torture/report.md. Each moment has a store of its own. SIGKILL hits the whole
process group, or the pytest process alone, whose workers must then end by themselves. Afterwards one bit of each
stored file is flipped in turn, and each must be noticed. Exit code 1 where anything is not as it was promised.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bakeoff.core.files import checksum
from bakeoff.runs.checkpoints import Checkpointer
from bakeoff.session import worker
from bakeoff.session.store import intact
from bakeoff.shipped import ROOT

INTERVAL = 2
"""Optimizer steps between checkpoints. 24 documents in batches of 4 are 6 steps an epoch, 18 in all."""
SIZES = {
    "task.train": 24, "task.validation": 4, "task.test": 36, "training.epochs": 3, "generation.batch_size": 4,
    "machine.threads": 1, "durability.checkpoint_steps": INTERVAL, "durability.checkpoint_seconds": 0,
}  # fmt: skip
DOOMS = (  # phase, moment:count:whom
    ("load", "load:1:all"), ("load", "loaded:1:parent"),
    ("first validation", "validation:1:all"),
    ("first step", "forward:3:all"), ("first step", "step:1:all"), ("first step", "stepped:1:parent"),
    ("mid-epoch", "stepped:3:all"), ("mid-epoch", "step:5:parent"), ("mid-epoch", "step:9:all"),
    ("mid-epoch", "stepped:14:all"), ("last step", "stepped:18:all"),
    ("checkpoint", "checkpoint:1:all"), ("checkpoint", "checkpoint-torn:2:all"),
    ("checkpoint", "checkpoint-named:3:all"),
    ("checkpoint", "checkpointed:4:parent"), ("checkpoint", "checkpoint-torn:12:all"),
    ("validation", "validation:2:all"), ("validation", "validation:4:parent"),
    ("generation", "summaries:1:all"), ("generation", "summaries-torn:2:all"),
    ("generation", "summaries-kept:3:parent"),
    ("checks", "adapter:1:all"),
    ("result", "result-torn:1:all"), ("result", "result-named:1:all"), ("result", "result-renamed:1:all"),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What came of one kill and the command after it."""

    phase: str
    doom: str
    killed: bool
    survivors: int
    """Processes of the killed bake-off that were there after `gone` seconds had run out."""
    gone: float
    """Seconds until the last process of the killed bake-off was gone."""
    repeated: int
    """Optimizer steps computed again."""
    different: tuple[str, ...]
    """Names of results that differ from the uninterrupted run's."""

    @property
    def kept(self) -> bool:
        """Whether everything was as promised."""
        return self.killed and not self.survivors and self.repeated <= INTERVAL and not self.different


def bake(store: Path, doom: str = "", *, fork: bool = False, patience: float = 15.0) -> tuple[int, str, int, float]:
    """The command, in a session of its own: exit code, output, processes left, seconds until they were gone."""
    changes = [part for key, value in SIZES.items() for part in ("--set", f"{key}={value}")]
    arguments = ["bench/test_training.py", "-k", "reloaded", "--preset", "smoke", "--method", "lab/faults/doomed.py",
                 *changes, "--store", str(store), "--report-dir", str(store / "report"), "-p", "no:cacheprovider",
                 "-o", "addopts=", "-p", "no:terminal"]  # fmt: skip  # no report, no plots
    environment = {"HF_HUB_OFFLINE": "1", **({"BAKEOFF_DOOM": doom} if doom else {})}
    with tempfile.NamedTemporaryFile() as output:
        if fork:
            process = multiprocessing.get_context("forkserver").Process(
                target=forked, args=(arguments, environment, output.name)
            )
            process.start()
            process.join()
            pid, code = process.pid, process.exitcode
        else:
            command = [sys.executable, "-m", "pytest", *arguments]
            environment = {**os.environ, **environment}
            with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output,
                                  start_new_session=True) as typed:  # fmt: skip
                pid, code = typed.pid, typed.wait()
        ended = time.monotonic()
        while (left := members(pid)) and time.monotonic() < ended + patience:
            time.sleep(0.05)
        return code or 0, Path(output.name).read_text(errors="replace"), left, time.monotonic() - ended


def forked(arguments: list[str], environment: dict[str, str], output: str) -> None:
    """pytest in a process that has imported torch already, and whose workers are forks of it."""
    os.setsid()
    handle = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ.update(environment)
    os.chdir(ROOT)
    worker.START = "fork"
    import pytest

    sys.exit(pytest.main(arguments))


def members(session: int | None) -> int:
    """How many processes of a session there are (Linux)."""
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, number = stat.read_text().rpartition(")")[2].split()[:4]
            found += int(number) == session and state != "Z"
    return found


def results(store: Path) -> dict[str, object]:
    """What two bake-offs must have in common; seconds, bytes of memory and dates are not among it."""
    [folder] = (folder for folder in (store / "runs").iterdir() if (folder / "adapter").is_dir())
    stored = json.loads((folder / "result.json").read_text())
    names = (
        "fingerprint",
        "steps",
        "epochs",
        "scores",
        "tokens",
        "parameters",
        "evidence",
        "document_ids",
        "truncated",
    )
    found = {name: stored[name] for name in names}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if path.name not in ("result.json", "manifest.json")]
    return {**found, **{path.relative_to(folder).as_posix(): checksum(path) for path in files}}


def kill(phase: str, doom: str, folder: Path, reference: dict[str, object], *, fork: bool = False) -> Outcome:
    """Kills one bake-off, types its command again, and compares."""
    store = folder / doom.replace(":", "-")
    code, said, survivors, gone = bake(store, doom, fork=fork)
    killed = code == -9
    code, said, *_ = bake(store, fork=fork)
    if code:
        print(said)
        return Outcome(phase, doom, killed, survivors, gone, 0, (f"exit code {code}",))
    found = results(store)
    different = tuple(name for name in found.keys() | reference.keys() if found.get(name) != reference.get(name))
    if list((store / "partial").glob("*/")):
        different += ("what was kept is still there",)
    [result] = (run for run in (store / "runs").glob("*/result.json") if (run.parent / "adapter").is_dir())
    outcome = Outcome(phase, doom, killed, survivors, gone, json.loads(result.read_text())["repeated_steps"], different)
    print(f"{doom}: {'as promised' if outcome.kept else outcome}", flush=True)
    return outcome


def flipped(folder: Path, path: Path, places: int = 16) -> Iterator[Path]:
    """Copies of `folder` in which one bit of `path` is another, from its first byte to its last."""
    content = path.read_bytes()
    for place in sorted({round(part * (len(content) - 1) / max(1, places - 1)) for part in range(places)}):
        with tempfile.TemporaryDirectory() as work:  # what is not believed is removed
            copy = Path(shutil.copytree(folder, Path(work) / folder.name))
            changed = content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
            (copy / path.relative_to(folder)).write_bytes(changed)
            yield copy


def flips(stored: Path, unfinished: Path) -> list[tuple[str, int, int]]:
    """File, flips, flips that were noticed: of a finished run, and of one that was killed while it wrote summaries."""
    rows = []
    for folder in sorted((stored / "runs").iterdir()):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            noticed = [not intact(copy) for copy in flipped(folder, path)]
            rows.append((f"finished run: {path.relative_to(folder).as_posix()}", len(noticed), sum(noticed)))
    [folder] = (unfinished / "partial").glob("*/")
    whole = len(list(Checkpointer(folder)._checkpoints()))
    for path in sorted(folder.glob("checkpoint-*")):
        noticed = [len(list(Checkpointer(copy)._checkpoints())) == whole - 1 for copy in flipped(folder, path)]
        rows.append((f"unfinished run: {path.name}", len(noticed), sum(noticed)))
    journal = folder / "summaries.jsonl"
    weights = json.loads(journal.read_bytes().splitlines()[0])["body"]["weights"]
    chunks = len(Checkpointer(folder).summaries(weights))
    noticed = [len(Checkpointer(copy).summaries(weights)) < chunks for copy in flipped(folder, journal)]
    rows.append((f"unfinished run: {journal.name}", len(noticed), sum(noticed)))
    return rows


def report(outcomes: list[Outcome], rows: list[tuple[str, int, int]], how: str, seconds: float) -> str:
    """The page."""
    kept = sum(outcome.kept for outcome in outcomes)
    lines = [
        "# Fault injection",
        "",
        f"Written by `{how}` in {seconds / 60:.0f} minutes.",
        "",
        "## Kill and resume",
        "",
        "A bake-off trains LoRA with dropout on the smoke preset "
        f"({', '.join(f'{k}={v}' for k, v in SIZES.items())}): 18 steps and 3 chunks of summaries. It is killed by "
        "SIGKILL at each moment of the table, then the same command is typed again. Losses, adapter, summaries, "
        "scores, token counts and evidence are compared with those of a bake-off that nobody killed.",
        "",
        f"**{kept} of {len(outcomes)} as promised**: the bake-off was killed, no process was left, at most {INTERVAL} "
        "steps were computed again, and every result is equal to the bit.",
        "",
        "| phase | moment | time it came | SIGKILL to | processes left | gone after, s | steps again | results |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | --- |",
    ]
    for one in outcomes:
        moment, count, whom = one.doom.split(":")
        target = {"all": "the process group", "parent": "pytest alone"}[whom]
        equal = "equal to the bit" if not one.different else f"differ: {', '.join(sorted(one.different))}"
        lines.append(f"| {one.phase} | {moment} | {count} | {target if one.killed else 'nobody'} | {one.survivors} | "
                     f"{one.gone:.1f} | {one.repeated} | {equal} |")  # fmt: skip
    lines += ["", "## One flipped bit", ""]
    lines += ["One bit is flipped at up to 16 places of each stored file, the first and last byte among them.", ""]
    lines += ["| file | flips | noticed |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {count} | {noticed} |" for name, count, noticed in rows]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs everything; 1 where a promise did not hold."""
    parser = argparse.ArgumentParser(prog="python -m lab.faults", description=__doc__)
    parser.add_argument("--only", default="", help="moments whose name holds this")
    parser.add_argument("--jobs", type=int, default=2, help="bake-offs at a time")
    parser.add_argument("--report", type=Path, default=ROOT / "reports" / "torture" / "report.md")
    quicker = "quicker: pytest and its workers are forks of a process that has imported torch"
    parser.add_argument("--fork", action="store_true", help=quicker)
    options = parser.parse_args()
    os.environ.update(worker.QUIET)
    multiprocessing.set_forkserver_preload(["bakeoff.session.preload", "pytest"])
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    try:
        code, said, *_ = bake(folder / "reference", fork=options.fork)
        if code:
            print(said)
            return 1
        reference = results(folder / "reference")
        with ThreadPoolExecutor(options.jobs) as pool:
            waiting = [
                pool.submit(kill, phase, doom, folder, reference, fork=options.fork)
                for phase, doom in DOOMS
                if options.only in doom
            ]
            outcomes = [future.result() for future in waiting]
        bake(folder / "unfinished", "summaries-kept:2:all", fork=options.fork)
        rows = flips(folder / "reference", folder / "unfinished")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    how = "python -m lab.faults" + " --fork" * options.fork
    options.report.write_text(report(outcomes, rows, how, time.monotonic() - started), encoding="utf-8")
    good = all(outcome.kept for outcome in outcomes) and all(count == noticed for _, count, noticed in rows)
    print(f"{sum(outcome.kept for outcome in outcomes)} of {len(outcomes)} as promised; {options.report}")
    return 0 if good else 1
