"""torch.nn.attention.varlen's function for a CPU and every type, as its documentation says it computes.

`opaque` is the same as an operator into which torch.compile can't look, as torch's own is.
"""

import math
from itertools import pairwise

import torch


def varlen_attn(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1),
    enable_gqa=False, seqused_k=None, block_table=None, num_splits=None,
):  # fmt: skip
    """Tokens x heads x width; windows (left, 0) alone, and none."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and window_size[1] in (0, -1)
    assert enable_gqa == (query.shape[1] != key.shape[1]) and block_table is None and return_aux is None
    bounds, key_bounds, found = cu_seq_q.tolist(), cu_seq_k.tolist(), []
    used = seqused_k.tolist() if seqused_k is not None else [None] * (len(bounds) - 1)
    for number, count in enumerate(used):
        q = query[bounds[number] : bounds[number + 1]].transpose(0, 1)
        keys = slice(key_bounds[number], key_bounds[number + 1] if count is None else key_bounds[number] + count)
        k, v = (part[keys].transpose(0, 1).repeat_interleave(len(q) // part.shape[1], 0) for part in (key, value))
        assert q.shape[1] <= max_q and k.shape[1] <= max_k
        behind = torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1] - torch.arange(k.shape[1])
        seen = (behind >= 0 if window_size[1] == 0 else torch.ones_like(behind, dtype=torch.bool)) & (
            (behind <= window_size[0]) if window_size[0] >= 0 else True
        )
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(~seen, -math.inf)
        found.append((torch.softmax(scores, -1) @ v).transpose(0, 1))
    return torch.cat(found)


def opaque(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa=False, **others):
    """As `varlen_attn`; with a cache, which no gradient goes through, it is that."""
    given = query, key, value, cu_seq_q, cu_seq_k, max_q, max_k
    if others:
        return varlen_attn(*given, scale=scale, window_size=window_size, enable_gqa=enable_gqa, **others)
    return operator(*given, scale, window_size[0], enable_gqa)


@torch.library.custom_op("bakeoff_tests::varlen", mutates_args=())
def operator(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor,
    max_q: int, max_k: int, scale: float, left: int, grouped: bool,
) -> torch.Tensor:  # fmt: skip
    """Causal `varlen_attn` with a window of `left` tokens before each."""
    return varlen_attn(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=(left, 0), enable_gqa=grouped
    )


@torch.library.custom_op("bakeoff_tests::varlen_backward", mutates_args=())
def operator_backward(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, offsets: torch.Tensor,
    scale: float, left: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of query, key and value: those of softmax(QK')V, for which autograd can't be asked here."""
    group, found = query.shape[1] // key.shape[1], [torch.empty_like(part) for part in (query, key, value)]
    bounds = offsets.tolist()
    for start, end in pairwise(bounds):
        q, up = (part[start:end].transpose(0, 1) for part in (query, gradient))
        k, v = (part[start:end].transpose(0, 1).repeat_interleave(group, 0) for part in (key, value))
        behind = torch.arange(end - start)[:, None] - torch.arange(end - start)
        seen = (behind >= 0) & ((behind <= left) if left >= 0 else True)
        weights = torch.softmax((q @ k.transpose(1, 2) * scale).masked_fill(~seen, -math.inf), -1)
        of_weights = up @ v.transpose(1, 2)
        of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True)) * scale
        parts = of_scores @ k, of_scores.transpose(1, 2) @ q, weights.transpose(1, 2) @ up
        for to, part, times in zip(found, parts, (1, group, group), strict=True):
            to[start:end] = part.unflatten(0, (-1, times)).sum(1).transpose(0, 1)
    return tuple(found)


@operator.register_fake
def _(query, key, value, *others):
    return query.new_empty(*query.shape[:2], value.shape[2])


@operator_backward.register_fake
def _(gradient, query, key, value, *others):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def keep(ctx, inputs, output):
    """Keeps for the backward pass what it needs."""
    ctx.save_for_backward(*inputs[:4])
    ctx.others = inputs[7], inputs[8]


def backward(ctx, gradient):
    """Gradients of query, key and value, and none of the rest."""
    return *operator_backward(gradient, *ctx.saved_tensors, *ctx.others), *[None] * 7


operator.register_autograd(backward, setup_context=keep)
