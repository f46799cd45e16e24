"""fine_tune: the one training loop, for every method."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from bakeoff.config.hardware import repeatable
from bakeoff.config.schema import MachineSettings, TrainingSettings
from bakeoff.core.errors import Diverged
from bakeoff.data.encoding import Batch, Encoded, collate, micro_batches, to_device, windows
from bakeoff.engine import layout, plain
from bakeoff.engine.attention import documents, row_logits
from bakeoff.engine.cpu.decoder import forget
from bakeoff.engine.cpu.head import CrossEntropy
from bakeoff.engine.cpu.layers import sharing
from bakeoff.engine.cpu.linear import passed_by, plain_head
from bakeoff.engine.features import Remembered, Trunk, head_alone
from bakeoff.runs.checkpoints import Partial, Training
from bakeoff.runs.resources import Clock

Tell = Callable[[dict[str, Any]], None]


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
    model: torch.nn.Module,
    train: Sequence[Encoded],
    validation: Sequence[Encoded],
    recipe: TrainingSettings,
    machine: MachineSettings,
    *,
    seed: int,
    pad: int,
    clock: Clock,
    tell: Tell = lambda news: None,
    partial: Partial | None = None,
) -> Curves:
    """Trains what has `requires_grad` and leaves the weights of the epoch with the lowest validation loss.

    The loss of a step is the cross-entropy summed over the label tokens of the whole effective batch, divided by their
    number, so no micro-batch size changes it. `partial` keeps checkpoints, and goes on from the newest. Raises Diverged
    with the step where a loss is not finite.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    curves = Curves()
    if not trained:
        return curves
    optimizer = torch.optim.AdamW(
        trained,
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    curves.optimizer_parameters = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    total = recipe.epochs * math.ceil(len(train) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, total, recipe))
    order = torch.Generator().manual_seed(seed)
    with clock("training"):
        train = with_trunk(model, train, machine, recipe.micro_batch_size, pad)
    with clock("validation"):
        validation = with_trunk(model, validation, machine, recipe.micro_batch_size, pad)
    state = Training(trained, optimizer, schedule, order, curves, drawn=order.get_state())
    partial = partial or Partial()

    if not partial.restore(state):
        with clock("validation"):
            curves.epochs.append(
                {"epoch": 0, "validation_loss": mean_loss(model, validation, recipe, machine, pad), "best": 0}
            )
    for epoch in range(state.epoch, recipe.epochs + 1):
        model.train()
        with clock("training"):
            for place, window in enumerate(windows(len(train), recipe.batch_size, order)):
                if place < state.window:  # done before the run was interrupted
                    continue
                partial.counts()
                examples = [train[place] for place in window]
                labels = sum(len(example.ids) - example.prompt for example in examples)
                total_loss = zero(machine)
                for micro in micro_batches(examples, recipe.micro_batch_size):
                    part = loss_of(model, micro, pad, machine) / labels
                    with repeatable(machine.device):
                        part.backward()
                    total_loss += part.detach()
                norms = torch.nn.utils.clip_grad_norm_(trained, recipe.gradient_clip or math.inf)
                # Both at once: to read a number waits until a GPU has done all that it was given.
                loss, norm = torch.stack([total_loss, norms.to(total_loss)]).tolist()
                step = len(curves.steps) + 1
                if not math.isfinite(loss):
                    raise Diverged(
                        f"loss is {loss} at step {step} of {total}; "
                        "type --set training.learning_rate with a lower value"
                    )
                if not math.isfinite(norm):
                    raise Diverged(
                        f"the gradient's norm is {norm} at step {step} of {total}; "
                        "type --set training.learning_rate with a lower value"
                    )
                rate = float(schedule.get_last_lr()[0])
                curves.steps.append({"step": step, "epoch": epoch, "loss": loss, "learning_rate": rate,
                                     "gradient_norm": norm})  # fmt: skip
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                curves.tokens += sum(len(example.ids) for example in examples)
                curves.labels += labels
                tell({"phase": "training", "epoch": epoch, "epochs": recipe.epochs, "step": step, "steps": total,
                      "loss": loss, "tokens": curves.tokens, "seconds": clock.elapsed("training")})  # fmt: skip
                state.window = place + 1
                partial.stepped(state)
        state.over = epoch == recipe.epochs
        partial.begin(state)  # is written while nothing of it changes
        with clock("validation"):
            losses = [row["loss"] for row in curves.steps if row["epoch"] == epoch]
            loss = mean_loss(model, validation, recipe, machine, pad)
            if not math.isfinite(loss):
                raise Diverged(f"validation loss is {loss} after epoch {epoch} (step {len(curves.steps)} of {total})")
            curves.epochs.append(
                {"epoch": epoch, "training_loss": sum(losses) / len(losses), "validation_loss": loss, "best": 0}
            )
            if loss < state.best:
                state.best, state.kept = loss, [parameter.detach().clone() for parameter in trained]
                state.kept_step = len(curves.steps)
            tell({"phase": "validation", "epoch": epoch, "epochs": recipe.epochs, **curves.epochs[-1]})
        state.epoch, state.window, state.drawn = epoch + 1, 0, order.get_state()
        partial.save(state)
    if state.kept:
        with torch.no_grad():
            for parameter, value in zip(trained, state.kept, strict=True):
                parameter.copy_(value)
    for row in curves.epochs[1:]:
        row["best"] = int(row["validation_loss"] == state.best)
    forget(model)
    return curves


