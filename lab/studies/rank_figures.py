"""What the study of LoRA's rank computes from the weights of its runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from bakeoff.report.comparison import Comparison
from bakeoff.report.tuning.record import Trial
from bakeoff.runs.records import RunResult
from lab.studies import verdicts, weights
from lab.studies.running import Results, Runs
from lab.studies.subspaces import Floats, directions, energies, row_space, similarity

FULL = "full"
"""The row of full fine-tuning."""


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


@dataclass(frozen=True)
class Study:
    """Everything that the report shows."""

    compared: Comparison
    found: Results
    trials: Mapping[str, Sequence[Trial]]
    ranks: Mapping[str, int]
    spectra: Sequence[Spectrum]
    two: Sequence[str]
    """The rows whose subspaces are compared, the lower rank first."""
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


def held_at(study: Study, rank: int) -> list[float]:
    """Share that a rank holds of full fine-tuning's update, one a seed."""
    return [float(one.shares[min(rank, len(one.shares)) - 1]) for one in study.spectra]


def shown_ranks(study: Study) -> list[int]:
    """The ranks of the study that are below the full one."""
    return [rank for rank in sorted(study.ranks.values()) if rank <= len(study.spectra[0].shares)]
