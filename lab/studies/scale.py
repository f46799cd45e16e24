"""Soft prompt and LoRA over model sizes, as a share of what full fine-tuning gains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bakeoff.config.presets import blame
from bakeoff.core.errors import UsageError, nearest
from bakeoff.core.validation import check
from bakeoff.report.comparison import Comparison, compare
from bakeoff.report.escape import markdown
from bakeoff.report.figures import MISSING, ROUGE, listing, nats, number
from bakeoff.report.plots.drawing import COLOURS, GREY, MARKERS
from bakeoff.report.table import text_table
from bakeoff.runs.records import RunResult
from bakeoff.session.session import Session
from lab.studies import bases, trials, verdicts
from lab.studies.page import Page, Plot, canvas, styled
from lab.studies.running import Results, Runs
from lab.studies.shares import Bootstrap, Floats, Share, fieller

QUESTION = (
    "Does prompt tuning reach full fine-tuning as models grow (Lester et al. 2021)? Each method's gain over the "
    "untrained model is given as a share of full fine-tuning's gain on the same model. Models that were cut to their "
    "first layers are a control: they are smaller, and they were not trained at that size."
)
FULL, ZERO = "full", "zero-shot"
LOSS = "validation loss"
UNTUNED = (
    "All models have the learning rates of the preset, and none was tuned. A method may do better on a model with "
    "a rate of its own."
)
FIGURES = {LOSS: LOSS, **ROUGE}
"""What a share is taken of, with its label."""


@dataclass(frozen=True)
class Asked:
    """`[study]` of this study."""

    methods: tuple[str, ...] = ("soft-prompt", "lora")
    """What is compared with full fine-tuning."""
    depths: tuple[int, ...] = ()
    """Layers that are kept of the preset's model, from the first on; the whole model follows."""
    packages: tuple[str, ...] = ()
    """Packages of PyPI with another model; one that is not installed is left out, and the report says so."""
    rates: Mapping[str, Any] = field(default_factory=dict)
    """Learning rates by row, as many for each, that are tried on the validation split of every model; empty: the
    preset's own are taken for all models."""


@dataclass(frozen=True)
class Base:
    """What was measured on one model."""

    name: str
    found: Results
    compared: Comparison
    shares: Mapping[tuple[str, str], Share]
    """By method and figure."""
    draws: Mapping[tuple[str, str], Floats]
    """The share in every draw of the bootstrap, by method and metric of ROUGE; without those that are none."""
    trials: trials.Trials
    """By row; empty where nothing was tuned."""

    @property
    def parameters(self) -> int:
        """Of the model, each tensor once."""
        [run] = self.found[FULL][:1]
        assert run.parameters is not None
        return int(run.parameters["requires_grad"]["total"])


def study(runs: Runs) -> Page:
    """Makes the study's runs; returns its report."""
    asked = runs.asked(Asked)
    methods = [*asked.methods, FULL]
    rates = checked(runs, asked, methods)
    cache = runs.store / "models"
    name = runs.settings.model.name
    models = {
        f"{name}, first {depth} layers": str(bases.first_layers(runs.settings, depth, cache)) for depth in asked.depths
    }
    models[name] = ""
    missing = []
    for package in asked.packages:
        if found := bases.from_package(package, cache):
            models[found[0]] = str(found[1])
        else:
            missing.append(package)
    sessions = {label: runs.plan(methods, model=model) for label, model in models.items()}
    measured = []
    for number_, (label, model) in enumerate(models.items()):
        tuned: trials.Trials = {}
        if rates:
            tuned = runs.tune(rates, model)
            sessions[label] = runs.plan(methods, trials.changes(tuned), model)
        measured.append(measure(runs, asked, label, sessions[label], number_, tuned))
    return page(runs, asked, measured, missing)