def learning_rate_factor(step: int, total: int, recipe: TrainingSettings) -> float:
    """The learning rate of optimizer step `step` (from 0) as a share of its peak."""
    rising = math.ceil(recipe.warmup * total)
    if step < rising:
        return (step + 1) / rising
    if recipe.schedule == "constant":
        return 1.0
    return (total - step) / max(1, total - rising)


def loss_of(model: Any, examples: Sequence[Encoded], pad: int, machine: MachineSettings) -> torch.Tensor:
    """Cross-entropy in nats, summed over the label tokens of `examples`, in the way that costs least."""
    if isinstance(examples[0], Remembered):
        hidden = torch.cat([example.hidden for example in examples if isinstance(example, Remembered)])
        labels = [label for example in examples for label in example.ids[example.prompt :]]
        return entropy(model, hidden, to_device(torch.tensor(labels), hidden.device), machine)
    first, *others = batches(model, examples, pad, machine)
    return sum((loss_sum(model, batch, machine) for batch in others), loss_sum(model, first, machine))


def batches(model: Any, examples: Sequence[Encoded], pad: int, machine: MachineSettings) -> list[Batch]:
    """`examples` in one row where `model` may read them so, else padded, else each by itself."""
    packed = machine.packing and layout.packable(model)
    if packed or len({len(example.ids) for example in examples}) == 1 or not layout.padded(model):
        return [collate(examples, pad, machine.device, packed=packed)]
    return [collate([example], pad, machine.device) for example in examples]


def with_trunk(model: Any, examples: Sequence[Encoded], machine: MachineSettings, size: int, pad: int) -> Any:
    """`examples`, with what a frozen trunk says of them, `size` at a time, where the head is all that is trained."""
    head = head_alone(model) if machine.reuse_trunk else None
    if head is None or layout.head_last(model) or layout.steady(model):
        return examples

    @torch.no_grad()
    def hidden(some: Sequence[Encoded]) -> Sequence[torch.Tensor]:
        parts = batches(model, some, pad, machine)
        rows = torch.cat([label_logits(model, batch, machine, passed_by(head)) for batch in parts])
        return rows.split([len(example.ids) - example.prompt for example in some])

    trunk = Trunk(examples, hidden, size)
    forget(model)
    return trunk


def loss_sum(model: Any, batch: Batch, machine: MachineSettings) -> torch.Tensor:
    """Cross-entropy in nats, summed over the batch's label tokens."""
    fused = machine.fused and machine.labels_only and batch.lengths and not layout.head_last(model)
    head = plain_head(model) if fused else None
    if head is None:
        logits = label_logits(model, batch, machine)
        return functional.cross_entropy(logits.float(), batch.labels, reduction="sum")
    return entropy(model, label_logits(model, batch, machine, passed_by(head)), batch.labels, machine)


def label_logits(
    model: Any, batch: Batch, machine: MachineSettings, head: AbstractContextManager[Any] | None = None
) -> torch.Tensor:
    """label tokens x vocabulary; inside `passed_by(head)` x hidden size."""
    keep = batch.predicts if machine.labels_only else torch.ones_like(batch.predicts)
    logits: torch.Tensor
    with products_in(machine), head or nullcontext():
        if batch.lengths:
            share = sharing(model, machine)
            logits = row_logits(model, batch.input_ids, batch.lengths, keep, documents(machine), share)
        else:
            logits = plain.label_logits(model, batch.input_ids, keep)
    return logits if machine.labels_only else logits[batch.predicts.flatten()]


def entropy(model: Any, hidden: torch.Tensor, labels: torch.Tensor, machine: MachineSettings) -> torch.Tensor:
    """Cross-entropy in nats, summed, of the output head's logits for `hidden` (label tokens x hidden size)."""
    head = plain_head(model) if machine.fused else None
    with products_in(machine):
        if head is None:
            logits = model.get_output_embeddings()(hidden)
            return functional.cross_entropy(logits.float(), labels, reduction="sum")
        if machine.precision == "bf16":
            hidden = hidden.bfloat16()
        needed = torch.is_grad_enabled() and (hidden.requires_grad or head.weight.requires_grad)
        loss: torch.Tensor = CrossEntropy.apply(hidden, head.weight, labels, needed)
        return loss


def products_in(machine: MachineSettings) -> AbstractContextManager[Any]:
    """Matrix products in bf16 where the run's precision says so; trained parameters stay fp32."""
    return torch.autocast(machine.device, dtype=torch.bfloat16, enabled=machine.precision == "bf16")


def zero(machine: MachineSettings) -> torch.Tensor:
    """0 in double precision where the run computes: to it losses are added in place, and read once."""
    return torch.zeros((), dtype=torch.float64, device=machine.device)


@torch.no_grad()
def mean_loss(
    model: torch.nn.Module, examples: Sequence[Encoded], recipe: TrainingSettings, machine: MachineSettings, pad: int
) -> float:
    """Cross-entropy in nats per label token over `examples`; NaN without any."""
    if not examples:
        return math.nan
    model.eval()
    total = zero(machine)
    for micro in micro_batches(examples, recipe.micro_batch_size):
        total += loss_of(model, micro, pad, machine)
    return total.item() / sum(len(example.ids) - example.prompt for example in examples)
