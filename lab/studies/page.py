"""A study's report: reports/studies/NAME/report.md for people, results.json for programs, plots."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from bakeoff.config.schema import Settings, plain
from bakeoff.core.errors import UsageError
from bakeoff.core.files import replace
from bakeoff.report import results_json
from bakeoff.report.escape import markdown
from bakeoff.report.figures import number
from bakeoff.report.plots.drawing import STYLE, save
from bakeoff.report.table import text_table
from bakeoff.runs.records import RunResult

SCHEMA = 1


@dataclass(frozen=True)
class Plot:
    """A picture of the report."""

    name: str
    """Of its file, without .png."""
    figure: Figure
    caption: str
    """What it shows, for those who can't see it."""


@dataclass
class Page:
    """What a study found, in the order in which it is read."""

    name: str
    """Of the study."""
    question: str
    settings: Settings
    runs: Sequence[RunResult]
    """Every run that the figures come from."""
    findings: list[str] = field(default_factory=list)
    """Sentences that are computed from tests and figures."""
    figures: list[str | Plot] = field(default_factory=list)
    """Paragraphs, tables and plots, in order."""
    method: list[str] = field(default_factory=list)
    """How figures were computed, with the sources of formulas."""
    limits: list[str] = field(default_factory=list)
    """What the study does not show."""
    results: dict[str, Any] = field(default_factory=dict)
    """What results.json holds beside the settings."""
    varied: dict[str, str] = field(default_factory=dict)
    """What differs between the runs, for the table of what was run."""
    training_documents: str = ""
    """How many training documents the runs had, where it is not what the settings say."""
    epochs: str = ""
    """How many epochs they made, where it is not what the settings say."""
    at_once: int = 1
    """How many runs were made at a time."""

    def write(self, folder: Path) -> Path:
        """Writes report, results and plots into `folder`; returns the report's path. Raises UsageError."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Glyph .* missing")
                for plot in self.plots():
                    save(plot.figure, folder / "plots" / f"{plot.name}.png", plot.caption)
            replace(folder / "results.json", results_json.render(self.content()).encode())
            replace(folder / "report.md", self.render().encode())
        except OSError as error:
            raise UsageError(f"{folder}: the report can't be written: {error.strerror}") from None
        return folder / "report.md"

    def plots(self) -> list[Plot]:
        """The pictures among the figures."""
        return [part for part in self.figures if isinstance(part, Plot)]

    def content(self) -> dict[str, Any]:
        """What results.json holds; a figure that was not measured is None."""
        kept = {key: value for key, value in plain(self.settings).items() if key not in ("preset", "source")}
        return results_json.finite(
            {"schema": SCHEMA, "study": self.name, "question": self.question, "settings": kept,
             "findings": self.findings, **self.results, "environment": self.environment(),
             "runs": [run.fingerprint for run in self.runs]}
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        """Processor, precision, threads and versions of the runs."""
        found: dict[str, dict[str, None]] = {}
        for run in self.runs:
            for key, value in {**run.environment, **run.spec["machine"]}.items():
                if value not in ("", None):
                    found.setdefault(key, {})[str(value)] = None
        return {key: "; ".join(values) for key, values in sorted(found.items())}

    def render(self) -> str:
        """The whole page."""
        shown = [
            f"![{markdown(part.caption)}](plots/{part.name}.png)" if isinstance(part, Plot) else part
            for part in self.figures
        ]
        parts = [
            f"# Study: {markdown(self.name)}",
            self.question,
            *section("Findings", [listed(self.findings)] if self.findings else []),
            *section("Figures", shown),
            "## What was run",
            text_table(["setting", "value"], [[markdown(key), markdown(value)] for key, value in self.asked().items()]),
            *section("How it was computed", [listed(self.method)] if self.method else []),
            *section("What it does not show", [listed(self.limits)] if self.limits else []),
        ]
        return "\n\n".join(parts) + "\n"

    def asked(self) -> dict[str, str]:
        """What was run, and on what."""
        settings, environment = self.settings, self.environment()
        task, recipe = settings.task, settings.training
        training = self.training_documents or str(task.train or "all")
        documents = f"training {training}; validation {task.validation or 'all'}; test {task.test or 'all'}"
        said = {
            "command": f"python -m bakeoff study {self.name}",
            "base model": settings.model.name,
            "task": task.name,
            "documents": documents,
            "limits": f"{task.max_input_tokens} input tokens, {task.max_target_tokens} target tokens",
            "recipe": f"AdamW, {self.epochs or number(recipe.epochs, 'epoch')}, "
            f"{number(recipe.batch_size, 'document')} a step, {recipe.schedule} schedule, "
            f"warm-up {recipe.warmup:g}, gradient clipping {recipe.gradient_clip:g}",
            "learning rates": self.rates(),
            "seeds": ", ".join(map(str, settings.seeds)),
            **self.varied,
            "runs": self.made(),
            "processor": environment.get("processor", ""),
            "precision": environment.get("precision", ""),
        }
        return {key: value for key, value in said.items() if value}

    def made(self) -> str:
        """How many runs there are, and the minutes of all added."""
        minutes = f"{sum(sum(run.seconds.values()) for run in self.runs) / 60:.0f} min"
        beside = f", {self.at_once} at a time" if self.at_once > 1 else ""
        return f"{len(self.runs)}{beside}, which took {minutes}{' added up' * bool(beside)}"

    def rates(self) -> str:
        """The learning rates of each method."""
        found: dict[str, dict[str, None]] = {}
        for run in self.runs:
            if rate := run.spec["training"].get("learning_rate"):
                found.setdefault(run.spec["base"], {})[f"{rate:g}"] = None
        return "; ".join(f"{name} {', '.join(rates)}" for name, rates in found.items())

    def summary(self) -> str:
        """The findings for a terminal."""
        return "\n".join([f"study {self.name}", *(f"- {sentence}" for sentence in self.findings)])


def section(title: str, parts: Sequence[str]) -> list[str]:
    """A heading and what stands below it; nothing where that is empty."""
    return [f"## {title}", *parts] if parts else []


def listed(sentences: Sequence[str]) -> str:
    """Sentences as a list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def canvas(width: float, height: float) -> Figure:
    """An empty figure, inches; what is drawn on it inside `styled()` has the style of Bakeoff's plots."""
    return Figure(figsize=(width, height), layout="constrained")


def styled() -> Any:
    """A context in which Matplotlib draws as Bakeoff's plots are drawn."""
    return matplotlib.rc_context(STYLE)
