"""LoRA added to the matrices that it stands beside, while a model writes: two small products less for each of them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bakeoff.core.packed import held_bytes
from bakeoff.engine import layout
from bakeoff.engine.linear import LoraPair, taken_apart

ROOM = 0.6
"""Share of a GPU's memory that weights and the copies of those that LoRA is added to may take together."""


def pairs(model: Any) -> list[tuple[Any, nn.Linear, LoraPair]]:
    """Each layer of PEFT that is a matrix and a LoRA, with both; without those whose matrix stands elsewhere, too."""
    uses = Counter(id(one) for module in model.modules() for one in module.parameters(recurse=False))
    found = ((module, taken_apart(module)) for module in model.modules())
    return [
        (module, parts[0], parts[1]) for module, parts in found if parts and parts[1] and uses[id(parts[0].weight)] == 1
    ]


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """Inside, every such LoRA is added to its matrix, in fp32, and the sum is rounded as the matrix was; afterwards
    each matrix is what it was, to the bit."""
    changed: list[tuple[Any, nn.Linear, torch.Tensor]] = []
    try:
        for module, layer, pair in pairs(model):
            weight = layer.weight.data
            beside = pair.scaling * (pair.lora_B.detach().float() @ pair.lora_A.detach().float())
            changed.append((module, layer, weight))
            layer.weight.data = (weight.float() + beside).to(weight.dtype)
            module._disable_adapters = True
        yield
    finally:
        for module, layer, weight in changed:
            layer.weight.data, module._disable_adapters = weight, False


def unmergeable(model: Any, memory: int | None) -> str:
    """Why LoRA stays beside its matrices, in a card of so many bytes (None: not counted); empty where there is none."""
    found = pairs(model)
    copied = sum(layer.weight.nbytes for _, layer, _ in found)
    held = sum(map(held_bytes, model.parameters()))
    if memory is not None and held + copied > ROOM * memory:
        return "the memory has no room for a second copy of the matrices that LoRA is added to"
    texts = layout.documents(model)
    before = [layout.whole_logits(model, text) for text in texts]
    with merged(model):
        after = [layout.whole_logits(model, text) for text in texts]
    if not all(layout.same(*both) for both in zip(after, before, strict=True)):
        return "LoRA added to its matrices gives other logits"
    return ""
