"""A decoder layer in two calls of layer.c around its attention, where its weights are frozen and there are tiles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from bakeoff import native
from bakeoff.kernels import Thin
from bakeoff.linear import WIDE, stacked

KEPT = "bakeoff_weights"
"""Attribute of a decoder layer: its weights in panels, and what they were made from."""


class Weights:
    """Frozen weights of a decoder layer in panels, with room for LoRA; those for the gradient once it asks."""

    def __init__(self, plain: Sequence[torch.Tensor], ranks: int) -> None:
        """`plain`: of queries, keys and values, of the output, of gate and up, and of down, outputs x inputs each.

        `ranks` is what thin products bring beside the first, up to the next multiple of WIDE.
        """
        self.plain, self.ranks = plain, ranks
        self.panels: tuple[torch.Tensor, ...] = ()
        self.transposed: tuple[torch.Tensor, ...] = ()

    def of(self, lay: Callable[..., None], transposed: bool) -> tuple[torch.Tensor, ...]:
        """Their panels, with zeros for thin products beside those of the first, and the thin ones' own."""
        found = []
        with torch.inference_mode(False):  # what is made inside may not be written to outside
            for weight, room in zip(self.plain, (self.ranks, 0, 0, 0), strict=True):
                outputs, inputs = weight.shape[::-1] if transposed else weight.shape
                panels = (weight.new_zeros if room else weight.new_empty)(outputs * (inputs + room))
                lay(weight, panels, *weight.shape, room)
                found.append(panels)
            return *found, self.plain[0].new_zeros(self.ranks * self.plain[0].shape[0 if transposed else 1])

    def forward(self, sums: native.Sums, beside: Sequence[Thin]) -> tuple[torch.Tensor, ...]:
        """The panels for the layer, with what A and B are now; the last are of all A."""
        if not self.panels:
            self.panels = self.of(sums.lay, transposed=False)
        width, at = self.plain[0].shape[1], 0
        for thin in beside:
            self.place(sums, thin.down, 1.0, self.panels[-1], width, at, 0)
            self.place(sums, thin.up, thin.scaling, self.panels[0], width + self.ranks, thin.start, width + at)
            at += len(thin.down)
        return self.panels

    def backward(self, sums: native.Sums, beside: Sequence[Thin]) -> tuple[torch.Tensor, ...]:
        """The same of the transposed weights, for the gradient; the last are of all B."""
        if not self.transposed:
            self.transposed = self.of(sums.lay_transposed, transposed=True)
        outputs, at = len(self.plain[0]), 0
        for thin in beside:
            self.place(sums, thin.up.t(), thin.scaling, self.transposed[-1], outputs, at, thin.start)
            self.place(sums, thin.down.t(), 1.0, self.transposed[0], outputs + self.ranks, 0, outputs + at)
            at += len(thin.down)
        return self.transposed

    def place(
        self, sums: native.Sums, weight: torch.Tensor, scaling: float, panels: torch.Tensor, inputs: int, row: int,
        column: int,
    ) -> None:  # fmt: skip
        """Writes a weight of a thin product times `scaling` into `panels` of so many inputs, from a row and column."""
        weight = weight.detach().float()
        sums.place(weight, panels, float(scaling), *weight.shape, *weight.stride(), inputs, row, column)


@dataclass
class Layer:
    """What the two calls need to know of a decoder layer."""

    sums: native.Sums
    weights: Weights
    beside: Sequence[Thin]
    """LoRA beside queries, keys and values."""
    norms: Sequence[Any]
    """The one before the attention and the one after it."""


