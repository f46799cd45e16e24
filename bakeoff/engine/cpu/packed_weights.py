"""Weights in the order in which the processor reads them fastest, for the few rows of a step of decoding."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bakeoff.config.hardware import has_bf16
from bakeoff.config.schema import Computation
from bakeoff.engine.cpu import native
from bakeoff.engine.cpu.decoder import Steps, forget
from bakeoff.engine.cpu.kernels import BLOCK, joined
from bakeoff.engine.cpu.layers import DECODING_WEIGHTS, PRODUCTS, STEPS, layers_of, plain_trunk, run
from bakeoff.engine.linear import WIDE, LoraPair, group, packed_by_torch, plain_head, stacked


class OneDnnLinear:
    """Linear layers that read the same input, their weights in oneDNN's order; in fp32 a LoRA is added to them."""

    def __init__(self, layers: Sequence[nn.Linear], beside: Sequence[LoraPair]) -> None:
        weight = torch.cat([layer.weight.detach() for layer in layers])
        self.outputs, self.up = len(weight), None
        bias = None if layers[0].bias is None else torch.cat([layer.bias.detach() for layer in layers])
        if beside:
            down, up = joined(beside, weight)
            if weight.dtype == torch.float32:
                weight.addmm_(up, down)
            else:  # a sum of weights would be rounded
                weight, self.up = torch.cat([weight, down]), up.t().contiguous()
                bias = None if bias is None else functional.pad(bias, (0, len(down)))
        self.bias = bias
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """... x outputs from ... x inputs."""
        rows = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        if self.up is None:
            return rows
        found = rows.flatten(0, -2)
        found = torch.addmm(found[:, : self.outputs], found[:, self.outputs :], self.up)
        return found.unflatten(0, x.shape[:-1])


class PackedLinear:
    """The same in bf16 for a few rows at a time, by decoding.c; many rows read the weights as they are."""

    def __init__(self, layers: Sequence[nn.Linear], beside: Sequence[LoraPair], kernels: native.Kernels) -> None:
        stack = stacked(layers)
        self.kernels, self.lora = kernels, None
        self.plain = [layer.weight.detach() for layer in layers] if stack is None else [stack]
        weight = torch.cat(self.plain)
        self.outputs, self.inputs = weight.shape
        self.weights = packed(weight, kernels)
        if beside:
            down, up = joined(beside, weight)
            spare = -len(down) % WIDE
            down, up = functional.pad(down, (0, 0, 0, spare)), functional.pad(up, (0, spare))
            self.lora = down, up, packed(down, kernels), packed(up, kernels)

    @staticmethod
    def able(layers: Sequence[nn.Linear]) -> native.Kernels | None:
        """The compiled kernels, if these weights are of a kind and size that they read."""
        weight, outputs = layers[0].weight, sum(len(layer.weight) for layer in layers)
        fits = weight.dtype == torch.bfloat16 and layers[0].bias is None and not (outputs | weight.shape[1]) % WIDE
        return native.kernels_for(weight) if fits else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """... x outputs from ... x inputs."""
        if x.numel() > BLOCK * self.inputs or x.shape[-1] != self.inputs or native.kernels_for(x) is not self.kernels:
            parts = [functional.linear(x, weight) for weight in self.plain]
            rows = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
            if self.lora:
                flat = rows.flatten(0, -2)
                flat.addmm_(functional.linear(x, self.lora[0]).flatten(0, -2), self.lora[1].t())
            return rows
        rows = packed_linear(self.kernels, x, self.weights, self.outputs)
        if self.lora:
            down, up = self.lora[2:]
            inner = packed_linear(self.kernels, x, down, len(self.lora[0]))
            self.kernels.packed_linear(
                inner, up, rows, inner.numel() // inner.shape[-1], inner.shape[-1], self.outputs, 1
            )
        return rows


def packed_linear(kernels: native.Kernels, x: torch.Tensor, weights: torch.Tensor, outputs: int) -> torch.Tensor:
    """... x outputs from ... x inputs, by packed `weights`."""
    out = x.new_empty(*x.shape[:-1], outputs)
    kernels.packed_linear(x, weights, out, x.numel() // x.shape[-1], x.shape[-1], outputs, 0)
    return out


def packed(weight: torch.Tensor, kernels: native.Kernels) -> torch.Tensor:
    """`packed_by_torch`, by layer.c where there are tiles, which takes a third of the time."""
    if not kernels.tiles:
        return packed_by_torch(weight)
    weights = weight.new_empty(weight.numel())
    kernels.pack(weight, weights, *weight.shape, 0)
    return weights


def for_decoding(layers: Sequence[nn.Linear], beside: Sequence[LoraPair]) -> OneDnnLinear | PackedLinear:
    """What computes the products of `layers` while decoding."""
    kernels = PackedLinear.able(layers)
    return PackedLinear(layers, beside, kernels) if kernels else OneDnnLinear(layers, beside)


@contextmanager
def packed_weights(model: Any, where: Computation) -> Iterator[None]:
    """Inside, the products of replaced modules and the output head read weights in an order made for a few rows."""
    able = where.precision == "fp32" or has_bf16("cpu")
    if where.device != "cpu" or not able or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        yield
        return
    changed: list[nn.Module] = []
    at_once: list[Any] = []
    head: Any = None
    trunk: Any = None
    try:
        prompt, trunk, at = torch.empty(1, 1, model.config.hidden_size, dtype=torch.bfloat16), plain_trunk(model), 0
        while trunk is not None and at < len(layers_of(trunk)):
            with torch.no_grad():
                found = run(trunk, at, prompt)
            if found:
                vars(trunk).setdefault(STEPS, {})[at] = Steps([*found.values()])
                at_once += found
            at += len(found) or 1
        inside = {part for layer in at_once for part in (layer.self_attn, layer.mlp)}
        for module in model.modules():
            if module in inside:
                continue
            replaced = vars(module).get("forward")
            names = PRODUCTS.get(getattr(replaced, "func", None), ())
            parts = {some[0]: group(module, some) for some in names}
            if names and all(parts.values()):
                vars(module)[DECODING_WEIGHTS] = {name: for_decoding(*found) for name, found in parts.items() if found}
                changed.append(module)
        if changed or at_once:
            head = plain_head(model)
        if head is not None:
            head.forward = for_decoding([head], [])
        yield
    finally:
        for module in changed:
            vars(module).pop(DECODING_WEIGHTS, None)
        if trunk is not None:
            vars(trunk).pop(STEPS, None)
        forget(model)
        if head is not None:
            vars(head).pop("forward", None)
