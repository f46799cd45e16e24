"""LoRA's rank: quality at equal tuning, the rank of full fine-tuning's update, and the subspaces of two ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from bakeoff.report.comparison import Comparison, compare
from bakeoff.report.figures import ROUGE, listing, nats, number, p_value
from bakeoff.report.plots.drawing import COLOURS, GREY, MARKERS, UNIT
from bakeoff.report.table import text_table
from bakeoff.report.tuning.record import Trial, lowest
from bakeoff.runs.records import RunResult
from lab.studies import verdicts, weights
from lab.studies.page import Page, Plot, canvas, styled
from lab.studies.running import Results, Runs
from lab.studies.subspaces import Floats, chance, directions, energies, row_space, similarity

QUESTION = (
    "Which rank does LoRA need? Each rank was tuned alike, then trained with every seed, beside full fine-tuning. The "
    "singular values of full fine-tuning's update say how much of it a matrix of low rank could hold, and the "
    "similarity of subspaces says whether LoRA finds the same directions at two ranks (Hu et al. 2021, section 7.2)."
)
FULL = "full"
SHOWN = (1, 4, 16, 64)
"""Ranks and dimensions that tables show."""


@dataclass(frozen=True)
class Asked:
    """`[study]` of this study."""

    rates: tuple[float, ...] = (1e-3, 4e-3, 1.6e-2)
    """Learning rates that are tried for every rank on the validation split."""


@dataclass(frozen=True)
class Spectrum:
    """Full fine-tuning's update of one seed."""

    shares: Floats
    """Share of the squared Frobenius norm of all matrices that rank 1, 2, ... holds, each matrix cut to that rank."""
    kinds: Mapping[str, Floats]
    """The same by kind of matrix, as q_proj."""


@dataclass(frozen=True)
class Overlap:
    """Similarity of the subspaces that two rows trained, the mean over layers, by seed."""

    update: Sequence[Floats]
    """phi of the right singular vectors of B A."""
    factor: Sequence[Floats]
    """phi of the right singular vectors of A."""
    width: float
    """Dimensions of the input, the mean over layers."""


def study(runs: Runs) -> Page:
    """Makes the study's runs; returns its report."""
    asked = runs.asked(Asked)
    rows = runs.rows("lora")
    everyone = [*rows, FULL]
    runs.plan(everyone)  # what is refused is refused before the first trial
    trials = runs.tune(rows, asked.rates)
    rates = {row: lowest(ours).settings["learning_rate"] for row, ours in trials.items()}
    session = runs.plan(everyone, [f"methods.{row}.learning_rate={rate!r}" for row, rate in rates.items()])
    found = runs.results(session, [*everyone, "zero-shot"])
    compared = compare(runs.settings, found)
    ranks = {row: int(found[row][0].spec["hyperparameters"]["rank"]) for row in rows}
    spectra = [spectrum(runs, run) for run in found[FULL]]
    two = sorted(rows, key=ranks.__getitem__)[-2:]
    overlap = overlaps(runs, found[two[0]], found[two[1]]) if len(two) == 2 else None
    return page(runs, Study(compared, found, trials, ranks, spectra, two, overlap))


@dataclass(frozen=True)
class Study:
    """Everything that the report shows."""

    compared: Comparison
    found: Results
    trials: Mapping[str, Sequence[Trial]]
    ranks: Mapping[str, int]
    spectra: Sequence[Spectrum]
    two: Sequence[str]
    """The rows with the two highest ranks, the lower first."""
    overlap: Overlap | None

    @property
    def losses(self) -> dict[str, list[float]]:
        """Validation losses of the trained rows, one a seed."""
        return verdicts.losses({name: self.found[name] for name in (*self.ranks, FULL)})


def spectrum(runs: Runs, run: RunResult) -> Spectrum:
    """Of a run of full fine-tuning."""
    base = weights.base_weights(runs.settings, runs.store / "models")
    kinds: dict[str, list[Floats]] = {}
    for name, update in weights.updates(runs.adapter(run), base):
        kinds.setdefault(name.split(".")[-2], []).append(energies(update))
    return Spectrum(shares([one for ours in kinds.values() for one in ours]), {k: shares(v) for k, v in kinds.items()})


