"""A decoder layer around its attention in two calls of layer.c, where its weights are frozen and the processor has tiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from bakeoff import native
from bakeoff.kernels import Thin, joined

WIDE = 32
"""Outputs of a panel of weights, and what numbers of inputs and outputs must be a multiple of to be put into panels."""


def in_panels(weight: torch.Tensor) -> torch.Tensor:
    """outputs x inputs, in bf16: for each WIDE outputs, two inputs of each of them after another."""
    return weight.unflatten(0, (-1, WIDE)).unflatten(2, (-1, 2)).transpose(1, 2).contiguous()


class Weights:
    """Frozen weights of a decoder layer in panels; those for the gradient, of transposed weights, once it is asked for."""

    def __init__(self, qkv: torch.Tensor, o: torch.Tensor, unit: torch.Tensor, down: torch.Tensor, ranks: int) -> None:
        """`ranks` is what thin products bring beside those of `qkv`, up to the next multiple of WIDE."""
        self.plain = qkv, o, unit, down
        self.ranks = ranks
        self.qkv = in_panels(functional.pad(qkv, (0, ranks)))
        self.o, self.unit, self.down = in_panels(o), in_panels(unit), in_panels(down)
        self.back: tuple[torch.Tensor, ...] = ()

    def backward(self) -> tuple[torch.Tensor, ...]:
        """Those of `qkv`, o, unit and down, transposed."""
        if not self.back:
            qkv, *others = (weight.t() for weight in self.plain)
            self.back = in_panels(functional.pad(qkv, (0, self.ranks))), *map(in_panels, others)
        return self.back


def last_inputs(panels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`panels`, their last inputs now those of `weight` (outputs x inputs)."""
    panels[:, -weight.shape[1] // 2 :] = in_panels(weight)
    return panels


@dataclass
class Layer:
    """What the two calls need to know of a decoder layer."""

    sums: native.Sums
    weights: Weights
    beside: Sequence[Thin]
    norms: tuple[nn.Module, nn.Module]


class Entered(torch.autograd.Function):
    """Queries, keys and values of a layer from its input, through the norm and with LoRA; the input goes on beside them."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Layer, *trained: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """tokens x outputs, and `x`, from tokens x width; `trained` are A and B of each thin product, in order."""
        weights, norm, (tokens, width) = layer.weights, layer.norms[0], x.shape
        outputs, ranks = weights.plain[0].shape[0], weights.ranks
        inverse, thin, out = (
            x.new_empty(tokens, dtype=torch.float32),
            x.new_empty(tokens, ranks),
            x.new_empty(tokens, outputs),
        )
        down = up = x.new_empty(0)
        if ranks:
            down, up = joined(layer.beside, weights.plain[0])
            down, up = functional.pad(down, (0, 0, 0, ranks - len(down))), functional.pad(up, (0, ranks - len(down)))
            last_inputs(weights.qkv, up)
        layer.sums.enter(
            x, norm.weight, weights.qkv, in_panels(down) if ranks else down, thin, inverse, out,
            float(norm.variance_epsilon), tokens, width, outputs, ranks,
        )  # fmt: skip
        ctx.layer = layer
        ctx.save_for_backward(x, inverse, thin, down, up)
        return out, x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, beside: torch.Tensor) -> Any:
        """Of x, and of A and B of each thin product in fp32."""
        x, inverse, thin, down, up = ctx.saved_tensors
        layer, (tokens, width), (outputs, ranks) = ctx.layer, x.shape, (gradient.shape[1], ctx.layer.weights.ranks)
        of_x, of_thin = torch.empty_like(x), x.new_empty(ranks * (outputs + width), dtype=torch.float32)
        panels = layer.weights.backward()[0]
        if ranks:
            last_inputs(panels, down.t())
        layer.sums.enter_backward(
            gradient.contiguous(), beside.contiguous(), x, layer.norms[0].weight, inverse, panels,
            in_panels(up.t()) if ranks else up, thin, of_thin, of_x, tokens, width, outputs, ranks,
        )  # fmt: skip
        ups, downs = of_thin.split([ranks * outputs, ranks * width])
        found, at = [], 0
        for part in layer.beside:
            size, rank = part.up.shape
            of_up = ups.view(ranks, outputs)[at : at + rank, part.start : part.start + size].t()
            found += [downs.view(ranks, width)[at : at + rank], of_up * part.scaling]
            at += rank
        return of_x, None, *found


class Rest(torch.autograd.Function):
    """What a layer returns, from its input and what its heads saw: two sums, a norm, the output and the gated unit."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, seen: torch.Tensor, layer: Layer) -> torch.Tensor:
        """tokens x width from tokens x width and tokens x (heads width)."""
        weights, norm, (tokens, width) = layer.weights, layer.norms[1], x.shape
        inner, keep = weights.plain[3].shape[1], any(ctx.needs_input_grad)
        middle, inverse = torch.empty_like(x), x.new_empty(tokens, dtype=torch.float32)
        both = x.new_empty(inner // WIDE, tokens if keep else 0, 2 * WIDE)
        out = torch.empty_like(x)
        layer.sums.rest(
            x, seen, weights.o, norm.weight, weights.unit, weights.down, middle, inverse, both, out,
            float(norm.variance_epsilon), tokens, seen.shape[1], width, inner, int(keep),
        )  # fmt: skip
        ctx.layer = layer
        ctx.save_for_backward(middle, inverse, both)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Of x and of what the heads saw."""
        middle, inverse, both = ctx.saved_tensors
        layer, (tokens, width), inner = ctx.layer, middle.shape, both.shape[0] * WIDE
        _, o, unit, down = layer.weights.backward()
        wide = layer.weights.plain[1].shape[1]
        of_x, of_seen = torch.empty_like(middle), middle.new_empty(tokens, wide)
        layer.sums.rest_backward(
            gradient.contiguous(), o, layer.norms[1].weight, unit, down, middle, inverse, both, of_x, of_seen,
            tokens, wide, width, inner,
        )  # fmt: skip
        return of_x, of_seen, None
