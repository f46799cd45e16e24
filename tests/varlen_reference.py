"""torch.nn.attention.varlen's function for a CPU and every type, as its documentation says it computes."""

import math

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
