"""The C kernels in native/: compiled, linked with torch's own OpenMP runtime, and called with tensors."""

import ctypes
import functools
import re
from pathlib import Path
from typing import Any

import torch

from bakeoff.engine.cpu import compiler
from bakeoff.engine.cpu.compiler import NoCompiler

KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
HEADER = compiler.NATIVE / "kernels.h"
"""Declares every function that is called from here."""

_open: dict[torch.dtype, "Kernels"] = {}


@functools.cache
def signatures() -> dict[str, tuple[Any, ...]]:
    """The ctypes of each function's arguments, by its name, as HEADER declares them."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    declared = re.findall(r"^(?:void|int) (\w+)\(([^)]*)\);", text, flags=re.MULTILINE)
    return {
        name: tuple(argument_type(argument) for argument in arguments.split(",") if argument.strip() != "void")
        for name, arguments in declared
    }


def argument_type(declared: str) -> Any:
    """The ctype of an argument such as `const T *x`, `int64_t tokens` or `float eps`."""
    if "*" in declared:
        return ctypes.c_void_p
    return {"int64_t": ctypes.c_int64, "float": ctypes.c_float}[declared.split()[0]]


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


def build(folder: Path) -> str:
    """Compiles the kernels into `folder` unless they are there; returns the compiler's version. Raises NoCompiler."""
    gcc, version = compiler.command()
    runtime = threads()
    opened = {}
    for kind, part in compiler.compile_all(folder).items():
        # Without -fopenmp, which would name the system's runtime: torch's own is loaded already.
        made_from = "\n".join((*gcc, version, part.name, torch.__version__, runtime)).encode()
        library = compiler.cached(folder, "so", made_from, [*gcc, "-shared", str(part), runtime, "-lm"])
        try:
            opened[KINDS[kind]] = Kernels(library)
        except OSError as error:
            raise NoCompiler(str(error)) from None
    _open.update(opened)
    return version


def close() -> None:
    """Forgets the compiled kernels: everything is computed by torch's operators again."""
    _open.clear()


def kernels_for(*tensors: torch.Tensor) -> "Kernels | None":
    """The compiled kernels, if all tensors are contiguous CPU tensors of one dtype; else None."""
    found = _open.get(tensors[0].dtype)
    if found is None or any(t.dtype != tensors[0].dtype or t.device.type != "cpu" for t in tensors):
        return None
    return found if all(tensor.is_contiguous() for tensor in tensors) else None


class Kernels:
    """The functions of one compiled library, each called with tensors and numbers in the order of their source."""

    def __init__(self, file: Path) -> None:
        """Raises OSError where the file can't be loaded, or the system refuses what it needs of the processor."""
        self._library = ctypes.CDLL(str(file))
        if not self._library.able():
            raise OSError("the system doesn't let a process use the processor's tiles (AMX)")
        self.tiles = bool(self._library.tiles())
        """Whether layer.c is quicker than torch's operators here."""
        self.layers = bool(self._library.layers())
        """Whether layer.c is there for this type: by plain C where there are no tiles."""

    def __getattr__(self, name: str) -> Any:
        """The function `name` of kernels.h, which takes a tensor for each pointer.

        It raises ValueError for another number of arguments than are declared, and AttributeError or
        ctypes.ArgumentError for a number where a tensor is declared, or the other way round.
        """
        types = signatures().get(name)
        if types is None:
            raise AttributeError(f"kernels.h declares no function {name}")
        function = getattr(self._library, name)
        function.restype, function.argtypes = None, types
        pointers = [kind is ctypes.c_void_p for kind in types]

        def call(*arguments: Any) -> None:
            both = zip(arguments, pointers, strict=True)
            function(*[value.data_ptr() if pointer else value for value, pointer in both])

        setattr(self, name, call)
        return call
