"""The sums of the C files beside it, compiled once for a store by the machine's own compiler."""

import ctypes
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
from typing import Any

import torch
from filelock import FileLock

from bakeoff.disk import write_whole
from bakeoff.errors import UsageError

SOURCES = tuple(Path(__file__).with_name(name) for name in ("native.c", "attention.c", "decoding.c", "layer.c"))
HEADERS = tuple(Path(__file__).with_name(name) for name in ("native.h", "products.h"))
OPTIONS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC",
           "--param=vect-max-peeling-for-alignment=0",  # no order of summation may follow an address
           "-fno-split-loops",  # a condition is a mask, not a loop without vectors
           *(("-march=native", "-mprefer-vector-width=512") if platform.machine() in ("x86_64", "AMD64")
             else ("-mcpu=native",)))  # fmt: skip
KINDS = {torch.float32: (), torch.bfloat16: ("-DBF16",)}
TIMEOUT = 120
"""Seconds after which a compiler that doesn't answer counts as none."""
PLACE = "native"
"""Folder of compiled libraries in a store."""

_open: dict[torch.dtype, "Sums"] = {}


class NoCompiler(UsageError):
    """Why the sums can't be compiled here, in one line."""


def compiler() -> tuple[list[str], str]:
    """The C compiler's command ($CC, else gcc) and what it says of its version. Raises NoCompiler."""
    if sys.platform != "linux":
        raise NoCompiler(f"not on {sys.platform}: GCC and torch don't share their threads there")
    command = shlex.split(os.environ.get("CC", "")) or list(filter(shutil.which, ("gcc", "cc")))[:1]
    if not command:
        raise NoCompiler("no C compiler (gcc) on the PATH")
    return command, answer([*command, "--version"]).splitlines()[0]


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


def threads() -> str:
    """The file of the OpenMP runtime that torch computes with: a second one would fight it for the processors."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        lines = []
    loaded = dict.fromkeys(line.split(maxsplit=5)[5] for line in lines if "/libgomp" in line)
    if not loaded:
        raise NoCompiler("torch's OpenMP runtime is not GCC's")
    return min(loaded, key=lambda file: not file.startswith(str(Path(torch.__file__).parent)))


def features() -> str:
    """All that the processor says it can do: what -march=native compiles for."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(names)))


def build(folder: Path) -> str:
    """Compiles the sums into `folder` unless they are there; returns the compiler's version. Raises NoCompiler.

    A library's name holds the hash of all that it is made from (source, compiler, options, processor, torch's runtime)
    and of its own bytes: one that is not what was written is compiled anew.
    """
    command, version = compiler()
    runtime = threads()
    text = "\n".join((version, *OPTIONS, features(), torch.__version__, runtime))
    folder.mkdir(parents=True, exist_ok=True)
    opened = {}
    for kind, defines in KINDS.items():
        files = b"".join(file.read_bytes() for file in (*HEADERS, *SOURCES))
        made_from = digest(files + f"{text}{defines}".encode())
        with FileLock(folder / "compiling.lock"):
            there = (file for file in folder.glob(f"{made_from}-*.so") if file.stem.endswith(digest(file.read_bytes())))
            library = next(there, None) or made(folder, made_from, command, defines, runtime)
        try:
            opened[kind] = Sums(library)
        except OSError as error:
            raise NoCompiler(str(error)) from None
    _open.update(opened)
    return version


def made(folder: Path, made_from: str, command: list[str], defines: Sequence[str], runtime: str) -> Path:
    """A library, compiled and linked. Raises NoCompiler."""
    with tempfile.TemporaryDirectory() as work:
        part, whole = str(Path(work, "whole.o")), Path(work, "whole.so")
        # As one: to read what GCC says of vector instructions takes longer than to compile any of the files.
        files = [word for source in SOURCES for word in ("-include", str(source))]
        answer([*command, *OPTIONS, *defines, *files, "-x", "c", "-c", os.devnull, "-o", part])
        # Without -fopenmp, which would name the system's runtime: torch's own is loaded already.
        answer([*command, "-shared", part, runtime, "-lm", "-o", str(whole)])
        if not whole.is_file():
            raise NoCompiler(f"{command[0]}: wrote no library")
        data = whole.read_bytes()
    target = folder / f"{made_from}-{digest(data)}.so"
    write_whole(target, data)
    return target


def digest(data: bytes) -> str:
    """16 hex digits of sha256."""
    return hashlib.sha256(data).hexdigest()[:16]


def close() -> None:
    """Forgets the compiled sums: everything is computed by torch's operators again."""
    _open.clear()


def sums(*tensors: torch.Tensor) -> "Sums | None":
    """The compiled sums for tensors that lie in memory row after row and have the same type; None where they can't."""
    found = _open.get(tensors[0].dtype)
    if found is None or any(t.dtype != tensors[0].dtype or t.device.type != "cpu" for t in tensors):
        return None
    return found if all(tensor.is_contiguous() for tensor in tensors) else None


class Sums:
    """The functions of one compiled library, each called with tensors and numbers in the order of their source."""

    def __init__(self, file: Path) -> None:
        """Raises OSError where the file can't be loaded, or the system refuses what it needs of the processor."""
        self._library = ctypes.CDLL(str(file))
        if not self._library.able():
            raise OSError("the system doesn't let a process use the processor's tiles (AMX)")
        self.tiles = bool(self._library.tiles())

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        function.restype = None

        def call(*arguments: torch.Tensor | int | float) -> None:
            if function.argtypes is None:
                function.argtypes = [kind_of(value) for value in arguments]
            function(*[value.data_ptr() if isinstance(value, torch.Tensor) else value for value in arguments])

        setattr(self, name, call)
        return call


def kind_of(value: torch.Tensor | int | float) -> Any:
    """How C is given a value: a tensor as its address, int as 64 bits, float as 32."""
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p
    return ctypes.c_int64 if isinstance(value, int) else ctypes.c_float