def layer_of(
    module: nn.Module, groups: Sequence[tuple[list[nn.Linear], list[Thin]] | None], norms: Sequence[Any],
    width: int, sums: native.Sums,
) -> Layer | None:  # fmt: skip
    """The decoder layer `module` of these linear layers and norms, for tokens of `width` numbers, or None.

    layer.c computes it where all but LoRA in front of the heads is frozen, in bf16 and without bias, and all sizes are
    multiples of WIDE.
    """
    found = list(filter(None, groups))
    stacks = [stacked(layers) for layers, _ in found if layers[0].bias is None]
    weights = [weight for weight in stacks if weight is not None]
    if len(weights) < 4 or any(beside for _, beside in found[1:]):
        return None
    scales = [norm.weight for norm in norms]
    if any(scale.requires_grad for scale in scales) or any(t.dtype != torch.bfloat16 for t in (*weights, *scales)):
        return None
    qkv, o, unit, down = (weight.shape for weight in weights)
    gate, up = (layer.out_features for layer in found[2][0])
    if {qkv[1], o[0], unit[1], down[0], *map(len, scales)} != {width} or not gate == up == down[1]:
        return None
    if any(size % WIDE for size in (width, qkv[0], o[1], gate)):
        return None
    beside = found[0][1]
    ranks = -(-sum(len(thin.down) for thin in beside) // WIDE) * WIDE
    owners = [layer.weight for layers, _ in found for layer in layers]
    places = [(thin.start, thin.up.shape) for thin in beside]
    made_from = ranks, *places, *((weight.data_ptr(), weight._version) for weight in owners)
    kept = vars(module).get(KEPT)
    if kept is None or kept[0] != made_from:
        kept = vars(module)[KEPT] = made_from, Weights(weights, ranks)
    return Layer(sums, kept[1], beside, norms)


def forget(model: nn.Module) -> None:
    """Drops all weights in panels: what changes weights behind autograd's back is not seen by them."""
    for module in model.modules():
        vars(module).pop(KEPT, None)


class Entered(torch.autograd.Function):
    """Queries, keys and values of a layer from its input, by its norm and with LoRA; the input goes on beside them."""

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
        panels, *_, down = weights.forward(layer.sums, layer.beside)
        layer.sums.enter(
            x, norm.weight, panels, down, thin, inverse, out,
            float(norm.variance_epsilon), tokens, width, outputs, ranks,
        )  # fmt: skip
        ctx.layer = layer
        ctx.save_for_backward(x, inverse, thin, *trained)  # A and B may not change before their gradient
        return out, x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, beside: torch.Tensor) -> Any:
        """Of x, and of A and B of each thin product in fp32."""
        x, inverse, thin, *_ = ctx.saved_tensors
        layer, (tokens, width), (outputs, ranks) = ctx.layer, x.shape, (gradient.shape[1], ctx.layer.weights.ranks)
        of_x, of_thin = torch.empty_like(x), x.new_empty(ranks * (outputs + width), dtype=torch.float32)
        panels, *_, up = layer.weights.backward(layer.sums, layer.beside)
        layer.sums.enter_backward(
            gradient.contiguous(), beside.contiguous(), x, layer.norms[0].weight, inverse, panels, up, thin, of_thin,
            of_x, tokens, width, outputs, ranks,
        )  # fmt: skip
        ups, downs = of_thin.split([ranks * outputs, ranks * width])
        found, at = [], 0
        for part in layer.beside:
            size, rank = part.up.shape
            of_up = ups.view(ranks, outputs)[at : at + rank, part.start : part.start + size].t()
            found += [
                downs.view(ranks, width)[at : at + rank],
                torch.mul(of_up, part.scaling, out=of_up.new_empty(size, rank)),
            ]
            at += rank
        return of_x, None, *found


class Rest(torch.autograd.Function):
    """What a layer returns, from its input and what its heads saw: two sums, a norm, the output and the gated unit."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, seen: torch.Tensor, layer: Layer) -> torch.Tensor:
        """tokens x width from tokens x width and tokens x (heads width)."""
        weights, norm, (tokens, width) = layer.weights, layer.norms[1], x.shape
        _, *panels, _ = weights.panels
        if seen.shape != (tokens, weights.plain[1].shape[1]):
            raise ValueError(
                f"heads saw {tuple(seen.shape)} of {tokens} tokens, {weights.plain[1].shape[1]} numbers each"
            )
        inner, keep = weights.plain[3].shape[1], any(ctx.needs_input_grad)
        middle, inverse = torch.empty_like(x), x.new_empty(tokens, dtype=torch.float32)
        both = x.new_empty(inner // WIDE, tokens if keep else 0, 2 * WIDE)
        out = torch.empty_like(x)
        layer.sums.rest(
            x, seen, panels[0], norm.weight, *panels[1:], middle, inverse, both, out,
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
        _, o, unit, down, _ = layer.weights.backward(layer.sums, ())
        wide = layer.weights.plain[1].shape[1]
        of_x, of_seen = torch.empty_like(middle), middle.new_empty(tokens, wide)
        layer.sums.rest_backward(
            gradient.contiguous(), o, layer.norms[1].weight, unit, down, middle, inverse, both, of_x, of_seen,
            tokens, wide, width, inner,
        )  # fmt: skip
        return of_x, of_seen, None