def shares(squares: Sequence[Floats]) -> Floats:
    """Share of the sum of all squares that rank 1, 2, ... holds, over matrices that are each cut to that rank."""
    length = max(map(len, squares))
    sums = np.cumsum(np.sum([np.pad(one, (0, length - len(one))) for one in squares], axis=0))
    return np.asarray(sums / sums[-1])


def overlaps(runs: Runs, first: Sequence[RunResult], second: Sequence[RunResult]) -> Overlap:
    """The similarity of two rows' subspaces, seed by seed."""
    update, factor, widths = [], [], []
    for one, other in zip(first, second, strict=True):
        ours, theirs = (weights.factors(runs.adapter(run)) for run in (one, other))
        update.append(np.mean([similarity(directions(*ours[n]), directions(*theirs[n])) for n in ours], axis=0))
        factor.append(np.mean([similarity(row_space(ours[n][0]), row_space(theirs[n][0])) for n in ours], axis=0))
        widths += [a.shape[1] for a, _ in ours.values()]
    return Overlap(update, factor, mean(widths))


def page(runs: Runs, study: Study) -> Page:
    """The report of what was found."""
    compared = study.compared
    everything = [run for ours in study.found.values() for run in ours]
    made = Page(runs.name, QUESTION, runs.settings, everything)
    tests = [verdicts.rouge(compared, metric) for metric in ROUGE]
    loss = verdicts.welch("Validation loss", study.losses)
    made.findings += [sentence for test in (*tests, loss) for sentence in test.sentences()]
    made.findings += [*spectral(study), *overlapping(study)]
    made.figures += [
        "ROUGE is the mean F1 x 100 over test documents and seeds, with its 95 % interval over both. Two trained rows "
        "that share a letter cannot be told apart. The validation loss (nats per label token) is the mean over seeds "
        "± their standard deviation.",
        quality(study, tests, loss),
        Plot("quality", draw_quality(study), "Validation loss and ROUGE over LoRA's rank, beside full fine-tuning"),
        "Trials on the validation split with the first seed, as `bakeoff tune` makes them. A grid whose best rate is at"
        " its edge grows, and then every rank gets one trial more.",
        tuned(study),
        "The table says which share of the squared Frobenius norm of full fine-tuning's update rank r holds, if each "
        "matrix of each layer is replaced by its best approximation of that rank: the mean over seeds, then the range.",
        held_table(study),
        Plot(
            "spectrum", draw_spectrum(study), "Share of full fine-tuning's update that rank r holds, by kind of matrix"
        ),
    ]
    if study.overlap:
        low, high = study.two
        made.figures += [
            f"Similarity phi(i, j) of the first i directions of {low} and the first j of {high}, the mean over layers "
            "and seeds: 1 means that the smaller subspace lies in the larger one. Directions are right singular "
            "vectors, those of the largest singular values first. Chance is that of two random subspaces.",
            overlap_table(study),
            Plot("overlap", draw_overlap(study), f"Similarity of the subspaces of {low} and {high}"),
        ]
    made.method += method(study)
    made.limits += limits(runs, study)
    made.varied = {"ranks": ", ".join(map(str, study.ranks.values())), "trials of each rank": trials_each(study)}
    made.results = results(study)
    return made


def quality(study: Study, tests: Sequence[verdicts.Verdict], loss: verdicts.Verdict) -> str:
    """A row for each rank, full fine-tuning and the untrained model."""
    marks = {metric: test.letters for metric, test in zip(ROUGE, tests, strict=True)}
    losses = study.losses
    cells = []
    for name in (*study.ranks, FULL, "zero-shot"):
        spec = study.found[name][0].spec
        said = verdicts.with_spread(losses.get(name))
        rate = spec["training"].get("learning_rate")
        cells.append([name, f"{rate:g}" if rate else "–", *verdicts.rouge_cells(study.compared, name, marks),
                      " ".join(filter(None, [said, loss.letters.get(name, "")]))])  # fmt: skip
    return text_table(["row", "learning rate", *ROUGE.values(), "validation loss"], cells)


