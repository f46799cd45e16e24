"""What a study says of the trials in which it tuned its rows."""

from collections.abc import Mapping, Sequence

from bakeoff.report.tuning.record import Trial, lowest

Trials = Mapping[str, Sequence[Trial]]
"""Trials of learning rates by row."""


def rates(trials: Trials) -> dict[str, float]:
    """The learning rate of each row with the lowest validation loss."""
    return {row: float(lowest(ours).settings["learning_rate"]) for row, ours in trials.items()}


def changes(trials: Trials) -> list[str]:
    """`--set` texts that give each row its best learning rate."""
    return [f"methods.{row}.learning_rate={rate!r}" for row, rate in rates(trials).items()]


def each(trials: Trials) -> str:
    """How many trials each row had."""
    return ", ".join(str(count) for count in dict.fromkeys(len(ours) for ours in trials.values()))


def edges(trials: Trials, where: str = "") -> list[str]:
    """A sentence for each row whose best learning rate has no neighbour on one side; `where` says on which model."""
    said = []
    for row, best in rates(trials).items():
        tried = [trial.settings["learning_rate"] for trial in trials[row]]
        if best in (min(tried), max(tried)):
            which = "lowest" if best == min(tried) else "highest"
            said.append(f"The best learning rate of {row}{where}, {best:g}, is the {which} that was tried.")
    return said
