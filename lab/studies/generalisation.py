"""What low rank does to generalisation: gap of training and validation loss, and forgetting, over training sizes."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from bakeoff.core.errors import UsageError
from bakeoff.report.escape import markdown
from bakeoff.report.figures import MISSING, listing, number, p_value
from bakeoff.report.plots.drawing import COLOURS, MARKERS
from bakeoff.report.table import text_table
from bakeoff.runs.records import RunResult
from bakeoff.stats.intervals import holm
from bakeoff.stats.pairs import ALPHA
from lab.studies import verdicts
from lab.studies.evaluation import Losses, losses
from lab.studies.page import Page, Plot, canvas, styled
from lab.studies.running import Runs

QUESTION = (
    "Does a method that trains fewer parameters generalise better, and forget less? Each method was trained on "
    "training sets of several sizes, for as many steps. The gap is the loss on validation documents minus that on the "
    "training documents. "
    "Forgetting is how much the cross-entropy of other text (introductions of papers) rises by training."
)


@dataclass(frozen=True)
class Asked:
    """`[study]` of this study."""

    methods: tuple[str, ...] = ("lora", "full", "last-layer")
    """What is compared."""
    sizes: tuple[int, ...] = (10, 33, 100)
    """Numbers of training documents."""
    passes: int = 100
    """Documents that a run sees, over all its epochs: a smaller training set is seen more often."""

    def epochs(self, size: int) -> int:
        """Epochs that come nearest to `passes` documents, at least one."""
        return max(1, round(self.passes / size))


@dataclass(frozen=True)
class Measured:
    """A run and its losses under the weights that it kept."""

    run: RunResult
    losses: Losses


@dataclass(frozen=True)
class Figure:
    """A figure of a run."""

    label: str
    of: Callable[[Measured], float]
    unit: str = "nats per label token"


TRAINING = Figure("training loss", lambda one: one.losses["training"])
VALIDATION = Figure("validation loss", lambda one: one.losses["validation"])
GAP = Figure("gap", lambda one: one.losses["validation"] - one.losses["training"])
RISE = Figure("forgetting", lambda one: one.run.forgetting["after"] - one.run.forgetting["before"], "nats per token")
APART = Figure("KL divergence", lambda one: one.run.forgetting["divergence"], "nats per token")
FIGURES = (TRAINING, VALIDATION, GAP, RISE, APART)
TESTED = (GAP, RISE)

Cells = Mapping[tuple[str, int], Sequence[Measured]]
"""Runs by method and training size, one a seed."""


def study(runs: Runs) -> Page:
    """Makes the study's runs; returns its report."""
    asked = runs.asked(Asked)
    if not runs.settings.measure.forgetting:
        raise UsageError(f"{runs.settings.source}: study generalisation needs measure.forgetting = 8, or more texts")
    if len(asked.sizes) < 2 or any(size < 1 for size in asked.sizes):
        raise UsageError(f"{runs.settings.source}: study.sizes needs two numbers of documents or more, each at least 1")
    sessions = {
        size: runs.plan(asked.methods, [f"task.train={size}", f"training.epochs={asked.epochs(size)}"])
        for size in asked.sizes
    }
    found = {size: runs.results(session, asked.methods) for size, session in sessions.items()}
    store = next(iter(sessions.values())).store
    cells = {
        (name, size): [Measured(run, losses(run, store)) for run in found[size][name]]
        for name in asked.methods for size in asked.sizes
    }  # fmt: skip
    return page(runs, asked, cells)


def page(runs: Runs, asked: Asked, cells: Cells) -> Page:
    """The report of what was found."""
    made = Page(runs.name, QUESTION, runs.settings, [one.run for ours in cells.values() for one in ours])
    made.findings += [*trends(asked, cells), *between(asked, cells)]
    trained = {name: trainable(cells[name, asked.sizes[0]][0].run) for name in asked.methods}
    made.figures += [
        "Losses and the gap are in nats per label token, forgetting and KL divergence in nats per token: the mean over "
        "seeds ± their standard deviation.",
        table(asked, cells),
        Plot("sizes", draw(asked, cells), "Gap, validation loss and forgetting over the training size, by method"),
        "Trained parameters: " + listing([f"{markdown(name)} {count:,}" for name, count in trained.items()]) + ".",
    ]
    made.method += [
        "Losses: the cross-entropy of the reference summaries of all training and all validation documents of a run. "
        "Both are measured after training, under the weights of the epoch with the lowest validation loss.",
        "Forgetting: cross-entropy of other text by the kept weights minus that by the base model. KL divergence: of "
        "the kept from the base model on test prompts.",
        "Over sizes: a line through all runs of a method, the figure on log10 of the size (ordinary least squares), "
        "with Student's t-test of its slope, Holm-corrected over methods. Between methods: Welch's t-test over seeds "
        "at each size, Holm-corrected over all pairs and sizes. They cover another seed and not other documents.",
    ]
    made.limits += [
        f"{number(len(runs.settings.seeds), 'seed')} for each method and size: what cannot be told apart may differ.",
        f"Every run saw about {number(asked.passes, 'document')}, so the sizes differ in how often each document was "
        "seen and not in steps. Trained for as many epochs as a small set, a large one may do better.",
        "A run keeps the epoch with the lowest validation loss, so its gap is that of a run that was ended in time. "
        "One epoch leaves nothing to choose from.",
        "Learning rates are those of the preset quick, which were tuned for 100 documents. A gap between methods may "
        "come from a learning rate as well as from the number of trained parameters.",
        "The methods differ in more than the number of trained parameters: last-layer trains no layer below the head.",
    ]
    made.training_documents = ", ".join(map(str, asked.sizes))
    made.epochs = ", ".join(map(str, [asked.epochs(size) for size in asked.sizes])) + " epochs"
    made.results = {
        "methods": list(asked.methods),
        "sizes": list(asked.sizes),
        "cells": [
            {"method": name, "train": size, "seeds": [one.run.spec["seed"] for one in ours],
             **{figure.label.replace(" ", "_"): [figure.of(one) for one in ours] for figure in FIGURES}}
            for (name, size), ours in cells.items()
        ],
        "trained_parameters": trained,
    }  # fmt: skip
    return made


