"""The sums of a Llama layer in as few passes over memory as they need, with gradients written by hand."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from bakeoff.engine.cpu import native
from bakeoff.engine.linear import Thin

BLOCK = 128
"""Tokens that are computed together: what lies above the diagonal of an attention's other blocks is never computed,
and what a block needs stays in the processor's cache."""


def tokens(x: torch.Tensor) -> Sequence[torch.Tensor]:
    """... x width as pieces of so many rows that what is computed with one stays in the processor's cache."""
    return x.flatten(0, -2).split(BLOCK)


class Norm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Sums in fp32; the quotient is rounded to x's type before it is scaled, as transformers does it."""
        if sums := native.sums(x, weight):
            out, inverse = normed(sums, x, weight, eps)
            ctx.save_for_backward(x, weight, inverse)
            return out
        kind = torch.promote_types(x.dtype, weight.dtype)
        out, inverse = x.new_empty(x.shape, dtype=kind), x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
        ctx.save_for_backward(x, weight, inverse)
        for some, to, scale in zip(tokens(x), tokens(out), tokens(inverse), strict=True):
            wide = some.float()
            torch.mean(wide.square(), -1, keepdim=True, out=scale).add_(eps).rsqrt_()
            torch.mul((wide * scale).to(x.dtype), weight, out=to)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Of x: inverse g w - x inverse^3 mean(g w x)."""
        x, weight, inverse = ctx.saved_tensors
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (gradient * (x * inverse)).flatten(0, -2).sum(0).to(weight.dtype)
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None
        of_x = torch.empty_like(x)
        if sums := native.sums(gradient, x, weight):
            sums.rms_norm_backward(gradient, x, weight, inverse, of_x, inverse.numel(), x.shape[-1])
            return of_x, of_weight, None
        for given, some, scale, to in zip(tokens(gradient), tokens(x), tokens(inverse), tokens(of_x), strict=True):
            wide, given = some.float(), (given * weight).float()
            along = (given * wide).sum(-1, keepdim=True).mul_(scale.pow(3)).div_(-x.shape[-1])
            to.copy_(torch.addcmul(given * scale, wide, along))
        return of_x, of_weight, None


def normed(sums: native.Sums, x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of ... x width by the compiled sums, and 1 / sqrt(mean(x^2) + eps), ... x 1 in fp32."""
    out, inverse = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    sums.rms_norm_forward(x, weight, out, inverse, float(eps), inverse.numel(), x.shape[-1])
    return out, inverse


class Product(torch.autograd.Function):
    """x W' + bias, W frozen, and the thin products beside it (Hu et al. 2021, arXiv:2106.09685), as one."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any, beside: Sequence[Thin], *trained: torch.Tensor
    ) -> torch.Tensor:
        """tokens x outputs from tokens x inputs; `trained` are A and B of each of `beside`, in order."""
        down, up = joined(beside, weight)
        inner = functional.linear(x, down)
        ctx.beside = [(thin.start, *thin.up.shape, thin.scaling) for thin in beside]
        ctx.save_for_backward(x, weight, down, up, inner)
        return functional.linear(x, weight, bias).addmm_(inner, up.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Of x, and of A and B of each thin product in fp32."""
        x, weight, down, up, inner = ctx.saved_tensors
        inward = gradient @ up
        ups, downs = gradient.t() @ inner, inward.t() @ x
        found, at = [], 0
        for start, outputs, rank, scaling in ctx.beside:
            found += [downs[at : at + rank].float(), ups[start : start + outputs, at : at + rank].float() * scaling]
            at += rank
        of_x = (gradient @ weight).addmm_(inward, down) if ctx.needs_input_grad[0] else None
        return of_x, None, None, None, *found


