"""reports/calibration/report.md and its plots, from figures that lab.calibration computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bakeoff.report.figures import ROUGE
from bakeoff.report.table import text_table

COLOURS = ("#0072B2", "#D55E00", "#009E73")
PLOTS = ("seeds", "alarms", "power")


@dataclass(frozen=True)
class Found:
    """Everything that the report shows; see lab.calibration."""

    kept: Mapping[str, Any]
    fits: Mapping[str, Any]
    fresh: Mapping[tuple, Any]
    """Rates by (metric, level, seeds)."""
    own: Mapping[tuple, Any]
    """Rates by (metric, seeds)."""
    power: Mapping[tuple, Any]
    """By (metric, documents, seeds)."""
    agreement: Sequence[tuple[float, ...]]


def write(found: Found, folder: Path) -> None:
    """Writes report.md and its plots."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in zip(PLOTS, (seeds(found), alarms(found), power(found)), strict=True):
        figure.savefig(folder / f"{name}.png", dpi=100, metadata={"Software": None})
    (folder / "report.md").write_text(page(found), encoding="utf-8")


def page(found: Found) -> str:
    """The whole report."""
    kept = found.kept
    documents = len(kept["document_ids"])
    parts = [
        "# Calibration of the verdicts",
        f"The model was fitted to {len(kept['seeds'])} real seeds of {kept['method']} on the preset {kept['preset']} "
        f"({kept['model']}, {kept['task']}, {documents} test documents), kept in bench/baselines. "
        "All figures are F1 x 100 or percent. `make calibrate` writes this page again from the kept scores; "
        "`python -m lab.calibration.seeds` trains them again.",
        "## Variance components",
        components(found),
        "Brackets hold the 95 % interval, which is exact for normal scores (F distribution of MS_seed / MS_res).",
        "![Mean of every seed](seeds.png)",
        "## False alarms at alpha 0.05",
        "Both sides are the same method, so every p below 0.05 is a false alarm. For the fresh rows, seeds and "
        f"documents are simulated from the components, {documents} documents, with the fitted deviation between seeds "
        "and with the upper bound of its interval. For the own rows, the real seeds are split into two random groups "
        "on bootstrap draws of the real documents; the rounds share ten seeds, so their interval covers the rounds and "
        "not other seeds.",
        false_alarms(found),
        fails(found),
        "![False alarms](alarms.png)",
        "## Coverage",
        "The 95 % interval holds the true difference in all rounds without a false alarm: "
        + coverage(found),
        "## Power",
        "A cell holds the drop that is found in 80 % of comparisons (p below 0.05, no tolerance) against five accepted "
        "seeds. Brackets hold the mean of what the gate prints as the smallest drop; one comparison estimates its "
        "noise from few seeds and may print more or less.",
        power_table(found),
        said(found),
        "![Power](power.png)",
        "## Documents only",
        "The table compares two real seeds on ROUGE-L: the paired t of a comparison whose variance between seeds is "
        "not known, beside SciPy's permutation_test and bootstrap on the same documents.",
        agreement(found),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def points(f1: float) -> str:
    """F1 x 100, two decimals."""
    return f"{100 * f1:.2f}"


def components(found: Found) -> str:
    """Standard deviations by metric."""
    rows = [
        [label, points(fit.document), points(fit.residual),
         f"{points(fit.seed)} [{points(fit.seed_low)}, {points(fit.seed_high)}]",
         f"{1e4 * fit.variance.ms_seed:.1f}", f"{1e4 * fit.variance.ms_res:.1f}", str(fit.variance.df)]
        for metric, label in ROUGE.items() for fit in [found.fits[metric]]
    ]  # fmt: skip
    return text_table(["metric", "SD documents", "SD residual", "SD seeds", "MS_seed", "MS_res", "df"], rows)


def rate(one: Any) -> str:
    """`4.2 % [3.4, 5.2]`."""
    low, high = one.bounds
    return f"{100 * one.share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def pairs(found: Found) -> list[tuple[int, int]]:
    """The numbers of seeds a side that were tried."""
    return list(dict.fromkeys(seeds for _, seeds in found.own))


def false_alarms(found: Found) -> str:
    """Rates by metric and kind, one column a number of seeds."""
    rows = []
    for metric, label in ROUGE.items():
        for level, words in (("seed", "fresh, fitted"), ("seed_high", "fresh, upper bound")):
            rows.append([f"{label}, {words}", *(rate(found.fresh[metric, level, each]) for each in pairs(found))])
        rows.append([f"{label}, own", *(rate(found.own[metric, each]) for each in pairs(found))])
    return text_table(["scores", *(f"{a} against {b}" for a, b in pairs(found))], rows)


def fails(found: Found) -> str:
    """Which intervals do not reach down to 5 %."""
    every = [*found.fresh.values(), *found.own.values()]
    above = sum(one.bounds[0] > 0.05 for one in every)
    return f"Intervals that reach down to 5 % or below: {len(every) - above} of {len(every)}."


def coverage(found: Found) -> str:
    """The range over all fresh cells."""
    held = [100 * (1 - one.share) for one in found.fresh.values()]
    return f"{min(held):.1f} to {max(held):.1f} % over the {len(held)} fresh cells above."


def power_table(found: Found) -> str:
    """The drop found in 80 %, by metric, documents and seeds."""
    documents = list(dict.fromkeys(key[1] for key in found.power))
    counts = list(dict.fromkeys(key[2] for key in found.power))
    rows = []
    for metric, label in ROUGE.items():
        for number in documents:
            cells = [found.power[metric, number, each] for each in counts]
            shown = [f"{points(one.found)} ({points(one.said)})" for one in cells]
            rows.append([f"{label}, {number:,} documents", *shown])
    return text_table(["scores", *(f"{each} {'seed' if each == 1 else 'seeds'}" for each in counts)], rows)


def said(found: Found) -> str:
    """How far the gate's word is from what was found, and the case of 400 documents and 3 seeds."""
    off = max(abs(one.said / one.found - 1) for one in found.power.values())
    share = found.power["rougeL", 400, 3].share(0.03)
    return (
        f"The gate's smallest drop is at most {100 * off:.0f} % away from the drop found in 80 %. "
        f"At 400 documents and 3 seeds a drop of 3 points of ROUGE-L is found in {100 * share:.0f} % of cases."
    )


def agreement(found: Found) -> str:
    """Two tests and two intervals side by side."""
    rows = [
        [points(difference), f"{p:.3f}", f"{permuted:.3f}", f"[{points(low)}, {points(high)}]",
         f"[{points(b_low)}, {points(b_high)}]"]
        for difference, p, permuted, low, high, b_low, b_high in found.agreement
    ]  # fmt: skip
    return text_table(["difference", "p", "p, permutation", "95 % interval", "bootstrap"], rows)


def seeds(found: Found) -> Figure:
    """One dot a seed, its mean over the documents."""
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    for ax, (metric, label) in zip(figure.subplots(1, 3), ROUGE.items(), strict=True):
        means = 100 * np.array(found.kept["scores"][metric]).mean(axis=1)
        ax.plot(means, np.arange(len(means)), "o", color=COLOURS[0])
        ax.axvline(means.mean(), color="grey", lw=1)
        ax.set_yticks(range(len(means)), [str(seed) for seed in found.kept["seeds"]])
        ax.set_xlabel(f"{label} F1 x 100")
        ax.grid(alpha=0.3)
    figure.supylabel("seed", fontsize=10)
    return figure


def alarms(found: Found) -> Figure:
    """Rates with their intervals, against the line at 5 %."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    kinds = ("fresh, fitted", "fresh, upper bound", "own seeds")
    for ax, (metric, label) in zip(figure.subplots(1, 3, sharey=True), ROUGE.items(), strict=True):
        for place, kind in enumerate(kinds):
            for number, each in enumerate(pairs(found)):
                one = found.own[metric, each] if place == 2 else found.fresh[metric, ("seed", "seed_high")[place], each]
                x = number + 0.2 * (place - 1)
                ax.plot([x, x], [100 * bound for bound in one.bounds], color=COLOURS[place], lw=1.5)
                ax.plot(x, 100 * one.share, "os^"[place], color=COLOURS[place], label=None if number else kind)
        ax.axhline(5, color="grey", lw=1, ls="--")
        ax.set_xticks(range(len(pairs(found))), [f"{a} v {b}" for a, b in pairs(found)])
        ax.set_xlabel(f"seeds a side, {label}")
    figure.axes[0].set_ylabel("false alarms, %")
    figure.axes[0].set_ylim(bottom=0)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3)
    return figure


def power(found: Found) -> Figure:
    """Share of comparisons that find a drop of ROUGE-L."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    documents = list(dict.fromkeys(key[1] for key in found.power))
    counts = list(dict.fromkeys(key[2] for key in found.power))
    drops = np.linspace(0, 0.08, 161)
    for ax, number in zip(figure.subplots(1, len(documents), sharey=True), documents, strict=True):
        for place, each in enumerate(counts):
            one = found.power["rougeL", number, each]
            ax.plot(100 * drops, [100 * one.share(drop) for drop in drops], color=COLOURS[place],
                    ls=("-", "--", ":")[place], label=f"{each} {'seed' if each == 1 else 'seeds'}")  # fmt: skip
        ax.axhline(80, color="grey", lw=1)
        ax.set_xlabel(f"true drop, ROUGE-L, {number:,} documents")
        ax.grid(alpha=0.3)
    figure.axes[0].set_ylabel("found, %")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(counts))
    return figure
