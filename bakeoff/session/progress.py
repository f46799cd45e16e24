"""What is happening: every run with its state in a terminal, a line for each epoch elsewhere."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.live import Live

from bakeoff.core.errors import one_line
from bakeoff.core.events import Emit, News, silent
from bakeoff.runs.records import RunSpec
from bakeoff.session.board import Board, title

__all__ = ["Progress", "title"]


class Progress:
    """Writes to `file`, which may be None for silence."""

    def __init__(self, file: TextIO | None, *, live: bool, newline: Callable[[], None] = lambda: None) -> None:
        self.console = Console(file=file, force_terminal=live, highlight=False, markup=False) if file else None
        self.live = live
        self.newline = newline
        self.board = Board()
        self.running = 0
        """Runs that are made now."""
        self.drawn: Live | None = None
        self.changing = threading.Lock()

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
        self.board.end(spec, "stored")
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
            with self._board(spec) as emit:
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
    def _board(self, spec: RunSpec) -> Iterator[Emit]:
        """Draws the board while any run is made; runs may overlap."""
        self.board.start(spec)
        with self.changing:
            self.running += 1
            if self.running == 1:
                self.newline()
                self.drawn = Live(get_renderable=self.board.render, console=self.console, refresh_per_second=2,
                                  transient=True, vertical_overflow="crop")  # fmt: skip
                self.drawn.start()
        try:
            yield lambda news: self.board.hear(spec, news)
        except BaseException:
            self.board.end(spec, "dead")
            raise
        else:
            self.board.end(spec, "done")
        finally:
            with self.changing:
                self.running -= 1
                if self.running == 0 and self.drawn is not None:
                    self.drawn.stop()
