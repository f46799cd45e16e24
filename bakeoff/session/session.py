"""A bake-off: the runs of a plan, each fetched from the store or made, and the report that they leave."""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bakeoff.core.errors import UsageError
from bakeoff.core.events import Emit, News
from bakeoff.gate.seed_variance import Loans
from bakeoff.gate.verdicts import Gate
from bakeoff.metrics.rouge import Prediction
from bakeoff.report.comparison import Comparison
from bakeoff.report.published import Published
from bakeoff.report.tuning import record
from bakeoff.runs.records import Death, RunResult, RunSpec
from bakeoff.scoring.api import Beside
from bakeoff.scoring.compute import beside
from bakeoff.session import worker
from bakeoff.session.executors.api import Executor, Job
from bakeoff.session.executors.local import Local
from bakeoff.session.ledger import Ledger, Outcome
from bakeoff.session.plan import Plan
from bakeoff.session.progress import Progress, title
from bakeoff.session.store import Store, compact
from bakeoff.session.tracking import Tracking
from bakeoff.session.tracking.figures import compared as scores_of


class Session:
    """Makes each run once, whoever asks for it, and remembers what came of it."""

    def __init__(
        self, plan: Plan, store: Store, progress: Progress, *, fresh: bool = False, ledger: Ledger | None = None,
        loans: Loans | None = None, published: Sequence[Published] = (), run_timeout: float = 0.0,
        executor: Executor | None = None,
        tracking: Tracking | None = None,
        metrics: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        self.plan, self.store, self.progress, self.fresh = plan, store, progress, fresh
        self.executor = executor or Local(store)
        self.expected: list[str] = []
        """Methods that will be asked for: their runs begin, where several are made at once, with the first of them."""
        self.pool: ThreadPoolExecutor | None = None
        self.futures: dict[str, Future[RunResult]] = {}
        self.ledger = ledger or Ledger()
        self.loans, self.published = loans, published
        self.run_timeout = run_timeout
        self.tracking = tracking or Tracking()
        self.metrics = metrics
        """Beside ROUGE, as `bakeoff.scoring.registry.load` gives them."""
        self.waiting: set[str] = set()
        """Runs of which was said that they wait."""
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
            for spec, result in zip(self.plan.specs[method], self.asked(method), strict=True):
                try:
                    found.append(result())
                except worker.Died as died:
                    self.bury(spec, died)
                    raise
            self.results[method] = found
        return self.results[method]

    def asked(self, method: str) -> list[Callable[[], RunResult]]:
        """What waits for each run of a method, or makes it where one is made at a time."""
        if self.executor.count == 1:
            return [functools.partial(self.run, spec) for spec in self.plan.specs[method]]
        self.pool = self.pool or ThreadPoolExecutor(self.executor.count)
        for name in dict.fromkeys([method, *self.expected]):
            for spec in self.plan.specs[name]:
                if spec.fingerprint not in self.futures:
                    self.futures[spec.fingerprint] = self.pool.submit(self.run, spec)
        return [self.futures[spec.fingerprint].result for spec in self.plan.specs[method]]

    def stop(self) -> None:
        """Ends what is being made; what it finished is kept. A session that has nothing to end stays as it is."""
        if self.pool:
            self.executor.stop()
            self.pool.shutdown(cancel_futures=True)

    def run(self, spec: RunSpec) -> RunResult:
        """The finished run of `spec`, from the store where it is there and `--fresh` was not typed. Raises Died."""
        with self.store.making(spec.fingerprint, lambda: self.waits(spec)):
            known = self.ledger.find(spec.fingerprint)
            if known and known.how == "dead":
                raise worker.Died(known.phase, known.cause, known.stack)
            if (known or not self.fresh) and (finished := self.store.find(spec.fingerprint)):
                self.store.forget_partial(spec.fingerprint)  # of a session that was killed after it had stored the run
                if known is None:
                    self.ledger.note(spec.fingerprint, Outcome("reused"))
                    self.progress.reused(spec)
                return finished
            if not self.fresh and self.store.folder(spec.fingerprint).exists():
                self.progress.say(
                    spec, f"what {self.store.folder(spec.fingerprint)} holds is damaged; it is made again"
                )
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

    def waits(self, spec: RunSpec) -> None:
        """Says, once, what a run waits for. Raises Stopped when nobody waits for the run any more."""
        if self.executor.stopped:
            raise worker.Stopped
        if spec.fingerprint not in self.waiting:
            self.waiting.add(spec.fingerprint)
            self.progress.say(spec, "waits for another bake-off on this store")

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
            log.unlink(missing_ok=True)
            with (
                self.executor.slot(lambda: self.waits(spec)) as slot,
                self.store.staging(spec.fingerprint) as staging,
                self.progress.run(spec) as emit,
            ):
                self.tracking.begun(spec)
                partial, durability = self.store.partial(spec.fingerprint), asdict(self.plan.settings.durability)
                job = Job(spec, staging, partial, self.store.models, log, durability, self.run_timeout, self.fresh)
                result, predictions = slot.make(job, functools.partial(self._told, spec, emit))
                if self.executor.places:
                    result["environment"]["runs"] = self.executor.places
                finished = RunResult(**result)
                self.store.commit(staging, finished, [Prediction(**row) for row in predictions])
        except UsageError as error:
            raise worker.Died("setup", str(error)) from None
        except OSError as error:
            raise worker.Died("storing", worker.describe(error)) from None
        self.unfinished.pop(title(spec), None)
        return compact(finished)

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
        """Stops a bake-off; says what is kept of it, and how to go on."""
        self.stop()
        runs = self.ledger.count("made") + self.ledger.count("reused")
        kept = [f"{runs} finished run{'s' * (runs != 1)}", *(f"{run}: {what}" for run, what in self.unfinished.items())]
        again = "the same command without --fresh" if self.fresh else "the same command"
        return f"stopped; kept in {self.store.root}: {'; '.join(kept)}\ntype {again} to go on"

    def report(self, folder: Path, gate: Gate | None = None) -> str | None:
        """Writes the report of everything that was run into `folder`; returns the table, None when nothing was run."""
        from bakeoff import report
        from bakeoff.report import comparison

        self.stop()  # what nobody waited for, after a failure with -x
        self.gather()
        ordered = {name: self.results[name] for name in self.plan.specs if name in self.results}
        if not ordered and not self.deaths:
            return None
        compared = comparison.compare(
            self.plan.settings, ordered, list(self.deaths.values()), record.counts(self.plan.settings),
            self.loans.of(ordered) if self.loans else None, self.published,
            self.beside(ordered, self.metrics),
        )  # fmt: skip
        predictions = {name: self.store.predictions(runs[0].fingerprint) for name, runs in ordered.items()}
        path = report.write(compared, predictions, folder, gate, self.store.root / report.PAGE)
        page = path.with_name("index.html")
        said = [report.terminal(compared, gate), "", self.summary(), f"report: {path}"]
        said += [f"page: {page}"] if self.plan.settings.report.page and page.is_file() else []
        self.tracking.wait()
        self.tracking.reported(
            scores_of({row.name: {**row.rouge, **row.metrics} for row in compared.rows}), named(compared), folder
        )
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

    def beside(self, results: Mapping[str, Sequence[RunResult]], metrics: Sequence[Any]) -> Beside:
        """Metrics beside ROUGE over finished runs, by method."""
        written = {name: (self.store.predictions(run.fingerprint) for run in runs) for name, runs in results.items()}
        documents = next(iter(results.values()))[0].document_ids if results else []
        return beside(metrics, written, documents, self.store.metrics)

    def summary(self) -> str:
        """How many runs were made and how many were there already."""
        made, reused = self.ledger.count("made"), self.ledger.count("reused")
        return f"runs: {made} made, {reused} reused from {self.store.root}, {len(self.deaths)} dead"


def named(compared: Comparison) -> dict[str, str]:
    """What a bake-off is, for those who keep its figures."""
    settings = compared.settings
    found = {"preset": settings.preset, "model": settings.model.name, "task": settings.task.name}
    return {**found, "signature": compared.signature}
