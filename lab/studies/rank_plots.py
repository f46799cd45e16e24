"""The plots of the study of LoRA's rank."""

from statistics import mean

import numpy as np
from matplotlib.figure import Figure

from bakeoff.report.figures import ROUGE
from bakeoff.report.plots.drawing import COLOURS, GREY, MARKERS, UNIT
from lab.studies.page import canvas, styled
from lab.studies.rank_figures import FULL, Study, shown_ranks


def quality(study: Study) -> Figure:
    """Two panels over the rank: validation losses, one point a seed, and ROUGE with its interval."""
    with styled():
        figure = canvas(9, 3.6)
        left, right = figure.subplots(1, 2)
        ranks, losses = list(study.ranks.values()), study.losses
        for name, rank in study.ranks.items():
            left.plot([rank] * len(losses[name]), losses[name], ls="", marker="o", ms=4, color=COLOURS[0], alpha=0.5)
        left.plot(ranks, [mean(losses[name]) for name in study.ranks], color=COLOURS[0], label="LoRA, mean over seeds")
        left.axhline(mean(losses[FULL]), color=COLOURS[1], ls="--", label="full fine-tuning")
        left.axhspan(min(losses[FULL]), max(losses[FULL]), color=COLOURS[1], alpha=0.15, lw=0)
        left.set_ylabel(f"validation {UNIT}", fontsize=9)
        rows = {row.name: row for row in study.compared.rows}
        for number_, (metric, label) in enumerate(ROUGE.items()):
            ours = [rows[name].rouge[metric] for name in study.ranks]
            colour, shift = COLOURS[number_], 1.06 ** (number_ - 1)
            places = [rank * shift for rank in ranks]
            right.plot(
                places, [100 * one.mean for one in ours], marker=MARKERS[number_], ms=5, color=colour, label=label
            )
            for place, one in zip(places, ours, strict=True):
                if one.low is not None and one.high is not None:
                    right.plot([place, place], [100 * one.low, 100 * one.high], color=colour, lw=1)
            right.axhline(100 * rows[FULL].rouge[metric].mean, color=colour, ls="--", lw=1)
        right.plot([], [], color=GREY, ls="--", lw=1, label="full fine-tuning")
        right.set_ylabel("ROUGE F1 x 100", fontsize=9)
        for ax in (left, right):
            ax.set_xscale("log", base=2)
            ax.set_xticks(ranks, [str(rank) for rank in ranks])
            ax.minorticks_off()
            ax.set_xlabel("LoRA's rank")
        left.legend(fontsize=8)
        right.legend(fontsize=8, ncols=2, loc="best")
        top = right.get_ylim()[1]
        right.set_ylim(0, top * 1.2)
    return figure


def spectrum(study: Study) -> Figure:
    """The share that rank r holds, by kind of matrix and of all, with the study's ranks marked."""
    with styled():
        figure = canvas(6.5, 3.8)
        ax = figure.subplots()
        for place, kind in enumerate(study.spectra[0].kinds):
            curve = np.mean([one.kinds[kind] for one in study.spectra], axis=0)
            ax.plot(np.arange(1, len(curve) + 1), 100 * curve, lw=1, color=COLOURS[place % len(COLOURS)],
                    ls=("-", ":")[place // len(COLOURS)], label=kind)  # fmt: skip
        curve = np.mean([one.shares for one in study.spectra], axis=0)
        ax.plot(np.arange(1, len(curve) + 1), 100 * curve, lw=2.5, color="black", label="all")
        for rank in shown_ranks(study):
            ax.axvline(rank, color=GREY, lw=0.8, ls="--")
        ax.set_xscale("log", base=2)
        ticks = [2**n for n in range(len(curve).bit_length())]
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.set_xlabel("rank of the approximation (dashed: LoRA's ranks in this study)")
        ax.set_ylabel("share of the squared norm, %", fontsize=9)
        ax.set_ylim(0, 102)
        ax.legend(fontsize=8)
    return figure


def overlap(study: Study) -> Figure:
    """phi(i, j) as two maps, of updates and of A."""
    assert study.overlap is not None
    low, high = study.two
    with styled():
        figure = canvas(9, 3.2)
        parts = (study.overlap.update, study.overlap.factor)
        most = max(float(np.mean(part, axis=0).max()) for part in parts)
        titles = ("updates B A", "factors A")
        for ax, part, title in zip(figure.subplots(1, 2), parts, titles, strict=True):
            phi = np.mean(part, axis=0)
            image = ax.imshow(phi, origin="lower", aspect="auto", vmin=0, vmax=most, cmap="viridis",
                              extent=(0.5, phi.shape[1] + 0.5, 0.5, phi.shape[0] + 0.5))  # fmt: skip
            ax.grid(False)
            ax.set_xlabel(f"j, directions of {high}")
            ax.set_ylabel(f"i, directions of {low}", fontsize=9)
            ax.set_title(title, fontsize=10)
        figure.colorbar(image, ax=figure.axes, label="phi(i, j)")
    return figure
