"""Tokens with which all documents of a row begin, once in it: who has which, and what that means for a gradient."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.activations import SiLUActivation

from bakeoff.config.schema import Computation
from bakeoff.engine.cpu import native
from bakeoff.engine.linear import hooked

SILU = (nn.SiLU, SiLUActivation)
PLAIN = (*SILU, nn.Linear, nn.Embedding, nn.Identity, nn.Dropout, nn.ModuleList, nn.ModuleDict, nn.ParameterDict)
KNOWN = ("transformers.", "peft.peft_model", "peft.tuners.tuners_utils", "peft.tuners.lora.",
         "peft.tuners.prompt_tuning.")  # fmt: skip
"""Where the classes come from that treat each token alone but for attention."""
WORTH = {False: 0.02, True: 0.3}
"""Share of a row's tokens that must fall away for it to be copied, which costs the more of a step the quicker the rest
is. True: in bf16 with the tiles of layer.c; a step without 700 of 2,255 tokens was 1.02x quicker there, without 420 of
1,975 0.96x."""


def common(ids: torch.Tensor, lengths: Sequence[int], keep: torch.Tensor) -> int:
    """How many tokens, before any whose logits are wanted, are the same in all documents of a row."""
    size = min(int(part[0].int().argmax()) for part in keep.split(list(lengths), dim=1))
    first = torch.stack([part[0, :size] for part in ids.split(list(lengths), dim=1)])
    return int((first == first[0]).all(dim=0).int().cumprod(0).sum())


def offsets(sizes: Sequence[int]) -> list[int]:
    """Where each of `sizes` starts when they stand one after another."""
    starts: list[int] = torch.tensor([0, *sizes]).cumsum(0)[:-1].tolist()
    return starts


class SharedPrefix:
    """Documents whose first `count` tokens are the same, once in a row."""

    def __init__(self, lengths: Sequence[int], count: int, device: Any) -> None:
        """`lengths` are tokens of each document, the shared ones included."""
        starts = offsets(lengths)
        own = [length - count for length in lengths]
        front = torch.arange(count)
        parts = torch.arange(count, count + sum(own)).split(own)
        self.copies = torch.cat([piece for part in parts for piece in (front, part)]).to(device)
        """For each token of each document its place in the row."""
        rest = [torch.arange(at + count, at + length) for at, length in zip(starts, lengths, strict=True)]
        self.row = torch.cat([front, *rest]).to(device)
        """For each token of the row its place where every document has all of its own."""
        self.fronts = torch.cat([front + at for at in starts]).to(device)
        """The places of the shared tokens of each document, where every document has all of its own."""
        self.documents = len(lengths)

    def of_row(self, gradient: torch.Tensor, dim: int = 0) -> torch.Tensor:
        """The row's gradient from all documents', tokens along `dim`.

        What they add to a shared token's is summed in fp32, rounded once.
        """
        found = gradient.index_select(dim, self.row)
        fronts = gradient.index_select(dim, self.fronts).unflatten(dim, (self.documents, -1))
        found.narrow(dim, 0, fronts.shape[dim + 1]).copy_(fronts.sum(dim, dtype=torch.float32))
        return found


class Copies(torch.autograd.Function):
    """The tokens of each document, one document after another, from a row where the shared ones stand once."""

    @staticmethod
    def forward(ctx: Any, row: torch.Tensor, shared: SharedPrefix) -> torch.Tensor:
        """All documents' tokens x ... from tokens of the row x ..."""
        ctx.shared = shared
        return row.index_select(0, shared.copies)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Of `row`."""
        return ctx.shared.of_row(gradient), None


def sharing(model: nn.Module, where: Computation) -> Callable[[int, int], bool] | None:
    """Whether a row of `model` is worth copying if so many of so many tokens fall away; None where none may."""
    kernels = native.kernels_for(torch.empty(0, dtype=torch.bfloat16)) if where.precision == "bf16" else None
    least = WORTH[kernels is not None and kernels.tiles]
    return (lambda gone, tokens: gone >= least * tokens and tokens_alone(model)) if where.shared_prefix else None


def tokens_alone(model: nn.Module) -> bool:
    """Whether all of `model` but its attention treats each token alone and alike, so that equal ones may be one.

    What it can't know says no: a class of a method's own, a patch, a hook, and dropout in training.
    """
    for module in model.modules():
        kind, patch = type(module), vars(module).get("forward", tokens_alone)
        known = kind in PLAIN or kind.__module__.startswith(KNOWN)
        computes = (kind.forward, getattr(patch, "func", patch))
        if not known or hooked(module) or (model.training and vars(module).get("p")):
            return False
        if any(not function.__module__.startswith(("bakeoff.", "torch.nn.", *KNOWN)) for function in computes):
            return False
    return True