def checked(runs: Runs, asked: Asked, methods: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The learning rates that are tried, by row. Raises UsageError where a row has none, or fewer than another."""
    where = f"{blame(runs.settings, 'study')}: study.rates"
    found = {name: check(tried, tuple[float, ...], {"above": 0.0}, f"{where}.{name}")
             for name, tried in asked.rates.items()}  # fmt: skip
    if unknown := [name for name in found if name not in methods]:
        raise UsageError(f"{where}: {unknown[0]!r} is not compared; {nearest(unknown[0], methods)}")
    if found and (len(found) < len(methods) or len(set(map(len, found.values()))) > 1):
        raise UsageError(f"{where}: expected as many learning rates for each of {', '.join(methods)}")
    return found


def measure(runs: Runs, asked: Asked, name: str, session: Session, stream: int, tuned: trials.Trials) -> Base:
    """One model's runs and shares; `stream`: a number of its own for the draws of seeds."""
    found = runs.results(session, [*asked.methods, FULL, ZERO])
    compared = compare(runs.settings, found)
    shares, draws = {}, {}
    for method in asked.methods:
        shares[method, LOSS] = fieller(gains(found[method], found), gains(found[FULL], found))
    for metric in ROUGE:
        zero = found[ZERO][0].scores[metric]
        bootstrap = Bootstrap(zero, stream)
        full = [run.scores[metric] for run in found[FULL]]
        reference = bootstrap.gains(full)
        for method in asked.methods:
            scores = [run.scores[metric] for run in found[method]]
            ratios = bootstrap.ratios(scores, reference)
            shares[method, metric] = bootstrap.share(scores, full, ratios)
            if ratios is not None:
                draws[method, metric] = ratios
    return Base(name, found, compared, shares, draws, tuned)


def gains(runs: Sequence[RunResult], found: Results) -> list[float]:
    """By how much each seed lowers the validation loss of the untrained model, nats per label token."""
    before = untrained(found)
    return [before - loss for loss in verdicts.losses({"": runs})[""]]


def untrained(found: Results) -> float:
    """The untrained model's validation loss, which full fine-tuning measures before its first step."""
    return float(found[FULL][0].epochs[0]["validation_loss"])


def page(runs: Runs, asked: Asked, measured: Sequence[Base], missing: Sequence[str]) -> Page:
    """The report of what was found."""
    made = Page(
        runs.name, QUESTION, runs.settings, [r for one in measured for ours in one.found.values() for r in ours]
    )
    made.findings += [sentence for base in measured for sentence in reached(asked, base)]
    made.findings += changes(asked, measured)
    made.findings += [
        f"The package {markdown(one)} is not installed, so its model was not measured." for one in missing
    ]
    made.figures += [
        "Share of full fine-tuning's gain over the untrained model, with its 95 % interval. A dash means that full "
        "fine-tuning's own gain is not above 0 by its interval, so there is nothing to take a share of.",
        share_table(asked, measured),
        Plot("shares", draw(asked, measured), "Share of full fine-tuning's gain over model sizes, by method"),
        "The scores behind the shares. ROUGE is the mean F1 x 100 over test documents and seeds, with its 95 % "
        "interval; the validation loss (nats per label token) is the mean over seeds ± their standard deviation, and "
        "that of zero-shot is the untrained model's on the same prompt.",
        score_table(asked, measured),
    ]
    if asked.rates:
        made.figures += [
            "Trials on the validation split with the first seed, as `bakeoff tune` makes them: each learning rate with "
            "the lowest validation loss that it reached, the best in bold. A grid whose best rate is at its edge "
            "grows, and then every row of that model gets one trial more.",
            trial_table(measured),
        ]
    made.method += [
        "Share: (score of the method - score of zero-shot) / (score of full - score of zero-shot), from means over "
        "seeds. All rows have the same plain prompt.",
        "Validation loss: Fieller's interval (1954) over seeds, its degrees of freedom those of the smaller sample. It "
        "does not cover other documents.",
        "ROUGE: percentile interval of 10,000 draws of documents and seeds (Efron and Tibshirani 1993). All rows share "
        "the documents of a draw, and the seeds of each row are drawn alone. With few seeds such an interval is a "
        "little too narrow.",
        "Two models: the difference of their shares in the same draws of documents. It is called a difference where "
        "its 95 % interval excludes 0, without a correction for the number of comparisons.",
    ]
    task = runs.settings.task
    made.limits += [
        f"{number(len(runs.settings.seeds), 'seed')}, {number(task.test, 'test document')} and "
        f"{number(task.train, 'training document')}: wide intervals, and shares that may differ all the same.",
        *(["The learning rate was tuned on one seed."] if asked.rates else [UNTUNED]),
        *(sentence for one in measured for sentence in trials.edges(one.trials, f" on {markdown(one.name)}")),
        "A model that was cut is no trained small model: its share says what depth does, not what scale does.",
        "All models are below 300 million parameters. The published effect sets in at billions.",
    ]
    made.varied = {"models": "; ".join(f"{one.name} ({one.parameters:,} parameters)" for one in measured)}
    made.results = {
        "models": [
            {"name": one.name, "parameters": one.parameters, "untrained_validation_loss": untrained(one.found),
             "rows": verdicts.stored(one.found, one.compared),
             "shares": {method: {figure: vars(one.shares[method, figure]) for figure in FIGURES}
                        for method in asked.methods},
             "trials": {row: [{**trial.settings, "validation_loss": trial.validation_loss} for trial in ours]
                        for row, ours in one.trials.items()}}
            for one in measured
        ],
        "not_installed": list(missing),
    }  # fmt: skip
    return made


def reached(asked: Asked, base: Base) -> list[str]:
    """What each method reaches on a model, figure by figure, and whether that is all or nothing."""
    said = []
    for method in asked.methods:
        parts = []
        for figure, label in FIGURES.items():
            share = base.shares[method, figure]
            if share.value is not None:
                parts.append(f"{shown(share)} of the gain in {label}{judged(share)}")
        if parts:
            said.append(f"On {markdown(base.name)}, {markdown(method)} reaches {listing(parts)}.")
    if lost := [label for figure, label in FIGURES.items() if base.shares[asked.methods[0], figure].value is None]:
        said.append(
            f"On {markdown(base.name)}, full fine-tuning's gain in {listing(lost)} is not above 0 by its interval."
        )
    return said


def judged(share: Share) -> str:
    """A word on an interval that excludes all of the gain, or that includes nothing of it."""
    if share.low is None or share.high is None:
        return ""
    if share.high < 0:
        return " (worse than untrained)"
    if share.high < 1:
        return " (less than full)" if share.low > 0 else " (less than full, and not told from nothing)"
    if share.low > 1:
        return " (more than full)"
    return " (not told from full)" if share.low > 0 else " (told neither from full nor from nothing)"


def changes(asked: Asked, measured: Sequence[Base]) -> list[str]:
    """Whether a method's share on the other models differs from that on the whole one, for each metric of ROUGE."""
    whole = measured[len(asked.depths)]
    said = []
    for method in asked.methods:
        apart, alike = [], 0
        for base in (one for one in measured if one is not whole):
            for metric, label in ROUGE.items():
                ours, theirs = base.draws.get((method, metric)), whole.draws.get((method, metric))
                if ours is None or theirs is None:
                    continue
                low, high = np.percentile(theirs - ours, [2.5, 97.5])
                if low <= 0 <= high:
                    alike += 1
                else:
                    apart.append(f"{'lower' if low > 0 else 'higher'} in {label} on {markdown(base.name)}")
        if apart or alike:
            rival = markdown(whole.name)
            first = f"The share of {markdown(method)} on other models cannot be told from that on {rival}"
            if apart:
                first = f"The share of {markdown(method)} is {listing(apart)} than on {rival}"
            said.append(f"{first} ({number(len(apart) + alike, 'comparison')} of ROUGE, {len(apart)} told apart).")
    return said


def shown(share: Share) -> str:
    """`73 % [41, 98]`; a dash for none."""
    if share.value is None:
        return MISSING
    bounds = "" if share.low is None or share.high is None else f" [{100 * share.low:.0f}, {100 * share.high:.0f}]"
    return f"{100 * share.value:.0f} %{bounds}"


def share_table(asked: Asked, measured: Sequence[Base]) -> str:
    """A row a model and method."""
    cells = [
        [markdown(one.name), f"{one.parameters / 1e6:.0f} M", markdown(method),
         *(shown(one.shares[method, figure]) for figure in FIGURES)]
        for one in measured for method in asked.methods
    ]  # fmt: skip
    return text_table(["model", "parameters", "method", *FIGURES.values()], cells)


def score_table(asked: Asked, measured: Sequence[Base]) -> str:
    """A row a model and row."""
    none: dict[str, dict[str, str]] = {metric: {} for metric in ROUGE}
    cells = []
    for one in measured:
        losses = verdicts.losses(one.found)
        for name in (ZERO, *asked.methods, FULL):
            loss = nats(untrained(one.found)) if name == ZERO else verdicts.with_spread(losses.get(name))
            cells.append([markdown(one.name), markdown(name), *verdicts.rouge_cells(one.compared, name, none), loss])
    return text_table(["model", "row", *ROUGE.values(), LOSS], cells)


def trial_table(measured: Sequence[Base]) -> str:
    """A row a model and row: `0.001: 2.973, **0.004: 2.924**`."""
    cells = []
    for one in measured:
        for row, best in trials.rates(one.trials).items():
            said = []
            for trial in sorted(one.trials[row], key=lambda trial: trial.settings["learning_rate"]):
                rate = trial.settings["learning_rate"]
                text = f"{rate:g}: {trial.cause or nats(trial.loss)}"
                said.append(f"**{text}**" if rate == best else text)
            cells.append([markdown(one.name), markdown(row), ", ".join(said)])
    return text_table(["model", "row", "validation loss by learning rate"], cells)


def draw(asked: Asked, measured: Sequence[Base]) -> Any:
    """A panel a figure: the share over the parameters of the model, with its interval."""
    cut = measured[: len(asked.depths) + 1]
    with styled():
        figure = canvas(11, 3.4)
        for ax, (key, label) in zip(figure.subplots(1, len(FIGURES)), FIGURES.items(), strict=True):
            for place, method in enumerate(asked.methods):
                colour, shift = COLOURS[place], 1.015 ** (2 * place - 1)
                line = [(one.parameters / 1e6 * shift, one.shares[method, key].value) for one in cut]
                known = [(x, 100 * y) for x, y in line if y is not None]
                ax.plot([x for x, _ in known], [y for _, y in known], color=colour, lw=1)
                for one in measured:
                    share, x = one.shares[method, key], one.parameters / 1e6 * shift
                    if share.value is None:
                        continue
                    ax.plot(x, 100 * share.value, marker=MARKERS[place], ms=6, color=colour,
                            mfc="white" if one not in cut else colour)  # fmt: skip
                    if share.low is not None and share.high is not None:
                        ax.plot([x, x], [100 * share.low, 100 * share.high], color=colour, lw=1)
            ax.axhline(100, color=GREY, ls="--", lw=1)
            ax.axhline(0, color="black", lw=0.8)
            ax.set_ylim(max(-100, ax.get_ylim()[0]), min(250, ax.get_ylim()[1]))
            sizes = sorted(one.parameters / 1e6 for one in measured)
            ax.set_xticks(sizes, [f"{size:.3g}" for size in sizes])
            ax.set_xlabel("parameters, millions")
            ax.set_title(label, fontsize=10)
        figure.axes[0].set_ylabel("share of full fine-tuning's gain, %", fontsize=9)
        for place, method in enumerate(asked.methods):
            figure.axes[0].plot([], [], color=COLOURS[place], marker=MARKERS[place], label=method)
        if others := [one.name for one in measured if one not in cut]:
            figure.axes[0].plot([], [], color=GREY, marker="o", mfc="white", ls="", label=f"hollow: {listing(others)}")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
