"""Runs the kernels' tests under GCC's address and undefined-behaviour sanitizers.

`python -m lab.sanitize` (`make sanitize`) compiles the kernels anew for it. Where GCC has no sanitizers, one line says
so and nothing fails.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from bakeoff.engine.cpu import compiler
from bakeoff.engine.cpu.compiler import NoCompiler

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1")
RUNTIMES = ("libasan.so", "libubsan.so")
"""Libraries that must be loaded before all others."""
TESTS = "tests/engine/cpu/test_native.py", "tests/engine/cpu/test_decoder.py"
CHOSEN = (
    "not compile and not damaged and not gradient_in_bf16"
    " and (not test_decoder or attach0 and sizes1 or heads_logits and not 13000)"
)
"""Which of them: not those that compile something else, and a sample of what calls layer.c."""


def environment() -> dict[str, str]:
    """What a process needs in its environment so that its kernels are checked.

    Raises NoCompiler, with the reason in one line, if there is no GCC or it has no sanitizers.
    """
    gcc, _ = compiler.command()
    found = [Path(compiler.answer([*gcc, f"-print-file-name={name}"]).strip()) for name in RUNTIMES]
    for name, file in zip(RUNTIMES, found, strict=True):
        if not file.is_absolute():  # GCC prints a name that it can't find as it is
            raise NoCompiler(f"{gcc[0]} has no sanitizers: it finds no {name}")
    return {
        "CC": shlex.join([*gcc, *FLAGS]),
        "LD_PRELOAD": " ".join(map(str, found)),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python frees nothing when it ends
        "OMP_NUM_THREADS": "2",
    }


def main() -> int:
    """The tests' exit code, or 0 where there are no sanitizers."""
    try:
        checked = environment()
    except NoCompiler as missing:
        print(f"make sanitize is left out: {missing}")
        return 0
    # Nothing is captured: what a sanitizer prints before it ends the process would be lost.
    command = [sys.executable, "-m", "pytest", *TESTS, "-k", CHOSEN, "-x", "-q", "-s", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **checked}).returncode


if __name__ == "__main__":
    sys.exit(main())
