"""The runs of a study: planned and checked together, then made or fetched from the store."""

import copy
import importlib
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from bakeoff.config import project
from bakeoff.config.presets import blame
from bakeoff.config.schema import Settings
from bakeoff.core.errors import UsageError
from bakeoff.core.validation import build
from bakeoff.report.tuning.record import Record, Trial
from bakeoff.runs.records import RunResult
from bakeoff.session import grid, tuning, worker
from bakeoff.session.session import Session
from bakeoff.session.start import keepable, load_settings, sharing, start, stop_on_sigterm

STOPPED = 130
"""The exit code after Ctrl-C, as a shell gives it."""

T = TypeVar("T")

Results = Mapping[str, Sequence[RunResult]]
"""Finished runs by row, one a seed."""


def main(options: Namespace) -> tuple[str, int]:
    """Makes the runs of a study and writes its report; returns what to print and the exit code.

    Raises UsageError for what the user can mend.
    """
    study: Any = importlib.import_module(f"lab.studies.{options.name.replace('-', '_')}")
    runs = Runs(options)
    folder = Path(options.report_dir or project.own("reports", "studies", runs.settings.preset))
    keepable(str(folder))
    undo = stop_on_sigterm()
    try:
        page = study.study(runs)
    except KeyboardInterrupt:
        return runs.stopped(), STOPPED
    finally:
        undo()
        for session in runs.sessions:
            session.stop()  # where several runs are made at once, those that nobody waits for any more
    page.at_once = max(session.executor.count for session in runs.sessions)
    path = page.write(folder)
    return f"{page.summary()}\n\n{runs.summary()}\nreport: {path}", 0


class Runs:
    """Everything that a study asks of Bakeoff."""

    def __init__(self, options: Namespace) -> None:
        """`options` are those of `bakeoff study`. Raises UsageError for settings that are not as they must be."""
        self.options = options
        self.name = str(options.name)
        self.settings: Settings = load_settings(options)
        self.sessions: list[Session] = []

    @property
    def store(self) -> Path:
        """The folder of finished runs."""
        return Path(self.options.store)

    def adapter(self, run: RunResult) -> Path:
        """The folder with what a finished run trained."""
        return self.store / "runs" / run.fingerprint / "adapter"

    def asked(self, kind: type) -> Any:
        """The table `[study]` as a dataclass of the study. Raises UsageError for keys that it does not have."""
        return build(kind, self.settings.study, self.settings.source, "study.")

    def rows(self, base: str) -> list[str]:
        """The rows that the preset makes of a method, in its order. Raises UsageError where there are none."""
        found = [name for name, table in self.settings.methods.items() if table.get("base") == base]
        if not found:
            where = blame(self.settings, "methods")
            raise UsageError(f'{where}: study {self.name} needs a table [methods.ROW] with base = "{base}"')
        return found

    def plan(self, methods: Sequence[str], changes: Sequence[str] = (), model: str = "") -> Session:
        """A session with these methods, further `--set` texts and, if given, another model; nothing is trained yet.

        Raises UsageError.
        """
        options = self.varied(methods, changes)
        options.model = model
        session = start(options, sys.stderr, sys.stderr.isatty(), lambda: None)
        self.sessions.append(session)
        return session

    def varied(self, methods: Sequence[str], changes: Sequence[str] = ()) -> Namespace:
        """The study's options with other methods and further changes."""
        found = copy.copy(self.options)
        found.method, found.changes = list(methods), [*self.options.changes, *changes]
        return found

    def results(self, session: Session, rows: Sequence[str]) -> dict[str, list[RunResult]]:
        """The runs of each row, one a seed. Raises UsageError, naming the run's log, where one dies."""
        found = {}
        session.expected = list(rows)  # where several runs are made at once, those of all rows
        for row in rows:
            try:
                found[row] = session.runs(row)
            except worker.Died as died:
                log = session.deaths[row].log
                raise UsageError(
                    f"study {self.name}: {row} died: {died}; see {log}, then type the same command"
                ) from None
        return found

    def each(self, make: Callable[[Session], T], sessions: Sequence[Session]) -> list[T]:
        """What `make` returns for every session, for as many at once as runs may be made. Raises what it raises."""
        count = max(session.executor.count for session in sessions)
        if count == 1:
            return [make(session) for session in sessions]
        pool = ThreadPoolExecutor(count)
        try:
            return list(pool.map(make, sessions))
        except BaseException:
            for session in sessions:
                session.stop()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def tune(self, rates: Mapping[str, Sequence[float]], model: str = "") -> dict[str, list[Trial]]:
        """Trials of each row's learning rates, as many for each, with the first seed; as `bakeoff tune` makes them.

        Raises UsageError where a row has no trial with a loss.
        """
        options = tuning.without_measures(self.varied(list(rates)))
        options.seeds, options.model = str(self.settings.seeds[0]), model
        chosen = load_settings(options)
        texts = [f"methods.{row}.learning_rate={','.join(map(repr, tried))}" for row, tried in rates.items()]
        grids = grid.read(texts, tuning.trained(options, chosen), chosen)
        session = start(options, sys.stderr, sys.stderr.isatty(), lambda: None)
        self.sessions.append(session)
        trials, _ = tuning.searched(tuning.Tuning(session, Record(chosen), sharing(options)), grids, 0)
        for row, ours in trials.items():
            if all(trial.validation_loss is None for trial in ours):
                raise UsageError(
                    f"study {self.name}: {row}: every learning rate diverged; give study.rates lower values"
                )
        return trials

    def summary(self) -> str:
        """How many runs were made, and how many were there already."""
        made, reused = (sum(one.ledger.count(how) for one in self.sessions) for how in ("made", "reused"))
        return f"runs: {made} made, {reused} reused from {self.options.store}"

    def stopped(self) -> str:
        """What to print after Ctrl-C."""
        again = "the same command without --fresh" if self.options.fresh else "the same command"
        return f"stopped; finished runs are kept in {self.options.store}\ntype {again} to go on"
