"""A Llama layer in as few passes over memory as they need, with gradients written by hand."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from bakeoff.engine.cpu import native
from bakeoff.engine.linear import LoraPair

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
        if kernels := native.kernels_for(x, weight):
            out, inverse = normed(kernels, x, weight, eps)
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
        if kernels := native.kernels_for(gradient, x, weight):
            kernels.rms_norm_backward(gradient, x, weight, inverse, of_x, inverse.numel(), x.shape[-1])
            return of_x, of_weight, None
        for given, some, scale, to in zip(tokens(gradient), tokens(x), tokens(inverse), tokens(of_x), strict=True):
            wide, given = some.float(), (given * weight).float()
            along = (given * wide).sum(-1, keepdim=True).mul_(scale.pow(3)).div_(-x.shape[-1])
            to.copy_(torch.addcmul(given * scale, wide, along))
        return of_x, of_weight, None


def normed(
    kernels: native.Kernels, x: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of ... x width by the compiled kernels, and 1 / sqrt(mean(x^2) + eps), ... x 1 in fp32."""
    out, inverse = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    kernels.rms_norm_forward(x, weight, out, inverse, float(eps), inverse.numel(), x.shape[-1])
    return out, inverse


class Product(torch.autograd.Function):
    """x W' + bias, W frozen, and the LoRA pairs beside it (Hu et al. 2021, arXiv:2106.09685), as one."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any, beside: Sequence[LoraPair], *trained: torch.Tensor
    ) -> torch.Tensor:
        """tokens x outputs from tokens x inputs; `trained` are A and B of each of `beside`, in order."""
        down, up = joined(beside, weight)
        inner = functional.linear(x, down)
        ctx.beside = [(pair.start, *pair.lora_B.shape, pair.scaling) for pair in beside]
        ctx.save_for_backward(x, weight, down, up, inner)
        return functional.linear(x, weight, bias).addmm_(inner, up.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Of x, and of A and B of each LoRA pair in fp32."""
        x, weight, down, up, inner = ctx.saved_tensors
        inward = gradient @ up
        ups, downs = gradient.t() @ inner, inward.t() @ x
        found, at = [], 0
        for start, outputs, rank, scaling in ctx.beside:
            found += [downs[at : at + rank].float(), ups[start : start + outputs, at : at + rank].float() * scaling]
            at += rank
        of_x = (gradient @ weight).addmm_(inward, down) if ctx.needs_input_grad[0] else None
        return of_x, None, None, None, *found


