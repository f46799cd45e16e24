"""The linear layers of a model: what they are made of, and how their weights stand in memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoRALinear
from torch import nn

WIDE = 32
"""Outputs of a panel of weights, and what numbers of inputs and outputs must be a multiple of to be put into panels."""


@dataclass
class LoraPair:
    """A LoRA beside some columns of a product: x lora_A' lora_B' scaling."""

    lora_A: torch.Tensor
    """rank x d_in"""
    lora_B: torch.Tensor
    """d_out x rank"""
    scaling: float
    start: int
    """Its first column in the product."""


def taken_apart(layer: Any) -> tuple[nn.Linear, LoraPair | None] | None:
    """A linear layer and PEFT's LoRA beside it, if that is all that there is; None for anything else."""
    if untouched(layer, nn.Linear):
        return layer, None
    if not untouched(layer, LoRALinear) or not untouched(layer.base_layer, nn.Linear):
        return None
    if layer.merged or layer.disable_adapters or layer.fan_in_fan_out or len(layer.active_adapters) != 1:
        return None
    [name] = layer.active_adapters
    if name not in layer.lora_A or layer.lora_variant.get(name) or layer.lora_bias[name]:
        return None
    if not untouched(layer.lora_A[name], nn.Linear) or not untouched(layer.lora_B[name], nn.Linear):
        return None
    noise = layer.lora_dropout[name]
    if not untouched(noise, nn.Identity, nn.Dropout) or (layer.training and getattr(noise, "p", 0.0) > 0):
        return None
    lora_A: Any = layer.lora_A[name].weight
    lora_B: Any = layer.lora_B[name].weight
    return layer.base_layer, LoraPair(lora_A, lora_B, layer.scaling[name], 0)


def untouched(module: Any, *kinds: type) -> bool:
    """Whether `module` is of one of `kinds`, no subclass, and a method neither listens to it nor patched it."""
    return type(module) in kinds and not hooked(module) and "forward" not in vars(module)


def hooked(module: nn.Module) -> bool:
    """Whether a method listens to what `module` is given or returns."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def group(module: nn.Module, names: Sequence[str]) -> tuple[list[nn.Linear], list[LoraPair]] | None:
    """The linear layers `names` of `module` and what stands beside which columns; None where one is another thing."""
    layers, beside, start = [], [], 0
    for name in names:
        found = taken_apart(getattr(module, name))
        if found is None:
            return None
        layer, pair = found
        if pair:
            pair.start = start
            beside.append(pair)
        layers.append(layer)
        start += len(layer.weight)
    if len({layer.bias is None for layer in layers}) > 1:
        return None
    return layers, beside


def trained_in(beside: Sequence[LoraPair]) -> list[torch.Tensor]:
    """A and B of each LoRA pair, in order."""
    return [tensor for pair in beside for tensor in (pair.lora_A, pair.lora_B)]


def stack(module: nn.Module, names: Sequence[str]) -> None:
    """Puts the frozen weights of linear layers that read the same input behind one another in memory."""
    found = group(module, names)
    if found and not any(parameter.requires_grad for layer in found[0] for parameter in layer.parameters()):
        weights = [layer.weight for layer in found[0]]
        rows = torch.cat([weight.detach() for weight in weights])
        for weight, part in zip(weights, rows.split([len(weight) for weight in weights]), strict=True):
            weight.data = part


def stacked(layers: Sequence[nn.Linear]) -> torch.Tensor | None:
    """The weights of `layers` as one frozen matrix, if they stand behind one another in memory."""
    first, rows = layers[0].weight, 0
    for layer in layers:
        weight = layer.weight
        if weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad) or not weight.is_contiguous():
            return None
        if weight.data_ptr() != first.data_ptr() + rows * first.shape[1] * first.itemsize:
            return None
        rows += len(weight)
    if first.untyped_storage().nbytes() < (first.storage_offset() + rows * first.shape[1]) * first.itemsize:
        return None
    return first.detach().as_strided((rows, first.shape[1]), (first.shape[1], 1))


def side_by_side(layers: Sequence[nn.Linear]) -> torch.Tensor:
    """The weights of `layers` as one matrix in memory, row after row: as they stand, else a copy."""
    found = stacked(layers)
    return torch.cat([layer.weight.detach() for layer in layers]) if found is None else found


def packed_by_torch(weight: torch.Tensor) -> torch.Tensor:
    """outputs x inputs, in bf16: for each WIDE outputs, two inputs of each of them after another."""
    return weight.unflatten(0, (-1, WIDE)).unflatten(2, (-1, 2)).transpose(1, 2).contiguous()


def plain_head(model: Any) -> nn.Linear | None:
    """The output head of `model` where it is a matrix and nothing else."""
    head = model.get_output_embeddings()
    found = taken_apart(head) if head is not None else None
    return head if found and not found[1] and head.bias is None else None


@contextmanager
def passed_by(head: nn.Module) -> Iterator[None]:
    """Inside, `head` returns what it is given, so that a model's logits are its last hidden states."""
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del head.forward
