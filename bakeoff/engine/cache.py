"""Decoding with keys and values kept in place: whole prompts, then one new token for each row at a time."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from bakeoff.engine.attention import CAUSAL, Documents, Variant, softmax_of, squeezed
from bakeoff.engine.cpu import native
from bakeoff.engine.shared_prefix import SharedPrefix


class Cache:
    """Keys and values of several rows, allocated once: layer -> two tensors of rows x heads x capacity x width."""

    def __init__(self, rows: int, capacity: int) -> None:
        self.rows, self.capacity = rows, padded(capacity)
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def of(
        self, layer: int, like: torch.Tensor, value: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The two tensors of `layer`; `like` is heads x tokens x width, and so is a `value` of another width."""
        if layer not in self.layers:
            wide = like if value is None else value
            self.layers[layer] = (
                like.new_zeros(self.rows, like.shape[0], self.capacity, like.shape[2]),
                wide.new_zeros(self.rows, wide.shape[0], self.capacity, wide.shape[2]),
            )
        return self.layers[layer]

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` tokens of a row over another row's."""
        for tensors in self.layers.values():
            for tensor in tensors:
                tensor[target, :, : padded(length)] = tensor[source, :, : padded(length)]


def padded(length: int) -> int:
    """The next multiple of 32: the compiled kernels read so many tokens at a time, and leave 0 where none is yet."""
    return math.ceil(length / 32) * 32


class Prefill(Documents):
    """Whole prompts, one after another in a row, each kept in a row of the cache of its own."""

    def __init__(self, lengths: Sequence[int], cache: Cache, rows: Sequence[int], flash: bool = False) -> None:
        super().__init__(lengths, flash)
        self.cache, self.rows = cache, rows

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float,
        variant: Variant = CAUSAL,
    ) -> torch.Tensor:  # fmt: skip
        keys, values = self.cache.of(layer, key, value)
        for row, k, v in zip(self.rows, key.split(self.lengths, dim=1), value.split(self.lengths, dim=1), strict=True):
            for tensor, part in ((keys, k), (values, v)):
                tensor[row, :, : part.shape[1]] = part
                tensor[row, :, part.shape[1] : padded(part.shape[1])] = 0
        return super().__call__(layer, query, key, value, scaling, variant)

    def cached_kv(self, layer: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where the compiled kernels keep keys and values, and each document's row there."""
        keys, values = self.cache.of(layer, like)
        if keys.dtype != like.dtype:
            raise TypeError(f"the cache holds {keys.dtype}, a prompt brings {like.dtype}")
        if max(self.lengths) > self.cache.capacity or not set(self.rows) <= set(range(self.cache.rows)):
            raise ValueError(f"prompts of {self.lengths} tokens don't fit into {self.cache.capacity} of the cache")
        if len(self.rows) != len(self.lengths):
            raise ValueError(f"{len(self.lengths)} prompts are given {len(self.rows)} rows of the cache")
        return keys, values, torch.tensor(self.rows)


class Step:
    """One new token for each of the first rows of the cache; a token sees its own row alone."""

    wanted: torch.Tensor | None = None
    shared: SharedPrefix | None = None
    indexed = False

    def __init__(self, cache: Cache, lengths: Sequence[int], device: Any) -> None:
        """`lengths` are tokens in the cache before this step."""
        self.cache = cache
        self.at = torch.tensor(lengths, device=device)
        self.rows = torch.arange(len(lengths), device=device)
        self.longest = max(lengths) + 1
        self.mask = torch.arange(self.longest, device=device) <= self.at[:, None, None, None]

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float,
        variant: Variant = CAUSAL,
    ) -> torch.Tensor:  # fmt: skip
        keys, values = self.cache.of(layer, key, value)
        keys[self.rows, :, self.at] = key.transpose(0, 1).to(keys.dtype)
        values[self.rows, :, self.at] = value.transpose(0, 1).to(values.dtype)
        heads, rows, width = query.shape
        # The queries that share a key head stand where a kernel expects tokens: no key is copied for them.
        grouped = query.transpose(0, 1).reshape(rows, key.shape[0], -1, width).to(keys.dtype)
        cached, held = keys[:rows, :, : self.longest], values[:rows, :, : self.longest]
        mask = self.mask
        if variant.window:
            mask = mask & (
                torch.arange(self.longest, device=mask.device) > self.at[:, None, None, None] - variant.window
            )
        if variant.softcap:
            scores = squeezed(grouped @ cached.transpose(2, 3) * scaling, variant.softcap)
            out = softmax_of(scores, mask) @ held
        else:
            out = scaled_dot_product_attention(grouped, cached, held, attn_mask=mask, scale=scaling)
        return out.reshape(rows, heads, held.shape[3])

    def from_rows(
        self, kernels: native.Kernels, layer: int, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor,
        n_kv_heads: int, scaling: float,
    ) -> torch.Tensor:  # fmt: skip
        """The same from tokens x (n_heads + 2 n_kv_heads) width before their positions, by the compiled kernels."""
        keys, values = self.cached_kv(layer, rows)
        width = cos.shape[-1]
        heads = rows.shape[1] // width - 2 * n_kv_heads
        out = rows.new_empty(len(rows), heads, width)
        kernels.attention_step(
            rows, cos, sin, keys, values, self.at, out, float(scaling),
            len(rows), heads, n_kv_heads, width, keys.shape[2],
        )  # fmt: skip
        return out

    def cached_kv(self, layer: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the kernels keep keys and values. Raises ValueError or TypeError where `rows` don't fit there."""
        keys, values = self.cache.layers[layer]
        if self.longest > keys.shape[2] or len(rows) > len(keys):
            raise ValueError(
                f"{len(rows)} rows of {self.longest} tokens don't fit into {len(keys)} of {keys.shape[2]} of the cache"
            )
        if keys.dtype != rows.dtype:
            raise TypeError(f"the cache holds {keys.dtype}, a step brings {rows.dtype}")
        return keys, values