def tuned(study: Study) -> str:
    """Every trial: a row a learning rate, a column a rank; the best in bold."""
    rates = sorted({trial.settings["learning_rate"] for ours in study.trials.values() for trial in ours})
    cells = []
    for rate in rates:
        found = []
        for ours in study.trials.values():
            best = lowest(ours)
            trial = next((one for one in ours if one.settings["learning_rate"] == rate), None)
            said = "–" if trial is None else trial.cause or nats(trial.loss)
            found.append(f"**{said}**" if trial is best else said)
        cells.append([f"{rate:g}", *found])
    return text_table(["learning rate", *study.trials], cells)


def trials_each(study: Study) -> str:
    """How many trials each rank had."""
    return ", ".join(str(count) for count in dict.fromkeys(len(ours) for ours in study.trials.values()))


def held_at(study: Study, rank: int) -> list[float]:
    """Share that a rank holds of full fine-tuning's update, one a seed."""
    return [float(one.shares[min(rank, len(one.shares)) - 1]) for one in study.spectra]


def shown_ranks(study: Study) -> list[int]:
    """The ranks of the study that are below the full one."""
    return [rank for rank in sorted(study.ranks.values()) if rank <= len(study.spectra[0].shares)]


def held_table(study: Study) -> str:
    """Rank, share of all matrices, share by kind of matrix."""
    kinds = list(study.spectra[0].kinds)
    cells = []
    for rank in shown_ranks(study):
        by_kind = [mean(float(one.kinds[k][min(rank, len(one.kinds[k])) - 1]) for one in study.spectra) for k in kinds]
        ours = held_at(study, rank)
        cells.append([str(rank), f"{percent(mean(ours))} [{percent(min(ours))}, {percent(max(ours))}]",
                      *map(percent, by_kind)])  # fmt: skip
    return text_table(["rank", "all matrices", *kinds], cells)


def percent(share: float) -> str:
    """A share with one decimal."""
    return f"{100 * share:.1f} %"


def spectral(study: Study) -> list[str]:
    """What low rank could hold of full fine-tuning's update, in words."""
    held = [f"rank {rank} {percent(mean(held_at(study, rank)))}" for rank in shown_ranks(study)]
    curve = np.mean([one.shares for one in study.spectra], axis=0)
    half, most = (int(np.searchsorted(curve, share)) + 1 for share in (0.5, 0.9))
    return [
        f"Of the squared Frobenius norm of full fine-tuning's update, the best approximation of each matrix holds: "
        f"{listing(held)} (mean over seeds).",
        f"Half of it takes rank {half}, 90 % rank {most}, of {len(curve)}.",
    ]


def overlapping(study: Study) -> list[str]:
    """Whether the top direction of two ranks is more alike than chance, tested over seeds."""
    from scipy import stats

    if study.overlap is None:
        return []
    ours = [float(one[0, 0]) for one in study.overlap.update]
    random = chance(1, 1, round(study.overlap.width))
    low, high = study.two
    said = (
        f"The first direction of {low}'s update and that of {high}'s have a similarity of {mean(ours):.3f} (mean over "
        f"layers and seeds); chance is {random:.3f}"
    )
    if len(ours) < 2 or max(ours) == min(ours):
        return [f"{said}."]
    p = float(stats.ttest_1samp(ours, random, alternative="greater").pvalue)
    word = "is above chance" if p < verdicts.ALPHA else "cannot be told from chance"
    return [f"{said}. It {word} (p {p_value(p)}, t-test over {number(len(ours), 'seed')})."]


