"""The gate's keeper: has the session make its runs, judges them, and writes what is accepted."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bakeoff.core.errors import UsageError
from bakeoff.gate import baseline
from bakeoff.gate.verdicts import Gate, judge, zeros
from bakeoff.session import worker
from bakeoff.session.session import Session

WRITTEN = "baseline-written"
"""The one case of a session that accepts what it measures."""


@dataclass(frozen=True)
class Check:
    """One case of the gate, as a test asks for it."""

    failure: str = ""
    """What is wrong, with what to type; empty where it is green."""
    figures: dict[str, Any] = field(default_factory=dict)
    """For the JUnit file: points of ROUGE, p, the verdict."""


class Gatekeeper:
    """Judges the methods of a session against the baseline in `path`; `remedy` is the command that accepts them."""

    def __init__(self, session: Session, path: Path, *, update: bool, strict: bool, remedy: str) -> None:
        self.session, self.path, self.update, self.strict, self.remedy = session, path, update, strict, remedy
        self.methods = [entry.name for entry in session.plan.entries if not entry.control]
        self.metrics = session.plan.settings.scoring.verdicts
        self.accepted = baseline.read(path)
        self.judged: Gate | None = None

    def cases(self) -> list[str]:
        """Names of the cases, in order: `lora-rouge1`, or the one that says that a baseline was written."""
        return (
            [WRITTEN] if self.update else [f"{method}-{metric}" for method in self.methods for metric in self.metrics]
        )

    def check(self, case: str) -> Check:
        """Makes every run of the session that is missing, and judges one case."""
        for method in self.methods:
            try:
                self.session.runs(method)
            except worker.Died:
                continue
        if case == WRITTEN:
            return Check(failure=self.write())
        from bakeoff.report.escape import plain
        from bakeoff.report.gate import failure, figures

        cases = {f"{method}-{metric}": (method, metric) for method in self.methods for metric in self.metrics}
        method, metric = cases[case]
        gate = self.gate()
        if method in gate.refusals:
            return Check(plain(f"{method}: {gate.refusals[method]}"), {"verdict": "refused"})
        verdict = gate.verdict(method, metric)
        assert verdict is not None
        red = verdict in gate.failures(self.strict)
        return Check(failure(gate, verdict, self.remedy) if red else "", figures(gate, verdict))

    def gate(self) -> Gate:
        """The verdicts on what this session finished."""
        if self.judged is None:
            dead = {name: f"{death.cause} (during {death.phase})" for name, death in self.session.deaths.items()}
            settings = self.session.plan.settings
            self.judged = judge(
                self.measured(),
                self.accepted,
                tolerance=settings.gate.tolerance,
                alpha=settings.gate.alpha,
                asked=self.methods,
                dead=dead,
                baseline=shown(self.path),
                remedy=f"to accept what is measured now, type {self.remedy}",
                unscored="; ".join(self.notes()),
                metrics=self.metrics,
                lower=[metric.name for metric in self.session.metrics if metric.better == "lower"],
            )
        return self.judged

    def measured(self) -> baseline.Record | None:
        """What this session finished, as a baseline would hold it."""
        results = self.session.results
        found = {method: results[method] for method in self.methods if method in results}
        if not found:
            return None
        first = next(iter(found.values()))[0]
        others = [metric for metric in self.session.metrics if metric.name in self.metrics]
        return baseline.of_runs(
            self.session.plan.settings.preset,
            found,
            self.session.store.predictions(first.fingerprint),
            self.session.beside(found, others),
        )

    def notes(self) -> list[str]:
        """What a reader of the scores must know, each once."""
        runs = (run for method in self.methods for run in self.session.results.get(method, ()))
        return list(dict.fromkeys(note for run in runs for note in run.notes))

    def write(self) -> str:
        """Accepts what was measured; returns why the session fails all the same."""
        from bakeoff.core.files import replace
        from bakeoff.report.results_json import render

        if self.session.deaths:
            return f"no baseline was written: {', '.join(self.session.deaths)} died; mend it and type {self.remedy}"
        measured = self.measured()
        assert measured is not None
        if (notes := self.notes()) and all(map(zeros, measured.methods.values())):
            return f"no baseline was written: every score is 0: {'; '.join(notes)}"
        try:
            with self.session.store.computing():
                merged = baseline.merge(baseline.read(self.path), measured)
                replace(self.path, render(baseline.content(merged)).encode())
        except OSError as error:
            return f"{self.path}: the baseline can't be written: {error.strerror}; type --baseline FILE"
        except UsageError as error:
            return str(error)
        methods = ", ".join(f"{name} ({len(found.seeds)} seeds)" for name, found in measured.methods.items())
        return (
            f"baseline written: {shown(self.path)}: {methods}. This session fails once, so that nobody accepts scores "
            "unseen: read the diff, commit the file, and run again with --gate instead of --update-baseline"
        )

    def report(self, folder: Path) -> str | None:
        """The session's report with the gate's table, and comment.md; on GitHub also the step summary and the
        annotations."""
        if self.update:
            return self.session.report(folder)
        self.session.gather()
        self.judged = None
        gate = self.gate()
        text = self.session.report(folder, gate)
        from bakeoff.core.files import replace
        from bakeoff.report.gate import annotations

        comment = self.comment(gate)
        replace(folder / "comment.md", comment.encode())
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with open(summary, "a", encoding="utf-8") as file:
                file.write(comment + "\n")
        if os.environ.get("GITHUB_ACTIONS") == "true":
            text = "\n".join([text or "", *annotations(gate, self.strict)])
        return text

    def comment(self, gate: Gate) -> str:
        """What a pull request is told."""
        from bakeoff.report.exports import comment

        measured, found = self.measured(), []
        if measured and self.accepted:
            runs = {name: self.session.results[name][0].fingerprint for name in measured.methods}
            written = {name: self.session.store.predictions(run) for name, run in runs.items()}
            found = comment.losses(gate, measured, self.accepted, written)
        preset = self.session.plan.settings.preset
        return comment.render(preset, gate, self.strict, found, comment.link_here())


def shown(path: Path) -> str:
    """`path` from here where it lies below, else in full."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
