"""Attention of the documents of a row by the compiled sums: queries in blocks, each contiguous in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from bakeoff import native
from bakeoff.kernels import blocks

Places = tuple[torch.Tensor, torch.Tensor]
"""For each token the start and the size of its block, int32."""


@dataclass(frozen=True)
class Block:
    """Some queries of a document."""

    at: int
    """Where the document starts in the row."""
    length: int
    """Tokens of the document."""
    start: int
    """The first query's place in the document."""
    end: int

    def queries(self, tensor: torch.Tensor, kept: int) -> torch.Tensor:
        """kept x (heads / kept) queries x width, in place, of heads x tokens x width in blocks."""
        heads, _, width = tensor.shape
        first, last = ((self.at + place) * heads * width for place in (self.start, self.end))
        return tensor.view(-1)[first:last].view(kept, -1, width)

    def seen(self, tensor: torch.Tensor) -> torch.Tensor:
        """kept x tokens up to the last query x width, in place, of kept x tokens x width in documents."""
        kept, _, width = tensor.shape
        first, last = ((self.at + place) * kept * width for place in (0, self.length))
        return tensor.view(-1)[first:last].view(kept, -1, width)[:, : self.end]


class Layout:
    """Where the heads of a row's tokens lie: queries block by block, keys and values document by document.

    A block is heads x its tokens x width, so that all queries of a key head are one matrix.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        sizes = {at: length for at, length in zip(offsets(lengths), lengths, strict=True) if length}
        self.blocks = [Block(at, sizes[at], start, end) for at, start, end in blocks(lengths)]
        self.queries = places([block.end - block.start for block in self.blocks])
        self.documents = places(lengths)


def offsets(sizes: Sequence[int]) -> list[int]:
    """Where each of `sizes` starts when they stand one after another."""
    starts: list[int] = torch.tensor([0, *sizes]).cumsum(0)[:-1].tolist()
    return starts


def places(sizes: Sequence[int]) -> Places:
    """Of the tokens of blocks of `sizes`."""
    counts = torch.tensor(sizes)
    return torch.tensor(offsets(sizes)).repeat_interleave(counts).int(), counts.repeat_interleave(counts).int()


def turned(
    sums: native.Sums, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, kept: int, queries: Places,
    documents: Places,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Queries and keys with their positions, and values, in blocks: heads x tokens x width each.

    `rows` are tokens x (heads + 2 kept) width.
    """
    width = cos.shape[-1]
    heads = rows.shape[1] // width - 2 * kept
    query, key, value = (rows.new_empty(count, len(rows), width) for count in (heads, kept, kept))
    sums.turn_rows(rows, cos, sin, query, key, value, *queries, *documents, len(rows), heads, kept, width, 0)
    return query, key, value


class BlockAttention(torch.autograd.Function):
    """What kernels.Attention computes, with fewer ways through memory."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: Layout, kept: int, scaling: float,
        sums: native.Sums,
    ) -> torch.Tensor:  # fmt: skip
        """tokens x heads x width from tokens x (heads + 2 kept) width."""
        query, key, value = turned(sums, rows, cos, sin, kept, layout.queries, layout.documents)
        out = torch.empty_like(query)
        for block in layout.blocks:
            shares = weights(sums, block, query, key, scaling)
            torch.bmm(shares, block.seen(value), out=block.queries(out, kept))
        ctx.save_for_backward(query, key, value, cos, sin)
        ctx.facts = layout, scaling, sums
        heads, tokens, width = query.shape
        found = rows.new_empty(tokens, heads, width)
        sums.move_rows(found, out, *layout.queries, tokens, heads, width, 1)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Of `rows`; the softmax is computed again rather than kept."""
        query, key, value, cos, sin = ctx.saved_tensors
        layout, scaling, sums = ctx.facts
        (heads, tokens, width), kept = query.shape, len(key)
        given, of_query = torch.empty_like(query), torch.empty_like(query)
        of_key, of_value = torch.zeros_like(key), torch.zeros_like(value)
        sums.move_rows(gradient.contiguous(), given, *layout.queries, tokens, heads, width, 0)
        for block in layout.blocks:
            shares, out = weights(sums, block, query, key, scaling), block.queries(given, kept)
            of_scores = torch.bmm(out, block.seen(value).transpose(1, 2))
            size = block.end - block.start
            sums.softmax_backward(shares, of_scores, scaling, heads * size, block.end, size, block.start)
            torch.bmm(of_scores, block.seen(key), out=block.queries(of_query, kept))
            block.seen(of_key).baddbmm_(of_scores.transpose(1, 2), block.queries(query, kept))
            block.seen(of_value).baddbmm_(shares.transpose(1, 2), out)
        rows = gradient.new_empty(tokens, (heads + 2 * kept) * width)
        parts = of_query, of_key, of_value, *layout.queries, *layout.documents
        sums.turn_rows(rows, cos, sin, *parts, tokens, heads, kept, width, 1)
        return rows, None, None, None, None, None, None


def weights(sums: native.Sums, block: Block, query: torch.Tensor, key: torch.Tensor, scaling: float) -> torch.Tensor:
    """Softmax of the block's causal scores: kept x (heads / kept) queries x tokens up to the last query."""
    size = block.end - block.start
    scores = query.new_empty(len(key), len(query) // len(key) * size, block.end)
    # Into a tensor of its own: autocast would give products of fp32 another type, which the sums can't read.
    torch.bmm(block.queries(query, len(key)), block.seen(key).transpose(1, 2), out=scores)
    sums.softmax_forward(scores, scaling, len(query) * size, block.end, size, block.start)
    return scores
