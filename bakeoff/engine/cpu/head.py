"""The loss of an output head without all its logits in memory: the gradient is found on the way."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from bakeoff.engine.cpu import native

ROWS = 256
"""Label tokens whose logits are in memory at a time: 25 MB of 49,152 words in bf16, which malloc gives out again."""
LOGITS = 8
"""Label tokens whose logits torch's operators hold in fp32 at a time, so that they stay in the processor's cache."""


class CrossEntropy(torch.autograd.Function):
    """Cross-entropy of the logits hidden W' with labels, summed."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, needed: bool
    ) -> torch.Tensor:
        """Nats, from label tokens x width, vocabulary x width and label tokens; `needed`: the gradient, too.

        Raises IndexError for a label that the head has no row for.
        """
        if len(labels) and labels.max() >= len(weight):
            raise IndexError(f"label {labels.max()} where the output head has {len(weight)} rows")
        same, losses = weight.to(hidden.dtype), []
        of_hidden, of_weight = (needed and wanted for wanted in ctx.needs_input_grad[:2])
        ctx.of_hidden = torch.empty_like(hidden) if of_hidden else None
        ctx.of_weight = None
        for start in range(0, len(hidden), ROWS):
            some = hidden[start : start + ROWS]
            rows = logits(some, same)
            losses.append(entropies(rows, labels[start : start + ROWS], needed))
            if of_hidden:
                ctx.of_hidden[start : start + ROWS] = logits_backward(rows, same)
            if of_weight:
                part = (rows.t() @ some).to(weight.dtype)
                ctx.of_weight = part if ctx.of_weight is None else ctx.of_weight.add_(part)
        return torch.cat(losses).sum() if losses else hidden.new_zeros((), dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Of hidden and, where the head is trained, of its weight; once, since they are scaled where they are."""
        of_hidden, of_weight = ctx.of_hidden, ctx.of_weight
        del ctx.of_hidden, ctx.of_weight
        return *(None if found is None else found.mul_(gradient) for found in (of_hidden, of_weight)), None, None


def entropies(rows: torch.Tensor, labels: torch.Tensor, needed: bool) -> torch.Tensor:
    """Nats of each label by its logits (labels x vocabulary); where `needed`, the logits' gradient in their place."""
    if kernels := native.kernels_for(rows):
        nats = rows.new_empty(len(labels), dtype=torch.float32)
        kernels.cross_entropy(rows, labels, nats, int(needed), *rows.shape)
        return nats
    return torch.cat(list(entropies_by_torch(rows, labels, needed)))


def entropies_by_torch(rows: torch.Tensor, labels: torch.Tensor, needed: bool) -> Iterator[torch.Tensor]:
    """The same, some labels at a time."""
    for some, places in zip(rows.split(LOGITS), labels[:, None].split(LOGITS), strict=True):
        wide = some.float()
        own, highest = wide.gather(1, places), wide.amax(1, keepdim=True)
        total = wide.sub_(highest).exp_().sum(1, keepdim=True)
        yield (total.log() - (own - highest)).squeeze(1)
        if needed:
            some.copy_(wide.div_(total).scatter_add_(1, places, torch.full_like(own, -1.0)))


def logits(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """rows x vocabulary, from rows x width and vocabulary x width of the same type."""
    if kernels := tiled(hidden, weight):
        out = hidden.new_empty(len(hidden), len(weight))
        kernels.head_forward(hidden, weight, out, *hidden.shape, len(weight))
        return out
    return functional.linear(hidden, weight)


def logits_backward(gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The gradient of `hidden` (rows x width) from that of the logits."""
    if kernels := tiled(gradient, weight):
        out = gradient.new_empty(len(gradient), weight.shape[1])
        kernels.head_backward(gradient, weight, out, *out.shape, len(weight))
        return out
    return gradient @ weight


def tiled(rows: torch.Tensor, weight: torch.Tensor) -> native.Kernels | None:
    """The compiled kernels where layer.c has products for these: in bf16, on tiles, all sizes multiples of 32."""
    kernels = native.kernels_for(rows, weight)
    return kernels if kernels and kernels.tiles and not any(size % 32 for size in weight.shape) else None
