"""A bake-off: the runs of a plan, each fetched from the store or made, and the report that they leave."""

import json
from dataclasses import asdict
from pathlib import Path

from bakeoff import settings as configuration
from bakeoff import worker
from bakeoff.errors import UsageError
from bakeoff.plan import Plan
from bakeoff.progress import Progress
from bakeoff.results import Death, Prediction, RunResult, RunSpec
from bakeoff.store import Store


class Session:
    """Makes each run once, whoever asks for it, and remembers what came of it."""

    def __init__(self, plan: Plan, store: Store, progress: Progress, *, fresh: bool = False) -> None:
        self.plan, self.store, self.progress, self.fresh = plan, store, progress, fresh
        self.results: dict[str, list[RunResult]] = {}
        self.deaths: dict[str, Death] = {}
        self.reused = 0
        self.made = 0

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
                    log = str(self.store.logs / f"{spec.fingerprint}.log")
                    self.deaths[method] = Death(method, spec.seed, died.phase, died.cause, log)
                    self.progress.dead(spec, died)
                    raise
            self.results[method] = found
        return self.results[method]

    def run(self, spec: RunSpec) -> RunResult:
        """The finished run of `spec`, from the store where it is there and `--fresh` was not typed."""
        with self.store.computing():
            if not self.fresh and (finished := self.store.find(spec.fingerprint)):
                self.reused += 1
                self.progress.reused(spec)
                return finished
            finished = self.make(spec)
            self.made += 1
            return finished

    def make(self, spec: RunSpec) -> RunResult:
        """Makes the run in a process of its own and stores it. Raises Died."""
        log = self.store.logs / f"{spec.fingerprint}.log"
        log.unlink(missing_ok=True)
        with self.store.staging(spec.fingerprint) as staging, self.progress.run(spec) as tell:
            job = (asdict(spec), str(staging), str(self.store.models))
            try:
                result, predictions = worker.call(worker.run_job, *job, log=log, tell=tell)
            except UsageError as error:
                raise worker.Died("setup", str(error)) from None
            finished = RunResult(**result)
            self.store.commit(staging, finished, [Prediction(**row) for row in predictions])
        return finished

    def report(self, folder: Path) -> str | None:
        """Writes the report of everything that was run into `folder`; returns the table, None when nothing was run."""
        from bakeoff import comparison, report

        ordered = {name: self.results[name] for name in self.plan.specs if name in self.results}
        if not ordered and not self.deaths:
            return None
        compared = comparison.compare(
            self.plan.settings, ordered, list(self.deaths.values()), trials(self.plan.settings)
        )
        predictions = {name: self.store.predictions(runs[0].fingerprint) for name, runs in ordered.items()}
        path = report.write(compared, predictions, folder)
        return f"{report.terminal(compared)}\n\n{self.summary()}\nreport: {path}"

    def summary(self) -> str:
        """How many runs were made and how many were there already."""
        return f"runs: {self.made} made, {self.reused} reused from {self.store.root}, {len(self.deaths)} dead"


def trials(settings: configuration.Settings) -> dict[str, int]:
    """How many settings were tried on validation for each method, from the record beside the preset; {} without one.

    Raises UsageError where the record is none.
    """
    path = Path(settings.source).with_suffix(".trials.json")
    if not path.is_file():
        return {}
    counts: dict[str, int] = {}
    try:
        for row in json.loads(path.read_bytes())["trials"]:
            counts[row["method"]] = counts.get(row["method"], 0) + 1
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(f"{path}: expected the record of trials that python -m lab.tune writes") from None
    return counts
