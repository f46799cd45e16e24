"""Which executor a command line asks for."""

from collections.abc import Mapping
from typing import Any

from bakeoff.config.hardware import available_threads, expects_card
from bakeoff.core.errors import UsageError
from bakeoff.session.executors import cluster, local, slurm
from bakeoff.session.executors.api import Executor
from bakeoff.session.store import Store

NAMES = ("local", "ray", "slurm")


def named(text: str, parallel: int, device: str = "cpu") -> None:
    """Refuses what no machine can do, before anything is planned; `device` is the setting. Raises UsageError."""
    name = text.partition("://")[0]
    if name not in NAMES or ("://" in text and name != "ray"):
        raise UsageError(f"--executor {text}: not an executor; type local, ray, ray://HOST:PORT or slurm")
    if name == "local" and not expects_card(device):
        refuse_shares(parallel)
    if name == "ray":
        cluster.load()
    if name == "slurm":
        slurm.load()


def refuse_shares(parallel: int) -> None:
    """Raises UsageError where so many runs would not each have a processor."""
    if parallel > available_threads():
        raise UsageError(f"--parallel {parallel}: this process may use {available_threads()} processors; "
                         f"type --parallel {available_threads()}")  # fmt: skip


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
        refuse_shares(parallel)
        return local.shares(store, parallel or 1)
    visible, ranks = list(found["cards"].items()), machine["ranks"]
    most = len(visible) // ranks
    if not most:
        raise UsageError(f"machine.ranks = {ranks}: each needs a GPU, and {len(visible)} of one kind are visible; "
                         f"type --set machine.ranks={len(visible)}, or --executor slurm or ray")  # fmt: skip
    if parallel > most:
        each = "a card makes one run" if ranks == 1 else f"{ranks} cards make one run"
        raise UsageError(f"--parallel {parallel}: {each} at a time, and {len(visible)} are visible; "
                         f"type --parallel {most}")  # fmt: skip
    return local.cards(store, dict(visible[: (parallel or most) * ranks]), ranks)
