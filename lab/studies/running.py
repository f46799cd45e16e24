"""The runs of a study: planned and checked together, then made or fetched from the store."""

import copy
import importlib
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bakeoff.config import project
from bakeoff.config.presets import blame
from bakeoff.config.schema import Settings
from bakeoff.core.errors import UsageError
from bakeoff.core.validation import build
from bakeoff.report.tuning.record import Record, Trial
from bakeoff.runs.records import RunResult
from bakeoff.session import grid, tuning, worker
from bakeoff.session.session import Session
from bakeoff.session.start import keepable, load_settings, start, stop_on_sigterm

STOPPED = 130
"""The exit code after Ctrl-C, as a shell gives it."""

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
        for row in rows:
            try:
                found[row] = session.runs(row)
            except worker.Died as died:
                log = session.deaths[row].log
                raise UsageError(
                    f"study {self.name}: {row} died: {died}; see {log}, then type the same command"
                ) from None
        return found

    def tune(self, rows: Sequence[str], rates: Sequence[float]) -> dict[str, list[Trial]]:
        """Trials of learning rates by row, as many for each, with the first seed; as `bakeoff tune` makes them.

        Raises UsageError where a row has no trial with a loss.
        """
        options = tuning.without_measures(self.varied(rows))
        options.seeds = str(self.settings.seeds[0])
        chosen = load_settings(options)
        text = "learning_rate=" + ",".join(map(repr, rates))
        grids = grid.read([text], tuning.trained(options, chosen), chosen)
        session = start(options, sys.stderr, sys.stderr.isatty(), lambda: None)
        self.sessions.append(session)
        trials, _ = tuning.searched(tuning.Tuning(session, Record(chosen)), grids, 0)
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
