"""LoRA's rank: quality at equal tuning, the rank of full fine-tuning's update, and the subspaces of two ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from bakeoff.config.presets import blame
from bakeoff.core.errors import UsageError, nearest
from bakeoff.report.comparison import compare
from bakeoff.report.figures import ROUGE, listing, nats, number, p_value
from bakeoff.report.table import text_table
from bakeoff.report.tuning.record import lowest
from lab.studies import rank_plots, trials, verdicts
from lab.studies.page import Page, Plot
from lab.studies.rank_figures import FULL, Study, held_at, overlaps, shown_ranks, spectrum
from lab.studies.running import Runs
from lab.studies.subspaces import chance

QUESTION = (
    "Which rank does LoRA need? Each rank and full fine-tuning were tuned alike, then trained with every seed. The "
    "singular values of full fine-tuning's update say how much of it a matrix of low rank could hold, and the "
    "similarity of subspaces says whether LoRA finds the same directions at two ranks (Hu et al. 2021, section 7.2)."
)
SHOWN = (1, 2, 4, 8, 16, 32, 64)
"""Ranks and dimensions that tables show."""


@dataclass(frozen=True)
class Asked:
    """`[study]` of this study."""

    rates: tuple[float, ...] = (1e-3, 4e-3, 1.6e-2)
    """Learning rates that are tried for every rank on the validation split."""
    full_rates: tuple[float, ...] = (5e-5, 2e-4, 8e-4)
    """The same for full fine-tuning: as many as `rates`."""
    subspaces: tuple[str, ...] = ()
    """The two rows whose subspaces are compared; empty: those of the two highest ranks."""


def study(runs: Runs) -> Page:
    """Makes the study's runs; returns its report."""
    asked = runs.asked(Asked)
    rows = runs.rows("lora")
    everyone = [*rows, FULL]
    checked(runs, asked, rows)
    runs.plan(everyone)  # what is refused is refused before the first trial
    found_trials = runs.tune({**dict.fromkeys(rows, asked.rates), FULL: asked.full_rates})
    session = runs.plan(everyone, trials.changes(found_trials))
    found = runs.results(session, [*everyone, "zero-shot"])
    compared = compare(runs.settings, found)
    ranks = {row: int(found[row][0].spec["hyperparameters"]["rank"]) for row in rows}
    spectra = [spectrum(runs, run) for run in found[FULL]]
    two = sorted(asked.subspaces or rows, key=ranks.__getitem__)[-2:]
    overlap = overlaps(runs, found[two[0]], found[two[1]]) if len(two) == 2 else None
    return page(runs, Study(compared, found, found_trials, ranks, spectra, two, overlap))


def checked(runs: Runs, asked: Asked, rows: Sequence[str]) -> None:
    """Raises UsageError for a table `[study]` that does not fit the rows of the preset."""
    where = blame(runs.settings, "study")
    if len(asked.full_rates) != len(asked.rates):
        raise UsageError(
            f"{where}: study.full_rates: expected {len(asked.rates)} learning rates, as many as study.rates; "
            f"found {len(asked.full_rates)}"
        )
    for row in asked.subspaces:
        if row not in rows:
            raise UsageError(f"{where}: study.subspaces: {row!r} is no rank of this study; {nearest(row, rows)}")
    if len(set(asked.subspaces)) not in (0, 2):
        raise UsageError(f"{where}: study.subspaces: expected two rows, as [{rows[0]!r}, {rows[-1]!r}]")


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
        Plot("quality", rank_plots.quality(study), "Validation loss and ROUGE over LoRA's rank"),
        "Trials on the validation split with the first seed, as `bakeoff tune` makes them. A grid whose best rate is "
        "at its edge grows, and then every row gets one trial more.",
        tuned(study),
        "The table says which share of the squared Frobenius norm of full fine-tuning's update rank r holds, if each "
        "matrix of each layer is replaced by its best approximation of that rank: the mean over seeds, then the range.",
        held_table(study),
        Plot(
            "spectrum",
            rank_plots.spectrum(study),
            "Share of full fine-tuning's update that rank r holds",
        ),
    ]
    if study.overlap:
        low, high = study.two
        made.figures += [
            f"Similarity phi(i, j) of the first i directions of {low} and the first j of {high}, the mean over layers "
            "and seeds: 1 means that the smaller subspace lies in the larger one. Directions are right singular "
            "vectors, those of the largest singular values first. Chance is that of two random subspaces.",
            overlap_table(study),
            Plot("overlap", rank_plots.overlap(study), f"Similarity of the subspaces of {low} and {high}"),
        ]
    made.method += method(study)
    made.limits += limits(runs, study)
    made.varied = {"ranks": ", ".join(map(str, study.ranks.values())), "trials of each row": trials.each(study.trials)}
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
    """Every trial: a row a learning rate, a column a rank and full fine-tuning; the best in bold."""
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


def held_table(study: Study) -> str:
    """Rank, share of all matrices, share by kind of matrix."""
    kinds = list(study.spectra[0].kinds)
    cells = []
    for rank in (one for one in SHOWN if one <= len(study.spectra[0].shares)):
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
        *trials.edges(study.trials),
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