def trainable(run: RunResult) -> int:
    """Trained parameters of a run."""
    assert run.parameters is not None
    return int(run.parameters["requires_grad"]["trainable"])


@dataclass(frozen=True)
class Slope:
    """How a figure changes when the training set grows tenfold."""

    value: float
    p: float
    """Two-sided, of no change; not yet corrected."""


def slope(sizes: Sequence[int], values: Sequence[float]) -> Slope | None:
    """Of values on log10 of sizes, one of each a run; None where fewer than three runs leave nothing to test."""
    from scipy import stats

    if len(values) < 3 or len(set(sizes)) < 2:
        return None
    found = stats.linregress([math.log10(size) for size in sizes], values)
    return Slope(float(found.slope), float(found.pvalue))


def trends(asked: Asked, cells: Cells) -> list[str]:
    """How each tested figure changes with the size, a sentence a figure and method."""
    said = []
    for figure in TESTED:
        found = {}
        for name in asked.methods:
            points = [(size, figure.of(run)) for size in asked.sizes for run in cells[name, size]]
            if line := slope([size for size, _ in points], [value for _, value in points]):
                found[name] = line
        corrected = holm([line.p for line in found.values()])
        for (name, line), p in zip(found.items(), corrected, strict=True):
            change = f"{line.value:+.3f} {figure.unit} for ten times the documents (p {p_value(p)})"
            verb = ("falls" if line.value < 0 else "rises") if p < ALPHA else "shows no trend"
            said.append(f"{figure.label.capitalize()} of {markdown(name)} {verb} with the training size: {change}.")
    return said


def between(asked: Asked, cells: Cells) -> list[str]:
    """Which methods differ in a tested figure, size by size, corrected over all pairs and sizes."""
    said = []
    for figure in TESTED:
        couples = [(a, b, size) for size in asked.sizes for a, b in itertools.combinations(asked.methods, 2)]
        values = {key: [figure.of(run) for run in ours] for key, ours in cells.items()}
        if not couples or any(len(ours) < 2 for ours in values.values()):
            continue
        ps = holm([verdicts.welch_p(values[a, size], values[b, size]) for a, b, size in couples])
        for size in asked.sizes:
            ours = {(a, b): p for (a, b, at), p in zip(couples, ps, strict=True) if at == size}
            means = {name: mean(values[name, size]) for name in asked.methods}
            label = f"{figure.label.capitalize()}, {number(size, 'document')}"
            said += verdicts.Verdict(label, means, ours, higher=False).sentences()
    return said


def table(asked: Asked, cells: Cells) -> str:
    """A row a method and size."""
    rows = []
    for name in asked.methods:
        for size in asked.sizes:
            ours = cells[name, size]
            rows.append([markdown(name), str(size), *(verdicts.with_spread([one.of(run) for run in ours])
                                                     for one in FIGURES)])  # fmt: skip
    return text_table(["method", "documents", *(figure.label for figure in FIGURES)], rows) or MISSING


def draw(asked: Asked, cells: Cells) -> Any:
    """Three panels over the size: a line a method, a point a seed."""
    with styled():
        figure = canvas(10.5, 3.6)
        for ax, one in zip(figure.subplots(1, 3), (GAP, VALIDATION, RISE), strict=True):
            for place, name in enumerate(asked.methods):
                colour = COLOURS[place % len(COLOURS)]
                at = [size * 1.04 ** (place - 1) for size in asked.sizes]
                values = [[one.of(run) for run in cells[name, size]] for size in asked.sizes]
                ax.plot(at, [mean(ours) for ours in values], color=colour, marker=MARKERS[place % len(MARKERS)], ms=5,
                        label=name)  # fmt: skip
                for x, ours in zip(at, values, strict=True):
                    ax.plot([x] * len(ours), ours, ls="", marker=".", color=colour, alpha=0.5)
            ax.set_xscale("log")
            ax.set_xticks(asked.sizes, [str(size) for size in asked.sizes])
            ax.minorticks_off()
            ax.set_xlabel("training documents")
            ax.set_ylabel(f"{one.label}, {one.unit}", fontsize=9)
        figure.axes[0].axhline(0, color="black", lw=0.8)
        figure.axes[2].axhline(0, color="black", lw=0.8)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(asked.methods))
    return figure
