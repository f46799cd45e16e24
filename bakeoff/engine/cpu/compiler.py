"""The C files beside it as object files, compiled once for a store by the machine's own compiler; knows no torch."""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from bakeoff.core.errors import UsageError
from bakeoff.core.files import write_whole

NATIVE = Path(__file__).with_name("native")
SOURCE = NATIVE / "kernels.c"
"""One translation unit, which includes the other C files of its folder."""
OPTIONS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC",
           "--param=vect-max-peeling-for-alignment=0",  # no order of summation may follow an address
           "-fno-split-loops",  # a condition is a mask, not a loop without vectors
           *(("-march=native", "-mprefer-vector-width=512") if platform.machine() in ("x86_64", "AMD64")
             else ("-mcpu=native",)))  # fmt: skip
KINDS = {"fp32": (), "bf16": ("-DBF16",)}
"""What is defined for the kernels of each type."""
TIMEOUT = 120
"""Seconds after which a compiler that doesn't answer counts as none."""


class NoCompiler(UsageError):
    """Why the kernels can't be compiled here, in one line."""


def command() -> tuple[list[str], str]:
    """The C compiler's command ($CC, else gcc) and what it says of its version. Raises NoCompiler."""
    if sys.platform != "linux":
        raise NoCompiler(f"not on {sys.platform}: GCC and torch don't share their threads there")
    try:
        found = shlex.split(os.environ.get("CC", "")) or list(filter(shutil.which, ("gcc", "cc")))[:1]
    except ValueError as error:
        raise NoCompiler(f"$CC is no command: {error}") from None
    if not found:
        raise NoCompiler("no C compiler (gcc) on the PATH")
    return found, answer([*found, "--version"]).splitlines()[0]


def answer(command: list[str]) -> str:
    """What a command prints. Raises NoCompiler with its first complaint."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoCompiler(f"{command[0]}: {type(error).__name__}") from None
    if found.returncode or not (found.stdout or "-o" in command):
        lines = (
            [line for line in found.stderr.splitlines() if "error" in line.lower()] or found.stderr.splitlines() or [""]
        )
        raise NoCompiler(f"{command[0]}: {lines[0].strip()[:200]}")
    return found.stdout


def features() -> str:
    """All that the processor says it can do: what -march=native compiles for."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(names)))


def compile_all(folder: Path) -> dict[str, Path]:
    """An object file in `folder` for each of KINDS. Raises NoCompiler."""
    gcc, version = command()
    text = b"".join(file.read_bytes() for file in sorted(SOURCE.parent.glob("*.[ch]")))
    made_from = "\n".join((*gcc, version, *OPTIONS, features())).encode() + text
    return {
        kind: cached(folder, "o", made_from + repr(defines).encode(),
                     [*gcc, *OPTIONS, *defines, "-c", str(SOURCE)])
        for kind, defines in KINDS.items()
    }  # fmt: skip


def cached(folder: Path, suffix: str, made_from: bytes, command: Sequence[str]) -> Path:
    """The file that `command` writes after `-o`, from `folder` where it is there. Raises NoCompiler.

    Its name holds the hash of all that it is made from and of its own bytes: one that is not what was written is made
    anew. Of several processes that want it, one makes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = digest(made_from)
    with FileLock(folder / "compiling.lock"):
        for file in folder.glob(f"{start}-*.{suffix}"):
            if file.stem.endswith(digest(file.read_bytes())):
                return file
        with tempfile.TemporaryDirectory() as work:
            made = Path(work, f"made.{suffix}")
            answer([*command, "-o", str(made)])
            if not made.is_file():
                raise NoCompiler(f"{command[0]}: wrote no file")
            data = made.read_bytes()
        target = folder / f"{start}-{digest(data)}.{suffix}"
        write_whole(target, data)
        return target


def digest(data: bytes) -> str:
    """16 hex digits of sha256."""
    return hashlib.sha256(data).hexdigest()[:16]
