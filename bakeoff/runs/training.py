"""fine_tune: the one training loop, for every method."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bakeoff.config.hardware import repeatable
from bakeoff.config.schema import TrainingSettings
from bakeoff.core.errors import Diverged
from bakeoff.core.events import Emit, silent
from bakeoff.data.encoding import Encoded
from bakeoff.engine import Engine
from bakeoff.models import quantise
from bakeoff.runs.checkpoints import Checkpointer, Training
from bakeoff.runs.hooks import Hooks
from bakeoff.runs.ranks import Alone
from bakeoff.runs.resources import Clock


@dataclass
class Curves:
    """What training leaves beside the weights."""

    steps: list[dict[str, float]] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0
    """Tokens of the sequences trained on, epoch by epoch, padding excluded."""
    labels: int = 0
    """Label tokens among them."""
    optimizer_parameters: int = 0
    """Numbers that the optimizer holds."""


def fine_tune(
    engine: Engine,
    model: torch.nn.Module,
    train: Sequence[Encoded],
    validation: Sequence[Encoded],
    recipe: TrainingSettings,
    *,
    seed: int,
    clock: Clock,
    emit: Emit = silent,
    checkpointer: Checkpointer | None = None,
    method: Any = None,
    ranks: Alone | None = None,
) -> Curves:
    """Trains what has `requires_grad` and leaves the weights of the epoch with the lowest validation loss.

    The loss of a step is the cross-entropy summed over the label tokens of the whole effective batch, divided by their
    number, so no micro-batch size changes it. `checkpointer` keeps checkpoints, and goes on from the newest. What
    `method` says while it is trained (see Method) is done. `ranks` compute the micro-batches together. Raises Diverged
    with the step where a loss is not finite.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return Curves()
    with clock("training"):
        train = engine.cached(model, train, recipe.micro_batch_size)
    with clock("validation"):
        validation = engine.cached(model, validation, recipe.micro_batch_size)
    hooks = Hooks(model, method)
    loop = Loop(engine, model, hooks, train, validation, recipe, seed, clock, emit, checkpointer or Checkpointer(),
                ranks or Alone())  # fmt: skip
    loop.start()
    for epoch in range(loop.state.epoch, recipe.epochs + 1):
        if loop.idle():
            break
        loop.train_epoch(epoch)
        loop.validate_epoch(epoch)
    loop.take_best()
    return loop.curves


