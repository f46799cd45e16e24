"""What a run says of itself while it is made, from its own process to the session's."""

from collections.abc import Callable
from typing import Literal, TypedDict


class News(TypedDict, total=False):
    """One event. Which keys it has depends on its phase; an event without a phase is about durability."""

    phase: Literal["setup", "training", "validation", "evaluation", "checks"]
    """What the run does from now on, or has just done a part of."""
    epoch: int
    """Training and validation: from 1 on."""
    epochs: int
    """Training and validation: all of them."""
    step: int
    """Training: the optimizer step, from 1 on over all epochs."""
    steps: int
    """Training: all of them."""
    loss: float
    """Training: nats per label token of the step."""
    tokens: int
    """Training: tokens passed forward since the start."""
    seconds: float
    """Training: seconds in that phase."""
    training_loss: float
    """Validation: the mean of the epoch's steps."""
    validation_loss: float
    """Validation: nats per label token."""
    best: int
    """Validation: 1 where it is the lowest, known at the end only."""
    done: int
    """Evaluation: summaries written."""
    documents: int
    """Evaluation: summaries to write."""
    kept: str
    """What of an unfinished run is on disk now."""
    resumed: str
    """From where an interrupted run goes on, or why not from later."""


Emit = Callable[[News], None]
"""Takes an event."""


def silent(news: News) -> None:
    """Takes an event and says nothing."""
