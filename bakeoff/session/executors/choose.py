"""Which executor a command line asks for."""

from collections.abc import Mapping
from typing import Any

from bakeoff.config.hardware import available_threads
from bakeoff.core.errors import UsageError
from bakeoff.session.executors import cluster, local, slurm
from bakeoff.session.executors.api import Executor
from bakeoff.session.store import Store

NAMES = ("local", "ray", "slurm")


def named(text: str, parallel: int) -> None:
    """Refuses what no machine can do, before anything is planned. Raises UsageError."""
    name = text.partition("://")[0]
    if name not in NAMES or ("://" in text and name != "ray"):
        raise UsageError(f"--executor {text}: not an executor; type local, ray, ray://HOST:PORT or slurm")
    if name == "local" and parallel > available_threads():
        raise UsageError(f"--parallel {parallel}: this process may use {available_threads()} processors; "
                         f"type --parallel {available_threads()}")  # fmt: skip
    if name == "ray":
        cluster.load()
    if name == "slurm":
        slurm.load()


def choose(text: str, parallel: int, store: Store, found: Mapping[str, Any]) -> Executor:
    """The executor that `--executor` and `--parallel` (0: as many as there are devices) ask for.

    `found` is what was probed of this machine. Raises UsageError.
    """
    machine, name = found["machine"], text.partition("://")[0]
    if name == "ray":
        return cluster.Cluster(text, parallel, machine)
    if name == "slurm":
        return slurm.Slurm(store, parallel, machine)
    if machine["device"] != "cuda":
        return local.shares(store, parallel or 1)
    visible, ranks = found["cards"], machine["ranks"]
    most = len(visible) // ranks
    if parallel > most:
        each = "a card makes one run" if ranks == 1 else f"{ranks} cards make one run"
        raise UsageError(f"--parallel {parallel}: {each} at a time, and {len(visible)} are visible; "
                         f"type --parallel {most}")  # fmt: skip
    return local.cards(store, visible[: (parallel or most) * ranks], ranks)
