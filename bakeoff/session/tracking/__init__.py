"""Trackers, fed from a bake-off's events by a thread: what goes wrong there is a line, and stops no run"""

import importlib.util
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bakeoff.core.errors import UsageError, first_line, nearest, one_line
from bakeoff.core.events import News
from bakeoff.runs.records import RunResult, RunSpec
from bakeoff.session.tracking.figures import asked, final, live

NEEDED = {
    "mlflow": ("mlflow", "pip install 'mlflow-skinny>=3.17,<4' 'sqlalchemy>=2,<3' 'alembic>=1.18,<2'"),
    "tensorboard": ("tensorboard", "pip install 'tensorboard>=2.21,<3'"),
    "wandb": ("wandb", "pip install 'wandb>=0.31,<0.32'"),
    "trackio": ("trackio", "pip install 'trackio>=0.43,<0.44'"),
}
"""By tracker: the module that it is, and what installs it, as the extra of its name does."""
OPENING = 30.0
"""Seconds that a bake-off waits for its trackers before the first run: to import one takes a core for seconds."""
CLOSING = 120.0
"""Seconds that it waits at its end for what is still to be written: a busy machine imports MLflow in a minute."""


def chosen(names: Sequence[str]) -> list[str]:
    """The trackers of `--track`, each once. Raises UsageError for one that is not known or not installed."""
    found = list(dict.fromkeys(part.strip() for name in names for part in name.split(",")))
    for name in found:
        if name not in NEEDED:
            raise UsageError(f"--track {name!r} is not known; {nearest(name, NEEDED)}")
        module, command = NEEDED[name]
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"--track {name}: it is not installed; type {command}")
    return found


class Tracking:
    """The trackers of a session. Without any, every call does nothing.

    A tracker may wait for a server, and a run must not wait for a tracker: calls are put into a queue, and a thread
    of its own makes them. A tracker that raises is left out from then on.
    """

    def __init__(self, names: Sequence[str] = (), group: str = "", place: Path = Path()) -> None:
        """`group` names the bake-off; `place` is the folder for what has no server."""
        self.names, self.group, self.place = list(names), group, place
        self.trackers: dict[str, Any] = {}
        self.complaints: list[str] = []
        """A line for each tracker that was left out; the session takes and prints them."""
        self.steps: dict[str, int] = {}
        self.opened = threading.Event()
        self.calls: queue.SimpleQueue[Callable[[Any], None] | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None
        if self.names:
            self.thread = threading.Thread(target=self._work, daemon=True, name="tracking")
            self.thread.start()

    def wait(self) -> None:
        """Waits until the trackers are imported and open, at most OPENING seconds."""
        if self.thread:
            self.opened.wait(OPENING)

    def begun(self, spec: RunSpec) -> None:
        """A run is being made."""
        run, config = called(spec), asked(spec)
        self._put(lambda tracker: tracker.begin(run, config))

    def told(self, spec: RunSpec, news: News) -> None:
        """A run said something of itself."""
        if not self.thread:
            return
        run = called(spec)
        if "step" in news:
            self.steps[run] = news["step"]
        if figures := live(news):
            step = self.steps.get(run, 0)
            self._put(lambda tracker: tracker.log(run, step, figures))

    def finished(self, spec: RunSpec, result: RunResult) -> None:
        """A run is finished."""
        run, figures = called(spec), final(result) if self.thread else {}
        self._put(lambda tracker: tracker.end(run, figures, failed=False))

    def died(self, spec: RunSpec) -> None:
        """A run is dead."""
        run = called(spec)
        self._put(lambda tracker: tracker.end(run, {}, failed=True))

    def reported(self, figures: dict[str, float], config: dict[str, str], folder: Path) -> None:
        """The report is written: `figures` of all methods, and the files in `folder`."""
        self._put(lambda tracker: tracker.report(figures, config, folder))

    def close(self) -> None:
        """Ends the trackers, once all is written or CLOSING seconds are over; harmless when they ended already."""
        if not self.thread:
            return
        self._put(lambda tracker: tracker.close())
        self.calls.put(None)
        self.thread.join(CLOSING)
        if self.thread.is_alive():
            self.complaints.append(f"--track {', '.join(self.names)}: not everything was written in {CLOSING:g} s")
        self.thread = None

    def complained(self) -> list[str]:
        """The new complaints, each given once."""
        found, self.complaints = self.complaints, []
        return found

    def _put(self, call: Callable[[Any], None]) -> None:
        if self.thread:
            self.calls.put(call)

    def _work(self) -> None:
        from bakeoff.session.tracking.trackers import TRACKERS

        for name in self.names:
            self._guarded(name, lambda name=name: self.trackers.update({name: TRACKERS[name](self.group, self.place)}))  # type: ignore[misc]
        self.opened.set()
        while (call := self.calls.get()) is not None:
            for name, tracker in list(self.trackers.items()):
                self._guarded(name, lambda call=call, tracker=tracker: call(tracker))  # type: ignore[misc]

    def _guarded(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # whatever a foreign package raises, SystemExit, too
            self.trackers.pop(name, None)
            reason = one_line(f"{type(error).__name__}: {first_line(error)}")[:300]
            self.complaints.append(f"--track {name} failed and is off for the rest of this bake-off: {reason}")


def called(spec: RunSpec) -> str:
    """A run's name in a tracker."""
    return spec.method if spec.control else f"{spec.method}-seed{spec.seed}"