def joined(beside: Sequence[LoraPair], weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All A as rows (ranks x inputs) and all B scaled, each in its place (outputs x ranks), in the type of `weight`."""
    down = torch.cat([pair.lora_A.detach() for pair in beside]).to(weight.dtype)
    up = weight.new_zeros(weight.shape[0], len(down))
    at = 0
    for pair in beside:
        outputs, rank = pair.lora_B.shape
        up[pair.start : pair.start + outputs, at : at + rank] = pair.lora_B.detach() * pair.scaling
        at += rank
    return down, up


def rope_queries_and_keys(
    rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, n_kv_heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys with their positions, and values: tokens x heads x width each, from one row of all a token."""
    width = cos.shape[-1]
    heads = rows.shape[1] // width - n_kv_heads
    turned, value = rows.unflatten(1, (-1, width)).split((heads, n_kv_heads), dim=1)
    return apply_rope(turned, cos, sin), value


def apply_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
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
        ctx: Any, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layer: int, segments: Any, n_kv_heads: int,
        scaling: float,
    ) -> torch.Tensor:  # fmt: skip
        """tokens x heads x width from tokens x (n_heads + 2 n_kv_heads) width."""
        turned, value = rope_queries_and_keys(rows, cos, sin, n_kv_heads)
        query, keys = turned.split((turned.shape[1] - n_kv_heads, n_kv_heads), dim=1)
        ctx.save_for_backward(turned, value, cos, sin)
        ctx.constants = segments.lengths, n_kv_heads, scaling
        out: torch.Tensor = segments(layer, *(part.transpose(0, 1) for part in (query, keys, value)), scaling)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Of `rows`; the softmax is computed again rather than kept."""
        turned, value, cos, sin = ctx.saved_tensors
        lengths, n_kv_heads, scaling = ctx.constants
        of_turned, of_value = torch.zeros_like(turned), torch.zeros_like(value)
        ahead = causal_mask(turned.dtype, turned.device)
        for at, start, end in blocks(lengths):
            here, visible, size = slice(at + start, at + end), slice(at, at + end), end - start
            keys, values = turned[visible, -n_kv_heads:].transpose(0, 1), value[visible].transpose(0, 1)
            query, out = by_key(turned[here, :-n_kv_heads], n_kv_heads) * scaling, by_key(gradient[here], n_kv_heads)
            scores = torch.bmm(query, keys.transpose(1, 2))
            scores.view(-1, size, end)[..., start:] += ahead[:size, :size]
            weight = torch.softmax(scores, dim=-1)
            inner = torch.bmm(out, values.transpose(1, 2))
            scores = torch._softmax_backward_data(inner, weight, -1, weight.dtype)
            of_turned[here, :-n_kv_heads] = by_head(torch.bmm(scores, keys).mul_(scaling), size)
            of_turned[visible, -n_kv_heads:] += torch.bmm(scores.transpose(1, 2), query).transpose(0, 1)
            of_value[visible] += torch.bmm(weight.transpose(1, 2), out).transpose(0, 1)
        rows = torch.cat([apply_rope(of_turned, cos, -sin), of_value], dim=1)
        return rows.flatten(1), None, None, None, None, None, None


class CompiledAttention(torch.autograd.Function):
    """What Attention computes, by attention.c."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layer: int, segments: Any, n_kv_heads: int,
        scaling: float, kernels: native.Kernels,
    ) -> torch.Tensor:  # fmt: skip
        """tokens x heads x width from tokens x (n_heads + 2 n_kv_heads) width."""
        logs = rows.new_empty(rows.shape[1] // cos.shape[-1] - 2 * n_kv_heads, len(rows), dtype=torch.float32)
        out: torch.Tensor = segments.from_rows(kernels, layer, rows, cos, sin, n_kv_heads, scaling, logs)
        ctx.save_for_backward(rows, cos, sin, logs, out)
        ctx.constants = segments, n_kv_heads, scaling, kernels
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Of `rows`."""
        rows, cos, sin, logs, out = ctx.saved_tensors
        segments, n_kv_heads, scaling, kernels = ctx.constants
        found = segments.of_rows(kernels, rows, cos, sin, n_kv_heads, scaling, logs, out, gradient.contiguous())
        return found, None, None, None, None, None, None, None


def blocks(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """For each block of queries: where its document starts in the row, and the block's start and end in that."""
    at = 0
    for length in lengths:
        for start in range(0, length, BLOCK):
            yield at, start, min(start + BLOCK, length)
        at += length


def by_key(x: torch.Tensor, n_kv_heads: int) -> torch.Tensor:
    """All queries of a key head as one matrix: n_kv_heads x (group tokens) x width of tokens x n_heads x width."""
    return x.transpose(0, 1).reshape(n_kv_heads, -1, x.shape[-1])


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
        if kernels := native.kernels_for(both):
            return gated(kernels, both)
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
        if kernels := native.kernels_for(gradient, both):
            kernels.swiglu_backward(gradient, both, found, gradient.numel() // gradient.shape[-1], gradient.shape[-1])
            return found
        for (gate, up), (of_gate, of_up), given in zip(halves(both), halves(found), tokens(gradient), strict=True):
            torch.ops.aten.silu_backward.grad_input(given * up, gate, grad_input=of_gate)
            torch.mul(functional.silu(gate), given, out=of_up)
        return found


def gated(kernels: native.Kernels, both: torch.Tensor) -> torch.Tensor:
    """... x inner from ... x 2 inner by the compiled kernels."""
    out = both.new_empty(*both.shape[:-1], both.shape[-1] // 2)
    kernels.swiglu_forward(both, out, out.numel() // out.shape[-1], out.shape[-1])
    return out


def halves(x: torch.Tensor) -> Iterator[Sequence[torch.Tensor]]:
    """Gate and up of each of `tokens`."""
    return (piece.chunk(2, dim=-1) for piece in tokens(x))
