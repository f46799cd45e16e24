"""What a run costs: seconds by phase, each booked once, and bytes of memory."""

import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PHASES = ("setup", "training", "validation", "evaluation", "checks")


class Clock:
    """Books every second to exactly one phase: a phase entered inside another pauses the outer one."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._stack: list[str] = []
        self._since = time.perf_counter()

    @property
    def phase(self) -> str:
        """The phase that is running, `start` outside of all."""
        return self._stack[-1] if self._stack else "start"

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Books the time inside the `with` block to `phase`."""
        self._book()
        self._stack.append(phase)
        try:
            yield
        finally:
            self._book()
            self._stack.pop()

    def elapsed(self, phase: str) -> float:
        """Seconds booked to `phase` up to now."""
        running = time.perf_counter() - self._since if self.phase == phase else 0.0
        return self.seconds[phase] + running

    def _book(self) -> None:
        synchronise()
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now


def synchronise() -> None:
    """Waits for the GPU where one is in use, so that its work is booked to the phase that asked for it."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


class Memory:
    """Bytes: torch's four counters on CUDA, on a CPU resident memory above the level at which this was made."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.base = 0
        self.before: dict[str, int] = {}
        if device != "cuda":
            _reset_peak()
            self.base = _status("VmRSS") or 0

    def placed(self) -> None:
        """Starts a GPU's peaks anew: the model stands there as it is trained, and what loading it took is given back.

        On a CPU nothing changes.
        """
        if self.device == "cuda":
            import torch

            release(self.device)
            torch.cuda.reset_peak_memory_stats()

    def read(self) -> dict[str, int | None]:
        """Bytes by counter; None where this machine has no such counter."""
        found: dict[str, int | None] = dict.fromkeys(
            ("allocated", "max_allocated", "reserved", "max_reserved", "resident", "max_resident")
        )
        if self.device == "cuda":
            import torch

            found["allocated"] = torch.cuda.memory_allocated()
            found["max_allocated"] = torch.cuda.max_memory_allocated()
            found["reserved"] = torch.cuda.memory_reserved()
            found["max_reserved"] = torch.cuda.max_memory_reserved()
            return self._with_before(found)
        for name, counter in (("resident", "VmRSS"), ("max_resident", "VmHWM")):
            level = _status(counter)
            found[name] = None if level is None else max(0, level - self.base)
        return self._with_before(found)

    def raise_to(self, peaks: Mapping[str, int | None]) -> None:
        """Takes over the peaks of an earlier process of the same run."""
        for name, peak in peaks.items():
            if name.startswith("max_") and peak is not None:
                self.before[name] = max(self.before.get(name, 0), peak)

    def _with_before(self, found: dict[str, int | None]) -> dict[str, int | None]:
        for name, peak in self.before.items():
            level = found[name]
            found[name] = peak if level is None else max(level, peak)
        return found


def release(device: str) -> None:
    """Frees what nobody can reach any more, a model that refers to itself for one, and gives a GPU's memory back."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


def _status(counter: str) -> int | None:
    """Bytes of a counter in /proc/self/status; None where there is none (macOS)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(counter + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _reset_peak() -> None:
    """Sets the kernel's peak of resident memory to the present level (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
