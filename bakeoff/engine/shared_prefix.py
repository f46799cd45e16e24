"""Tokens with which all documents of a row begin, once in it: who has which, and what that means for a gradient."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable


def common(ids: torch.Tensor, lengths: Sequence[int], keep: torch.Tensor) -> int:
    """How many tokens, before any whose logits are wanted, are the same in all documents of a row."""
    size = min(int(part[0].int().argmax()) for part in keep.split(list(lengths), dim=1))
    first = torch.stack([part[0, :size] for part in ids.split(list(lengths), dim=1)])
    return int((first == first[0]).all(dim=0).int().cumprod(0).sum())


def offsets(sizes: Sequence[int]) -> list[int]:
    """Where each of `sizes` starts when they stand one after another."""
    starts: list[int] = torch.tensor([0, *sizes]).cumsum(0)[:-1].tolist()
    return starts


class Shared:
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
    def forward(ctx: Any, row: torch.Tensor, shared: Shared) -> torch.Tensor:
        """All documents' tokens x ... from tokens of the row x ..."""
        ctx.shared = shared
        return row.index_select(0, shared.copies)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Of `row`."""
        return ctx.shared.of_row(gradient), None
