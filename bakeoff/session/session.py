"""A bake-off: the runs of a plan, each fetched from the store or made, and the report that they leave."""

import functools
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bakeoff.core.errors import UsageError
from bakeoff.core.events import Emit, News
from bakeoff.gate.seed_variance import Loans
from bakeoff.gate.verdicts import Gate
from bakeoff.metrics.rouge import Prediction
from bakeoff.report.comparison import Comparison
from bakeoff.report.published import Published
from bakeoff.report.tuning import record
from bakeoff.runs.records import Death, RunResult, RunSpec
from bakeoff.session import worker
from bakeoff.session.ledger import Ledger, Outcome
from bakeoff.session.plan import Plan
from bakeoff.session.progress import Progress, title
from bakeoff.session.store import Store
from bakeoff.session.tracking import Tracking
from bakeoff.session.tracking.figures import compared as scores_of


class Session:
    """Makes each run once, whoever asks for it, and remembers what came of it."""

    def __init__(
        self, plan: Plan, store: Store, progress: Progress, *, fresh: bool = False, ledger: Ledger | None = None,
        loans: Loans | None = None, published: Sequence[Published] = (), run_timeout: float = 0.0,
        tracking: Tracking | None = None,
    ) -> None:  # fmt: skip
        self.plan, self.store, self.progress, self.fresh = plan, store, progress, fresh
        self.ledger = ledger or Ledger()
        self.loans, self.published = loans, published
        self.run_timeout = run_timeout
        self.tracking = tracking or Tracking()
        self.unfinished: dict[str, str] = {}
        self.results: dict[str, list[RunResult]] = {}
        self.deaths: dict[str, Death] = {}

    def runs(self, method: str) -> list[RunResult]:
        """One finished run a seed. Raises Died, again at every call, when one of them died."""
        if method in self.deaths:
            death = self.deaths[method]
            raise worker.Died(death.phase, death.cause)
        if method not in self.results:
            found = []
            for spec in self.plan.specs[method]:
                try:
                    found.append(self.run(spec))
                except worker.Died as died:
                    self.bury(spec, died)
                    raise
            self.results[method] = found
        return self.results[method]

    def run(self, spec: RunSpec) -> RunResult:
        """The finished run of `spec`, from the store where it is there and `--fresh` was not typed. Raises Died."""
        with self.store.computing(lambda: self.progress.say(spec, "waits for another bake-off on this store")):
            known = self.ledger.find(spec.fingerprint)
            if known and known.how == "dead":
                raise worker.Died(known.phase, known.cause, known.stack)
            if (known or not self.fresh) and (finished := self.store.find(spec.fingerprint)):
                self.store.forget_partial(spec.fingerprint)  # of a session that was killed after it had stored the run
                if known is None:
                    self.ledger.note(spec.fingerprint, Outcome("reused"))
                    self.progress.reused(spec)
                return finished
            try:
                finished = self.make(spec)
            except worker.Died as died:
                self.ledger.note(spec.fingerprint, Outcome("dead", died.phase, died.cause, died.stack))
                self.progress.dead(spec, died)
                self.tracking.died(spec)
                raise
            self.ledger.note(spec.fingerprint, Outcome("made"))
            self.tracking.finished(spec, finished)
            return finished

    def bury(self, spec: RunSpec, died: worker.Died) -> None:
        """Remembers how a method's run ended."""
        log = str(self.store.logs / f"{spec.fingerprint}.log")
        self.deaths[spec.method] = Death(spec.method, spec.seed, died.phase, died.cause, log, died.stack)

    def gather(self) -> None:
        """Reads what other processes of this session finished; makes nothing."""
        for method, specs in self.plan.specs.items():
            outcomes = [self.ledger.find(spec.fingerprint) for spec in specs]
            for spec, outcome in zip(specs, outcomes, strict=True):
                if outcome and outcome.how == "dead" and method not in self.deaths:
                    self.bury(spec, worker.Died(outcome.phase, outcome.cause, outcome.stack))
            if method not in self.results and all(outcome and outcome.how != "dead" for outcome in outcomes):
                found = [self.store.find(spec.fingerprint) for spec in specs]
                if all(found):
                    self.results[method] = [run for run in found if run]

    def make(self, spec: RunSpec) -> RunResult:
        """Makes the run in a process of its own and stores it. Raises Died."""
        log = self.store.logs / f"{spec.fingerprint}.log"
        if self.fresh:
            self.store.forget_partial(spec.fingerprint)
        try:
            self.tracking.wait()
            self.tracking.begun(spec)
            log.unlink(missing_ok=True)
            with self.store.staging(spec.fingerprint) as staging, self.progress.run(spec) as emit:
                partial, durability = self.store.partial(spec.fingerprint), asdict(self.plan.settings.durability)
                job = (asdict(spec), str(staging), str(self.store.models), str(partial), durability)
                told = functools.partial(self._told, spec, emit)
                result, predictions = worker.call(worker.run_job, *job, log=log, emit=told, timeout=self.run_timeout)
                finished = RunResult(**result)
                self.store.commit(staging, finished, [Prediction(**row) for row in predictions])
        except UsageError as error:
            raise worker.Died("setup", str(error)) from None
        except OSError as error:
            raise worker.Died("storing", worker.describe(error)) from None
        self.unfinished.pop(title(spec), None)
        return finished

    def _told(self, spec: RunSpec, emit: Emit, news: News) -> None:
        """Passes a run's news on; what is kept of it is remembered, that it was resumed is said."""
        if "kept" in news:
            self.unfinished[title(spec)] = news["kept"]
        elif "resumed" in news:
            self.progress.say(spec, news["resumed"])
        else:
            emit(news)
        self.tracking.told(spec, news)
        for complaint in self.tracking.complained():
            self.progress.note(complaint)

    def interrupted(self) -> str:
        """What is kept of a bake-off that was stopped, and how to go on."""
        runs = self.ledger.count("made") + self.ledger.count("reused")
        kept = [f"{runs} finished run{'s' * (runs != 1)}", *(f"{run}: {what}" for run, what in self.unfinished.items())]
        again = "the same command without --fresh" if self.fresh else "the same command"
        return f"stopped; kept in {self.store.root}: {'; '.join(kept)}\ntype {again} to go on"

    def report(self, folder: Path, gate: Gate | None = None) -> str | None:
        """Writes the report of everything that was run into `folder`; returns the table, None when nothing was run."""
        from bakeoff import report
        from bakeoff.report import comparison

        self.gather()
        ordered = {name: self.results[name] for name in self.plan.specs if name in self.results}
        if not ordered and not self.deaths:
            return None
        compared = comparison.compare(
            self.plan.settings, ordered, list(self.deaths.values()), record.counts(self.plan.settings),
            self.loans.of(ordered) if self.loans else None, self.published,
        )  # fmt: skip
        predictions = {name: self.store.predictions(runs[0].fingerprint) for name, runs in ordered.items()}
        path = report.write(compared, predictions, folder, gate)
        said = [report.terminal(compared, gate), "", self.summary(), f"report: {path}"]
        self.tracking.wait()
        self.tracking.reported(scores_of({row.name: row.rouge for row in compared.rows}), named(compared), folder)
        self.tracking.close()
        return "\n".join([*said, *self.remember(compared, folder, gate), *self.tracking.complained()])

    def remember(self, compared: Comparison, folder: Path, gate: Gate | None) -> list[str]:
        """Appends the bake-off to its preset's history, beside the report's `folder`; what went wrong, in a line."""
        from bakeoff.report.exports import history

        if not self.plan.settings.report.history or not compared.methods:
            return []
        path = history.path_of(folder, self.plan.settings.preset)
        try:
            history.append(path, history.line(compared, gate), made=self.ledger.count("made") > 0)
        except OSError as error:
            return [f"note: {path}: can't be appended to: {error.strerror}; or type --set report.history=false"]
        return []

    def close(self) -> None:
        """Ends the trackers; what went wrong since the report, or in a process that writes none, goes to stderr."""
        self.tracking.close()
        for complaint in self.tracking.complained():
            print(complaint, file=sys.stderr)

    def summary(self) -> str:
        """How many runs were made and how many were there already."""
        made, reused = self.ledger.count("made"), self.ledger.count("reused")
        return f"runs: {made} made, {reused} reused from {self.store.root}, {len(self.deaths)} dead"


def named(compared: Comparison) -> dict[str, str]:
    """What a bake-off is, for those who keep its figures."""
    settings = compared.settings
    found = {"preset": settings.preset, "model": settings.model.name, "task": settings.task.name}
    return {**found, "signature": compared.signature}
