"""A bake-off beside other load: how much longer it takes when every core has something else to do, too.

    python -m lab.speed.contention [--preset smoke] [--method lora]

It runs the same bake-off alone and beside one busy loop a core, in turns, and prints seconds and their ratio.
"""

import argparse
import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def spin() -> None:
    """Keeps a core busy until it is killed."""
    while True:
        pass


@contextlib.contextmanager
def load(count: int) -> Iterator[None]:
    """`count` busy processes inside the block."""
    context = multiprocessing.get_context("spawn")
    busy = [context.Process(target=spin, daemon=True) for _ in range(count)]
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.join()


def bake(preset: str, method: str, extra: Sequence[str] = (), furnished: Path | None = None) -> float:
    """Seconds of one fresh bake-off by the command line, on a copy of a store without runs. Raises CalledProcessError
    where it dies."""
    with tempfile.TemporaryDirectory() as folder:
        if furnished:
            shutil.copytree(furnished, Path(folder, "store"))
        where = ["--store", f"{folder}/store", "--report-dir", f"{folder}/report"]
        asked = ["--preset", preset, "--method", method, *where, *extra]
        command = [sys.executable, "-m", "pytest", "bench/", "-q", "-p", "no:cacheprovider", *asked]
        start = time.monotonic()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - start


def ratios(
    preset: str, method: str, rounds: int, extra: Sequence[str] = (), furnished: Path | None = None
) -> list[tuple[float, float]]:
    """Seconds alone and beside one busy loop a core, by round."""
    found = []
    for _ in range(rounds):
        alone = bake(preset, method, extra, furnished)
        with load(os.cpu_count() or 1):
            found.append((alone, bake(preset, method, extra, furnished)))
    return found


def main() -> None:
    """Prints a line a round."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--rounds", type=int, default=3)
    options, extra = parser.parse_known_args()
    for alone, beside in ratios(options.preset, options.method, options.rounds, extra):
        print(
            f"alone {alone:.1f} s, beside a busy loop on each core {beside:.1f} s: {beside / alone:.2f} times",
            flush=True,
        )


if __name__ == "__main__":
    main()
