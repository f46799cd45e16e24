"""What is happening: a live bar for each run in a terminal, a line for each epoch elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from bakeoff.core.errors import one_line
from bakeoff.core.events import Emit, News, silent
from bakeoff.runs.records import RunSpec


class Progress:
    """Writes to `file`, which may be None for silence."""

    def __init__(self, file: TextIO | None, *, live: bool, newline: Callable[[], None] = lambda: None) -> None:
        self.console = Console(file=file, force_terminal=live, highlight=False, markup=False) if file else None
        self.live = live
        self.newline = newline

    def say(self, spec: RunSpec, text: str) -> None:
        """A line that names its run."""
        if self.console:
            self.newline()
            self.console.print(f"  {title(spec)}: {text}", soft_wrap=True)

    def note(self, text: str) -> None:
        """A line about all runs."""
        if self.console:
            self.newline()
            self.console.print(f"  {one_line(text)}", soft_wrap=True)

    def reused(self, spec: RunSpec) -> None:
        """Says that a finished run was found."""
        if not spec.control:
            self.say(spec, f"not trained again, finished run {spec.fingerprint[:12]} reused (--fresh trains anew)")

    def dead(self, spec: RunSpec, died: Exception) -> None:
        """Says how a run ended."""
        self.say(spec, f"dead: {one_line(str(died))}")

    @contextmanager
    def run(self, spec: RunSpec) -> Iterator[Emit]:
        """Yields the function that takes a run's news."""
        if self.console is None:
            yield silent
        elif self.live:
            with self._bar(spec) as emit:
                yield emit
        else:
            yield lambda news: self._line(spec, news)

    def _line(self, spec: RunSpec, news: News) -> None:
        if news["phase"] == "validation":
            self.say(
                spec,
                f"epoch {news['epoch']}/{news['epochs']}, training loss {news['training_loss']:.4f}, "
                f"validation loss {news['validation_loss']:.4f}",
            )
        elif news["phase"] == "evaluation" and news["done"] == 0:
            self.say(spec, f"writing {news['documents']} summaries")

    @contextmanager
    def _bar(self, spec: RunSpec) -> Iterator[Emit]:
        self.newline()
        columns = (TextColumn("  {task.description}"), BarColumn(20), TextColumn("{task.fields[detail]}"),
                   TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())  # fmt: skip
        with Bar(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(f"{title(spec)}: setup", total=None, detail="")

            def emit(news: News) -> None:
                phase = news["phase"]
                label = f"{title(spec)}: {phase}"
                if phase == "training":
                    speed = news["tokens"] / max(news["seconds"], 1e-9)
                    done = f"epoch {news['epoch']}/{news['epochs']} step {news['step']}/{news['steps']}"
                    detail = f"{done} loss {news['loss']:.3f} {speed:.0f} tokens/s"
                    bar.update(task, description=label, total=news["steps"], completed=news["step"], detail=detail)
                elif phase == "evaluation":
                    detail = f"{news['done']}/{news['documents']} summaries"
                    if news["done"] == 0:
                        bar.reset(task)
                    bar.update(task, description=label, total=news["documents"], completed=news["done"], detail=detail)
                else:
                    bar.update(task, description=label)

            yield emit


def title(spec: RunSpec) -> str:
    """How a run is called in messages."""
    return spec.method if spec.control else f"{spec.method} (seed {spec.seed})"
