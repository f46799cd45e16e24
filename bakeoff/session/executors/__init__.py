"""Where runs compute: on this machine one at a time, on each of its cards, on a Ray cluster, or as Slurm jobs."""

from bakeoff.session.executors.api import Executor, Job, Slot
from bakeoff.session.executors.choose import choose, named

__all__ = ["Executor", "Job", "Slot", "choose", "named"]