class Loop:
    """The training of one model: its optimizer, its schedule, and where in it we are."""

    def __init__(
        self, engine: Engine, model: torch.nn.Module, hooks: Hooks, train: Sequence[Encoded],
        validation: Sequence[Encoded], recipe: TrainingSettings, seed: int, clock: Clock, emit: Emit,
        checkpointer: Checkpointer, ranks: Alone,
    ) -> None:  # fmt: skip
        self.seed, self.ranks = seed, ranks
        self.engine, self.model, self.train, self.validation = engine, model, train, validation
        self.hooks = hooks
        self.recipe, self.clock, self.emit, self.checkpointer = recipe, clock, emit, checkpointer
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.device = self.trained[0].device.type
        self.curves = Curves()
        self.optimizer = optimizer(hooks.parameter_groups(recipe), recipe)
        held = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.curves.optimizer_parameters = sum(parameter.numel() for parameter in held)
        self.total = steps_of(recipe, len(train))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, self.total, recipe)
        )
        self.order = torch.Generator().manual_seed(seed)
        self.state = Training(
            self.trained, self.optimizer, self.schedule, self.order, self.curves, hooks.step_state(),
            drawn=self.order.get_state(),
        )  # fmt: skip

    def start(self) -> None:
        """Goes on from the newest checkpoint, or validates the model as it was attached."""
        if not self.ranks.copy(self.state, self.checkpointer.restore(self.state)):
            with self.clock("validation"):
                self.curves.epochs.append({"epoch": 0, "validation_loss": self.validation_loss(), "best": 0})

    def train_epoch(self, epoch: int) -> None:
        """The optimizer steps of an epoch that are not done yet."""
        self.model.train()
        with self.clock("training"):
            for index, window in enumerate(windows(len(self.train), self.recipe.batch_size, self.order)):
                if index < self.state.window:  # done before the run was interrupted
                    continue
                self.checkpointer.counts()
                self.step(epoch, [self.train[number] for number in window])
                self.state.window = index + 1
                self.checkpointer.stepped(self.state)

    def step(self, epoch: int, examples: Sequence[Encoded]) -> None:
        """One optimizer step on an effective batch. Raises Diverged."""
        labels = sum(len(example.ids) - example.prompt for example in examples)
        total_loss = zero(self.model)
        self.ranks.draw(self.seed, len(self.curves.steps))
        ours = self.ranks.share(examples)
        for micro in self.engine.micro_batches(self.model, ours, self.recipe.micro_batch_size):
            part = self.engine.loss(self.model, micro) / labels
            with repeatable(self.device):
                part.backward()
            total_loss += part.detach()
        if (penalty := self.hooks.penalty()) is not None and not self.ranks.rank:
            with repeatable(self.device):
                penalty.backward()
        self.ranks.add_gradients(self.trained)
        self.ranks.add(total_loss)
        norms = torch.nn.utils.clip_grad_norm_(self.trained, self.recipe.gradient_clip or math.inf)
        # Both at once: to read a number waits until a GPU has done all that it was given.
        loss, norm = torch.stack([total_loss, norms.to(total_loss)]).tolist()
        number = len(self.curves.steps) + 1
        for what, value in (("loss", loss), ("the gradient's norm", norm)):
            if not math.isfinite(value):
                raise Diverged(
                    f"{what} is {value} at step {number} of {self.total}; "
                    "type --set training.learning_rate with a lower value"
                )
        rate = self.recipe.learning_rate * learning_rate_factor(number - 1, self.total, self.recipe)
        self.curves.steps.append(
            {"step": number, "epoch": epoch, "loss": loss, "learning_rate": rate, "gradient_norm": norm}
        )
        self.optimizer.step()
        self.schedule.step()
        self.hooks.after_step(number, self.total)
        self.optimizer.zero_grad(set_to_none=True)
        self.curves.tokens += sum(len(example.ids) for example in examples)
        self.curves.labels += labels
        self.emit({"phase": "training", "epoch": epoch, "epochs": self.recipe.epochs, "step": number,
                   "steps": self.total, "loss": loss, "tokens": self.curves.tokens,
                   "seconds": self.clock.elapsed("training")})  # fmt: skip

    def validate_epoch(self, epoch: int) -> None:
        """Validates after an epoch and keeps the weights where they are the best. Raises Diverged."""
        state, curves = self.state, self.curves
        state.over = epoch == self.recipe.epochs
        self.checkpointer.begin(state)  # is written while nothing of it changes
        with self.clock("validation"):
            losses = [row["loss"] for row in curves.steps if row["epoch"] == epoch]
            loss = self.validation_loss()
            if not math.isfinite(loss):
                raise Diverged(
                    f"validation loss is {loss} after epoch {epoch} (step {len(curves.steps)} of {self.total})"
                )
            curves.epochs.append(
                {"epoch": epoch, "training_loss": sum(losses) / len(losses), "validation_loss": loss, "best": 0}
            )
            if loss < state.best:
                state.best, state.kept = loss, [parameter.detach().clone() for parameter in self.trained]
                state.kept_step = len(curves.steps)
            self.emit({"phase": "validation", "epoch": epoch, "epochs": self.recipe.epochs, "best": 0,
                       "training_loss": curves.epochs[-1]["training_loss"], "validation_loss": loss})  # fmt: skip
        state.epoch, state.window, state.drawn = epoch + 1, 0, self.order.get_state()
        self.checkpointer.save(state)

    def idle(self) -> bool:
        """Whether the validation loss has not fallen for `patience` epochs."""
        losses = [row["validation_loss"] for row in self.curves.epochs[1:]]
        if not self.recipe.patience or len(losses) <= self.recipe.patience:
            return False
        return min(losses[-self.recipe.patience :]) >= min(losses[: -self.recipe.patience])

    def validation_loss(self) -> float:
        """Nats per label token of the validation documents; NaN without any."""
        return mean_loss(self.engine, self.model, self.validation, self.recipe.micro_batch_size, self.ranks)

    def take_best(self) -> None:
        """Puts the weights of the epoch with the lowest validation loss back, and marks it."""
        if self.state.kept:
            with torch.no_grad():
                for parameter, value in zip(self.trained, self.state.kept, strict=True):
                    parameter.copy_(value)
        for row in self.curves.epochs[1:]:
            row["best"] = int(row["validation_loss"] == self.state.best)
        self.engine.release(self.model)


def steps_of(recipe: TrainingSettings, documents: int) -> int:
    """Optimizer steps that `recipe` comes to on so many documents, if patience ends it in no earlier epoch."""
    return recipe.epochs * math.ceil(documents / recipe.batch_size)


def optimizer(groups: list[dict[str, Any]], recipe: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), or with moments in eight bits (Dettmers et al. 2022,
    arXiv:2110.02861)."""
    betas = recipe.beta1, recipe.beta2
    if recipe.optimizer == "adamw8bit":
        quantise.bring_back()
        import bitsandbytes

        found: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(groups, betas=betas)
        return found
    return torch.optim.AdamW(groups, betas=betas, fused=True)


def learning_rate_factor(step: int, total: int, recipe: TrainingSettings) -> float:
    """The learning rate of optimizer step `step` (from 0) as a share of its peak."""
    rising = math.ceil(recipe.warmup * total)
    if step < rising:
        return (step + 1) / rising
    if recipe.schedule == "constant":
        return 1.0
    return (total - step) / max(1, total - rising)


@torch.no_grad()
def mean_loss(
    engine: Engine, model: torch.nn.Module, examples: Sequence[Encoded], size: int, ranks: Alone | None = None
) -> float:
    """Cross-entropy in nats per label token over `examples`, `size` at a time; NaN without any."""
    ranks = ranks or Alone()
    if not examples:
        return math.nan
    model.eval()
    total = zero(model)
    for micro in engine.micro_batches(model, ranks.share(examples), size):
        total += engine.loss(model, micro)
    return ranks.add(total).item() / sum(len(example.ids) - example.prompt for example in examples)


def zero(model: torch.nn.Module) -> torch.Tensor:
    """0 in double precision where the model is: to it losses are added in place, and read once."""
    return torch.zeros((), dtype=torch.float64, device=next(model.parameters()).device)


def windows(count: int, size: int, order: torch.Generator | None = None) -> Iterator[list[int]]:
    """Places 0..count-1, shuffled by `order`, in groups of `size`: the effective batches of an epoch."""
    indices = torch.randperm(count, generator=order).tolist() if order is not None else list(range(count))
    for start in range(0, count, size):
        yield indices[start : start + size]
