"""`bakeoff tune`: settings of methods, tried on the validation split and kept in a record.

A trial trains on the training documents; its criterion is the lowest validation loss of any epoch. The test split takes
no part. A run needs at least one test document, so a trial writes one summary, whose score nobody reads. Only where the
splits of a file are drawn (`task.split_column = ""`) does the test split keep its size, and the trial writes as many
summaries: with a smaller one, test documents would become training documents.
"""

import copy
import dataclasses
import hashlib
import itertools
import json
import math
import sys
import threading
from argparse import Namespace
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bakeoff.config import project
from bakeoff.config.schema import SECTIONS, Settings
from bakeoff.core.errors import UsageError
from bakeoff.data.readers import reader
from bakeoff.methods.registry import TRAINING_KEYS, Entry, known_methods
from bakeoff.report.tuning.record import Record, Trial, kept, lowest
from bakeoff.runs.records import RunResult, RunSpec
from bakeoff.session import grid, plan, search, worker
from bakeoff.session.grid import Axes
from bakeoff.session.search import GROWTH, GridSearch, Point
from bakeoff.session.session import Session
from bakeoff.session.start import load_settings, sharing, start, stop_on_sigterm, writable

STOPPED = 130
"""The exit code after Ctrl-C, as a shell gives it."""
OF_ALL = tuple(f"{name}." for name in SECTIONS)
"""How a `--set` begins that is read by every method."""
DIGITS = 6
"""Decimals of a loss in the record."""


def tune(options: Namespace) -> tuple[str, int]:
    """Makes the trials that the options ask for; returns what to print and the exit code. Raises UsageError."""
    if options.trials:
        search.load_optuna()
    options = without_measures(options)
    chosen = load_settings(options)
    grids = grid.read(options.grid, trained(options, chosen), chosen)
    record, picture = Record(chosen), project.own("reports", "tune", f"{chosen.preset}.png")
    for path in (record.path, picture):
        if not writable(path.parent):
            raise UsageError(f"{path}: can't be written; type the command in a folder that can")
    undo, session = stop_on_sigterm(), None
    try:
        session = start(options, sys.stderr, sys.stderr.isatty(), lambda: None)
        trials, notes = searched(Tuning(session, record, sharing(options)), grids, options.trials)
    except KeyboardInterrupt:
        again = "the same command without --fresh" if options.fresh else "the same command"
        return f"stopped; finished trials are kept in {record.path}\ntype {again} to go on", STOPPED
    finally:
        undo()
        if session and session.executor.count > 1:
            session.executor.stop()  # runs of trials that have died
    return report(session, trials, [*notes, *earlier(trials, record)], record.path, picture), 0


def without_measures(options: Namespace) -> Namespace:
    """The options without what a trial's loss does not need: forgetting, inference, and as many documents of the test
    split as leave the other splits as they are.
    """
    task = load_settings(options).task
    found = copy.copy(options)
    found.changes = [*options.changes, "measure.forgetting=0", "measure.inference=0"]
    if not (reader(task.name) and not task.split_column):
        found.changes.append("task.test=1")
    return found


def trained(options: Namespace, chosen: Settings) -> list[Entry]:
    """The methods to tune. Raises UsageError where there are none, or one makes no epoch."""
    found = []
    for entry, (_, recipe) in plan.configured(chosen, options.method or ["all"]):
        if not entry.control:
            found.append(entry)
            if not recipe.epochs:
                raise UsageError(
                    f"--method {entry.name}: its epochs are 0, so no trial differs from another; leave the method out, "
                    f"or type --set methods.{entry.name}.epochs=1"
                )
    if not found:
        raise UsageError(f"--method {','.join(options.method)}: only controls, which train nothing; add --method lora")
    return found


