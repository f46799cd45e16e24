"""Products with torchao's eight-bit weights that keep no copy of them for the backward pass.

torchao widens a weight for a product, and autograd would keep that copy until the gradient is computed: training would
hold every weight in both forms.
"""

import functools
from typing import Any

import torch
from torch import nn

from bakeoff.core.packed import packed


class Product(torch.autograd.Function):
    """x W' + b for a frozen W, whose gradient widens W again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
        """`x`: ... x inputs; returns ... x outputs, as torchao computes it."""
        ctx.layer, ctx.kind = layer, x.dtype
        return nn.functional.linear(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """`gradient`: ... x outputs; returns ... x inputs, in the order of operations of torchao's own."""
        weight = ctx.layer.weight
        scaled = gradient * weight.scale.to(gradient.dtype).flatten()
        return (scaled @ weight.qdata.to(gradient.dtype)).to(ctx.kind), None


def forward(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """What `layer` is called with, once it was given this forward."""
    found: torch.Tensor = Product.apply(x, layer)
    return found


def keep_none(model: nn.Module) -> None:
    """Gives every linear layer of `model` with such a weight a forward that keeps no copy of it."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and packed(layer.weight):
            layer.forward = functools.partial(forward, layer)  # type: ignore[method-assign]