def joined(beside: Sequence[Thin], weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All A as rows (ranks x inputs) and all B scaled, each in its place (outputs x ranks), in the type of `weight`."""
    down = torch.cat([thin.down.detach() for thin in beside]).to(weight.dtype)
    up = weight.new_zeros(weight.shape[0], len(down))
    at = 0
    for thin in beside:
        outputs, rank = thin.up.shape
        up[thin.start : thin.start + outputs, at : at + rank] = thin.up.detach() * thin.scaling
        at += rank
    return down, up


def turn_keys(rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, kept: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys with their positions, and values: tokens x heads x width each, from one row of all a token."""
    width = cos.shape[-1]
    heads = rows.shape[1] // width - kept
    turned, value = rows.unflatten(1, (-1, width)).split((heads, kept), dim=1)
    return turn(turned, cos, sin), value


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864) as Llama has them: tokens x heads x width, halves paired."""
    half = x.shape[-1] // 2
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    turned[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return turned


class Attention(torch.autograd.Function):
    """Positions and causal attention of the documents of a row, from queries, keys and values side by side."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layer: int, segments: Any, kept: int,
        scaling: float,
    ) -> torch.Tensor:  # fmt: skip
        """tokens x heads x width from tokens x (heads + 2 kept) width."""
        turned, value = turn_keys(rows, cos, sin, kept)
        query, keys = turned.split((turned.shape[1] - kept, kept), dim=1)
        ctx.save_for_backward(turned, value, cos, sin)
        ctx.facts = segments.lengths, kept, scaling
        out: torch.Tensor = segments(layer, *(part.transpose(0, 1) for part in (query, keys, value)), scaling)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Of `rows`; the softmax is computed again rather than kept."""
        turned, value, cos, sin = ctx.saved_tensors
        lengths, kept, scaling = ctx.facts
        of_turned, of_value = torch.zeros_like(turned), torch.zeros_like(value)
        ahead = causal_mask(turned.dtype, turned.device)
        for at, start, end in blocks(lengths):
            here, seen, size = slice(at + start, at + end), slice(at, at + end), end - start
            keys, values = turned[seen, -kept:].transpose(0, 1), value[seen].transpose(0, 1)
            query, out = by_key(turned[here, :-kept], kept) * scaling, by_key(gradient[here], kept)
            scores = torch.bmm(query, keys.transpose(1, 2))
            scores.view(-1, size, end)[..., start:] += ahead[:size, :size]
            weight = torch.softmax(scores, dim=-1)
            inner = torch.bmm(out, values.transpose(1, 2))
            scores = torch._softmax_backward_data(inner, weight, -1, weight.dtype)
            of_turned[here, :-kept] = by_head(torch.bmm(scores, keys).mul_(scaling), size)
            of_turned[seen, -kept:] += torch.bmm(scores.transpose(1, 2), query).transpose(0, 1)
            of_value[seen] += torch.bmm(weight.transpose(1, 2), out).transpose(0, 1)
        rows = torch.cat([turn(of_turned, cos, -sin), of_value], dim=1)
        return rows.flatten(1), None, None, None, None, None, None


class CompiledAttention(torch.autograd.Function):
    """What Attention computes, by attention.c."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layer: int, segments: Any, kept: int,
        scaling: float, sums: native.Sums,
    ) -> torch.Tensor:  # fmt: skip
        """tokens x heads x width from tokens x (heads + 2 kept) width."""
        logs = rows.new_empty(rows.shape[1] // cos.shape[-1] - 2 * kept, len(rows), dtype=torch.float32)
        out: torch.Tensor = segments.from_rows(sums, layer, rows, cos, sin, kept, scaling, logs)
        ctx.save_for_backward(rows, cos, sin, logs, out)
        ctx.facts = segments, kept, scaling, sums
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Of `rows`."""
        rows, cos, sin, logs, out = ctx.saved_tensors
        segments, kept, scaling, sums = ctx.facts
        found = segments.of_rows(sums, rows, cos, sin, kept, scaling, logs, out, gradient.contiguous())
        return found, None, None, None, None, None, None, None


def blocks(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """For each block of queries: where its document starts in the row, and the block's start and end in that."""
    at = 0
    for length in lengths:
        for start in range(0, length, BLOCK):
            yield at, start, min(start + BLOCK, length)
        at += length


def by_key(x: torch.Tensor, kept: int) -> torch.Tensor:
    """kept x (heads / kept) tokens x width from tokens x heads x width: all queries of a key head as one matrix."""
    return x.transpose(0, 1).reshape(kept, -1, x.shape[-1])


def by_head(x: torch.Tensor, tokens: int) -> torch.Tensor:
    """Back to tokens x heads x width."""
    return x.view(-1, tokens, x.shape[-1]).transpose(0, 1)


@functools.lru_cache(maxsize=8)
def causal_mask(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """BLOCK x BLOCK: minus infinity above the diagonal, 0 elsewhere."""
    return torch.full((BLOCK, BLOCK), -torch.inf, dtype=dtype, device=device).triu_(1)


class Gate(torch.autograd.Function):
    """silu(gate) up, from gate and up side by side (Shazeer 2020, arXiv:2002.05202)."""

    @staticmethod
    def forward(ctx: Any, both: torch.Tensor) -> torch.Tensor:
        """... x inner from ... x 2 inner."""
        ctx.save_for_backward(both)
        if sums := native.sums(both):
            return gated(sums, both)
        out = both.new_empty(*both.shape[:-1], both.shape[-1] // 2)
        for (gate, up), to in zip(halves(both), tokens(out), strict=True):
            torch.mul(functional.silu(gate), up, out=to)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Of both; silu is computed again rather than kept."""
        [both] = ctx.saved_tensors
        found = torch.empty_like(both)
        if sums := native.sums(gradient, both):
            sums.swiglu_backward(gradient, both, found, gradient.numel() // gradient.shape[-1], gradient.shape[-1])
            return found
        for (gate, up), (of_gate, of_up), given in zip(halves(both), halves(found), tokens(gradient), strict=True):
            torch.ops.aten.silu_backward.grad_input(given * up, gate, grad_input=of_gate)
            torch.mul(functional.silu(gate), given, out=of_up)
        return found


def gated(sums: native.Sums, both: torch.Tensor) -> torch.Tensor:
    """... x inner from ... x 2 inner by the compiled sums."""
    out = both.new_empty(*both.shape[:-1], both.shape[-1] // 2)
    sums.swiglu_forward(both, out, out.numel() // out.shape[-1], out.shape[-1])
    return out


def halves(x: torch.Tensor) -> Iterator[Sequence[torch.Tensor]]:
    """Gate and up of each of `tokens`."""
    return (piece.chunk(2, dim=-1) for piece in tokens(x))