class Tuning:
    """Makes trials, each a run like any other, and keeps them in the record."""

    def __init__(self, session: Session, record: Record, parallel: int = 1) -> None:
        """`session` has planned all methods with their own settings; `parallel` runs share the processor."""
        self.session, self.record, self.parallel = session, record, parallel
        known = known_methods()
        self.entries = {entry.name: entry for entry in session.plan.entries}
        self.asked = {name: name if entry.base or name in known else str(entry.file)
                      for name, entry in self.entries.items()}  # fmt: skip
        self.found: dict[str, dict[str, Any]] = {}
        """What probes found, by method and hyperparameters that were tried."""
        self.numbers = itertools.count(1)
        self.writing = threading.Lock()

    def measure(self, points: Sequence[Point]) -> list[Trial]:
        """A trial of each point, as many at once as the executor makes: none needs another one's result."""
        executor = self.session.executor
        if executor.count == 1:
            return [self.trial(point) for point in points]
        with ThreadPoolExecutor(executor.count) as pool:
            try:
                return list(pool.map(self.trial, points))
            except BaseException:
                executor.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def trial(self, point: Point) -> Trial:
        """The trial of a point, from the record where it is there and `--fresh` was not typed."""
        number = next(self.numbers)
        what = ", ".join(f"{key} = {value}" for key, value in point.settings.items())
        note = self.session.progress.note
        note(f"trial {number}: {point.method}, {what}")
        planned = self.plan(point)
        asked = digest(planned.specs[point.method])
        known = None if self.session.fresh else self.record.known(asked, point.settings)
        if known:
            note(f"found in {self.record.path.name} (--fresh trains anew)")
            return known
        made = self.train(point, planned)
        try:
            with self.writing:
                self.record.keep(asked, made)
        except OSError as error:
            raise UsageError(f"{self.record.path}: the record can't be written: {error.strerror}") from None
        return made

    def train(self, point: Point, planned: plan.Plan) -> Trial:
        """Makes the runs of a trial, one a seed. A run that dies leaves a trial without a loss."""
        ours = self.session
        once = Session(planned, ours.store, ours.progress, fresh=ours.fresh, ledger=ours.ledger, executor=ours.executor)
        try:
            runs = once.runs(point.method)
        except worker.Died as died:
            for future in once.futures.values():  # of other seeds, which nobody asks for any more
                future.cancel()
            cause = died.cause.partition(";")[0]
            return Trial(point.method, point.settings, None, {}, cause, isinstance(died, worker.DiedDiverged))
        return outcome(point, runs)

    def plan(self, point: Point) -> plan.Plan:
        """The runs of a trial. Raises UsageError where the method or the model refuses its settings."""
        base = self.session.plan
        entry = self.entries[point.method]
        settings = grid.changed(entry, read_by(entry, base.settings), point.settings)
        own = {key: value for key, value in point.settings.items() if key not in TRAINING_KEYS}
        key = json.dumps([point.method, own], sort_keys=True)
        store = self.session.store
        try:
            planned = plan.make(
                settings, [self.asked[point.method]], store, self.found.get(key) if own else base.found, self.parallel
            )
        except worker.Died as died:
            raise UsageError(f"preparing the runs failed: {died}; see {store.logs / 'prepare.log'}") from None
        self.found[key] = planned.found
        return planned

    def permitted(self, point: Point) -> bool:
        """Whether the method and the model take the settings of a point."""
        try:
            self.plan(point)
        except UsageError:
            return False
        return True


def read_by(entry: Entry, settings: Settings) -> Settings:
    """`settings` without what `--set` gives to other methods, which a plan of this one alone would refuse."""
    ours = tuple(f"methods.{name}." for name in (entry.name, entry.method))
    kept = {key: value for key, value in settings.changes.items() if key.startswith((*ours, *OF_ALL))}
    return dataclasses.replace(settings, changes=kept)


def outcome(point: Point, runs: Sequence[RunResult]) -> Trial:
    """The trial of finished runs, one a seed. Raises UsageError where a method trains nothing."""
    losses = {str(run.spec["seed"]): [round(row["validation_loss"], DIGITS) for row in run.epochs] for run in runs}
    if any(len(found) < 2 for found in losses.values()):
        raise UsageError(f"--method {point.method}: it trains nothing, so it has no validation loss; leave it out")
    mean = sum(min(found[1:]) for found in losses.values()) / len(losses)
    return Trial(point.method, point.settings, round(mean, DIGITS), losses)


