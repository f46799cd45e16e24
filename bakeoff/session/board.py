"""The state of every run of a bake-off, and how long the rest will take by what was measured of it."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bakeoff.core.events import News
from bakeoff.runs.records import RunSpec

MANY = 12
"""Runs above which only those that run, that died and that come next have a line; the others stand together."""
NEXT = 3
"""Waiting runs that are shown then."""
BAR = 12
"""Characters of a bar."""
NAME = 30
"""Characters of a run's name that are shown."""

State = Literal["waiting", "stored", "running", "done", "dead"]
"""`stored`: finished in an earlier bake-off, and probably reused."""


@dataclass
class Line:
    """One run."""

    title: str
    method: str
    control: bool
    state: State = "waiting"
    phase: str = ""
    detail: str = ""
    done: float = 0.0
    """Of the phase, 0..1."""
    started: float = 0.0
    seconds: float | None = None
    """From start to end; None until it ended here."""
    pace: tuple[float, float] | None = None
    """When training was first heard of, and the share that was done then: a resumed run begins in the middle."""


class Board:
    """Lines by fingerprint, in the order of the plan. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.lines: dict[str, Line] = {}
        self.begun: float | None = None
        self.at_once = 1
        """Runs that are made at a time."""

    def expect(self, specs: Iterable[RunSpec], stored: Callable[[str], bool]) -> None:
        """Lists runs that will be made; `stored` says of a fingerprint whether the run is there already."""
        for spec in specs:
            state: State = "stored" if stored(spec.fingerprint) else "waiting"
            self.lines.setdefault(spec.fingerprint, Line(title(spec), spec.method, spec.control, state))

    def start(self, spec: RunSpec) -> None:
        """A run begins."""
        self.expect([spec], lambda fingerprint: False)
        now = self.clock()
        self.begun = now if self.begun is None else self.begun
        line = self.lines[spec.fingerprint]
        line.state, line.started, line.phase, line.detail, line.done, line.pace = "running", now, "setup", "", 0.0, None

    def hear(self, spec: RunSpec, news: News) -> None:
        """Takes the news of a run."""
        line, phase = self.lines[spec.fingerprint], news["phase"]
        line.phase = phase
        if phase == "training":
            line.done = news["step"] / max(news["steps"], 1)
            line.pace = line.pace or (self.clock(), line.done)
            speed = news["tokens"] / max(news["seconds"], 1e-9)
            line.detail = (f"epoch {news['epoch']}/{news['epochs']} step {news['step']}/{news['steps']} "
                           f"loss {news['loss']:.3f} {speed:.0f} tokens/s")  # fmt: skip
        elif phase == "evaluation":
            line.done = news["done"] / max(news["documents"], 1)
            line.detail = f"{news['done']}/{news['documents']} summaries"

    def end(self, spec: RunSpec, state: State) -> None:
        """A run ended, or was found in the store."""
        self.expect([spec], lambda fingerprint: False)
        line = self.lines[spec.fingerprint]
        if line.state == "running" and state == "done":
            line.seconds = self.clock() - line.started
        line.state = state

    def left(self) -> tuple[float, bool] | None:
        """Seconds that the rest will take, and whether that is all of it; None until something was measured.

        A run takes as long as the runs of its method did, else as those of its kind. A running one that has nothing to
        be compared with takes as long as its training steps: less than all of it. Of several made at once each
        takes its share of the sum.
        """
        rest, whole = [], True
        for line in self.lines.values():
            if line.state not in ("waiting", "running"):
                continue
            usual = self.usual(line)
            spent = self.clock() - line.started if line.state == "running" else 0.0
            steps = self.steps_left(line) if line.state == "running" else None
            if usual is None and steps is None:
                whole = False
                continue
            whole = whole and usual is not None
            rest.append(max((usual or 0.0) - spent, steps or 0.0, 0.0))
        return (max(max(rest), sum(rest) / self.at_once), whole) if rest else None

    def usual(self, line: Line) -> float | None:
        """Mean seconds of what ended here: of the method, else of its kind; None of nothing."""
        ended = [one for one in self.lines.values() if one.seconds is not None and one.control == line.control]
        ours = [one for one in ended if one.method == line.method] or ended
        spent = [one.seconds for one in ours if one.seconds is not None]
        return sum(spent) / len(spent) if spent else None

    def steps_left(self, line: Line) -> float | None:
        """Seconds for the training steps of a running run that are left, at its own pace; None without a pace."""
        if line.pace is None or line.phase not in ("training", "validation"):
            return None
        since, share = line.pace
        return (self.clock() - since) * (1 - line.done) / (line.done - share) if line.done > share else None

    def render(self) -> RenderableType:
        """Every run with its state, then how far the bake-off is."""
        table = Table.grid(padding=(0, 1))
        table.add_column()
        table.add_column(max_width=NAME)
        for line in self.shown():
            running = line.state == "running"
            full = {"waiting": 0.0, "running": line.done}.get(line.state, 1.0)
            spent = self.clock() - line.started if running else line.seconds
            table.add_row(
                Text(f"  {line.state}"),
                Text(line.title, overflow="ellipsis", no_wrap=True),
                ProgressBar(total=1.0, completed=full, width=BAR),
                Text(f"{line.phase}: {line.detail}" if running and line.detail else line.phase if running else "",
                     overflow="ellipsis", no_wrap=True),
                Text("" if spent is None else clock_time(spent), justify="right"),
            )  # fmt: skip
        return Group(table, *(Text(f"  {line}") for line in self.others()), Text(f"  {self.summary()}"))

    def others(self) -> list[str]:
        """The runs that have no line of their own, a sentence a state: `done: lora x3, full x3`."""
        alone = {id(line) for line in self.shown()}
        found: dict[str, Counter[str]] = {}
        for line in self.lines.values():
            if id(line) not in alone:
                state = "done" if line.state == "stored" else line.state
                found.setdefault(state, Counter())[line.method] += 1
        return [
            f"{state}: {', '.join(name if count == 1 else f'{name} x{count}' for name, count in methods.items())}"
            for state, methods in found.items()
        ]

    def shown(self) -> list[Line]:
        """The lines that are printed."""
        every = list(self.lines.values())
        if len(every) <= MANY:
            return every
        coming = [line for line in every if line.state == "waiting"][:NEXT]
        return [line for line in every if line.state in ("running", "dead") or line in coming]

    def summary(self) -> str:
        """`3 of 14 runs done, 1 running, 10 waiting; 12:34 spent, about 41:00 left`."""
        states = [line.state for line in self.lines.values()]
        done = sum(state in ("done", "stored") for state in states)
        counts = [f"{done} of {len(states)} runs done"]
        counts += [f"{states.count(state)} {state}" for state in ("running", "waiting", "dead") if state in states]
        times = [] if self.begun is None else [f"{clock_time(self.clock() - self.begun)} spent"]
        if (found := self.left()) is not None:
            seconds, whole = found
            times.append(f"{'about' if whole else 'at least'} {clock_time(seconds)} left")
        return "; ".join(filter(None, [", ".join(counts), ", ".join(times)]))


def clock_time(seconds: float) -> str:
    """`1:02:03`, `2:03`."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def title(spec: RunSpec) -> str:
    """How a run is called in messages."""
    return spec.method if spec.control else f"{spec.method} (seed {spec.seed})"