def overlap_table(study: Study) -> str:
    """phi(i, i) of the updates and of A, beside chance."""
    assert study.overlap is not None
    size = study.overlap.update[0].shape
    cells = []
    for i in [one for one in SHOWN if one <= min(size)]:
        row = [
            f"{np.mean([phi[i - 1, i - 1] for phi in part]):.3f}"
            for part in (study.overlap.update, study.overlap.factor)
        ]
        cells.append([f"phi({i}, {i})", *row, f"{chance(i, i, round(study.overlap.width)):.3f}"])
    return text_table(["", "updates B A", "factors A", "chance"], cells)


def draw_quality(study: Study) -> Any:
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


def draw_spectrum(study: Study) -> Any:
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


def draw_overlap(study: Study) -> Any:
    """phi(i, j) as two maps, of updates and of A."""
    assert study.overlap is not None
    low, high = study.two
    with styled():
        figure = canvas(9, 3.2)
        for ax, part, title in zip(figure.subplots(1, 2), (study.overlap.update, study.overlap.factor),
                                   ("updates B A", "factors A"), strict=True):  # fmt: skip
            phi = np.mean(part, axis=0)
            image = ax.imshow(phi, origin="lower", aspect="auto", vmin=0, vmax=1, cmap="viridis",
                              extent=(0.5, phi.shape[1] + 0.5, 0.5, phi.shape[0] + 0.5))  # fmt: skip
            ax.grid(False)
            ax.set_xlabel(f"j, directions of {high}")
            ax.set_ylabel(f"i, directions of {low}", fontsize=9)
            ax.set_title(title, fontsize=10)
        figure.colorbar(image, ax=figure.axes, label="phi(i, j)")
    return figure


def method(study: Study) -> list[str]:
    """How the figures were made."""
    return [
        "ROUGE: every two trained rows were tested on the same documents (docs/statistics.md), and p is Holm-corrected "
        "over the pairs of a metric. It covers another draw of documents and of seeds.",
        "Validation loss: Welch's t-test of every two rows over seeds, Holm-corrected. It covers another seed and not "
        "other documents, because a run keeps the mean of the validation split.",
        "Share of rank r: the sum of the r largest squared singular values over the sum of all (Eckart and Young "
        "1936), summed over the matrices of all layers before dividing. The update is the trained weight minus the "
        "base model's.",
        "Similarity: phi(i, j) = ||Ui^T Vj||² / min(i, j) with the Frobenius norm (Hu et al. 2021, arXiv:2106.09685, "
        "section 7.2). The paper takes the right singular vectors of A; the table holds those of the update B A, too, "
        "because A starts at random and most of it may still be that start.",
    ]


def limits(runs: Runs, study: Study) -> list[str]:
    """What the study does not show."""
    task = runs.settings.task
    return [
        f"{number(len(runs.settings.seeds), 'seed')} and {number(len(study.compared.document_ids), 'test document')}: "
        "rows that cannot be told apart here may differ, and a test with more of both may show it.",
        f"One model, one task and {number(task.train, 'training document')}: a task that is further from what the "
        "model has seen may need a higher rank.",
        "The learning rate was tuned on one seed, and alpha was the same for each rank, so the update of a higher rank "
        "is scaled down (alpha / rank).",
        "What a rank holds of full fine-tuning's update is no bound on what LoRA of that rank can learn: LoRA may find "
        "another update that does as well.",
    ]


def results(study: Study) -> dict[str, Any]:
    """What results.json holds."""
    overlap = study.overlap
    return {
        "rows": verdicts.stored(study.found, study.compared),
        "ranks": dict(study.ranks),
        "trials": {row: [{**trial.settings, "validation_loss": trial.validation_loss} for trial in ours]
                   for row, ours in study.trials.items()},
        "share_of_update": {str(rank): held_at(study, rank) for rank in shown_ranks(study)},
        "similarity": overlap and {
            "rows": list(study.two),
            "update": [[round(float(v), 4) for v in np.diagonal(phi)] for phi in overlap.update],
            "factor": [[round(float(v), 4) for v in np.diagonal(phi)] for phi in overlap.factor],
            "width": overlap.width,
        },
    }  # fmt: skip