def digest(specs: Sequence[RunSpec]) -> str:
    """32 hex digits of what a trial asks: method, model, documents, recipe, seeds, precision; not of the machine."""
    asked = [
        [
            spec.method, spec.hyperparameters, spec.seed, spec.model, spec.task, spec.training,
            spec.machine["precision"], {name: value for name, value in spec.hashes.items() if name != "source"},
        ]
        for spec in specs
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def searched(tuning: Tuning, grids: Mapping[str, Axes], count: int) -> tuple[dict[str, list[Trial]], list[str]]:
    """All trials by method, and what must be said of them. Raises UsageError."""
    if count:
        seed = tuning.session.plan.settings.seeds[0]
        trials = search.sample(grids, tuning.measure, count, seed, tuning.permitted)
        return trials, [*remarks(trials), *bounds(grids, trials)]
    for point in (point for name, axes in grids.items() for point in search.product(name, axes)):
        tuning.plan(point)  # what is refused is refused before the first trial
    found = GridSearch(grids, tuning.measure, tuning.permitted)
    trials = found.run()
    return trials, [*remarks(trials), *(note for name in trials for note in edges(found, name))]


def remarks(trials: Mapping[str, Sequence[Trial]]) -> list[str]:
    """What must be said of any trials: who has no loss at all, and who had fewer."""
    said = [
        f"{name}: no trial has a validation loss; type --grid methods.{name}.learning_rate=... with lower values"
        for name, ours in trials.items() if all(trial.validation_loss is None for trial in ours)
    ]  # fmt: skip
    numbers = {name: len(ours) for name, ours in trials.items()}
    if len(set(numbers.values())) > 1:
        counts = ", ".join(f"{name} {number}" for name, number in numbers.items())
        said.append(f"the methods do not have the same number of trials: {counts}; no setting with fractions was "
                    "tried of those with fewer, so nothing lies between their values")  # fmt: skip
    return said


def earlier(trials: Mapping[str, Sequence[Trial]], record: Record) -> list[str]:
    """What must be said where an earlier command's trial, by the record, had a lower loss than all of this one's."""
    said = []
    for name, ours in trials.items():
        if row := record.lower(lowest(ours)):
            what = ", ".join(f"{key} = {value}" for key, value in row["settings"].items())
            said.append(
                f"{name}: an earlier trial in the record has a lower validation loss, {row['validation_loss']:.4f} "
                f"with {what}; name that value in --grid to compare them here"
            )
    return said


def bounds(grids: Mapping[str, Axes], trials: Mapping[str, Sequence[Trial]]) -> list[str]:
    """What must be said of best values in the last tenth of what Optuna might draw, by the logarithm."""
    said = []
    for name, axes in grids.items():
        best = lowest(trials[name])
        for key in () if best.validation_loss is None else search.growing(axes):
            low, high = (math.log(found(axes[key])) for found in (min, max))
            place = (math.log(best.settings[key]) - low) / (high - low) if high > low else 0.5
            if which := "lowest" if place < 0.1 else "highest" if place > 0.9 else "":
                said.append(
                    f"{name}: the best {key}, {best.settings[key]:g}, lies beside the {which} that was allowed; "
                    f"type --grid methods.{name}.{key}=... with {which.replace('est', 'er')} values"
                )
    return said


def edges(found: GridSearch, name: str) -> list[str]:
    """What must be said of a method's best values at an edge."""
    best = lowest(found.trials[name])
    if best.validation_loss is None:
        return []
    after = f", after its grid grew {found.grown[name]} of {GROWTH} times" if found.grown[name] else ""
    return [
        f"{name}: the best {key}, {best.settings[key]:g}, is the {which} that was tried{after}; "
        f"type --grid methods.{name}.{key}=... with {which.replace('est', 'er')} values"
        for key, which in found.open_edges(name)
    ]


def report(
    session: Session, trials: Mapping[str, Sequence[Trial]], notes: Sequence[str], record: Path, picture: Path
) -> str:
    """Draws the plot; returns the table, what to put into the preset, and where record and plot are."""
    from bakeoff.report.plots import tuning as plot
    from bakeoff.report.tuning import table

    settings = session.plan.settings
    rows = {
        entry.name: {"base": entry.base, **entry.options}
        for entry in session.plan.entries if entry.base and entry.name not in settings.methods
    }  # fmt: skip
    try:
        plot.draw(trials, picture, settings.preset)
    except OSError as error:
        raise UsageError(f"{picture}: the plot can't be written: {error.strerror}") from None
    text = table.render(trials, rows, notes, settings.source)
    said = [f"record: {record}", f"plot: {picture}"]
    if not project.ships(settings.source):  # else it stands in the installed package
        said.append(f"to keep the record with the preset, type: cp {record} {kept(settings)}")
    return "\n".join([text, "", *said])
