"""Attention over documents in one row by torch's flash attention: one kernel for all of them.

It takes bf16 and fp16, heads up to 256 wide, groups of queries and windows. What it does not take is computed as
`Documents` computes it, or over the whole cache.

Gradients: the backward pass adds in a fixed order if `torch.use_deterministic_algorithms(True)` is set without
`warn_only`, as config/hardware.py's `repeatable` does around every backward pass.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from bakeoff.engine.attention import CAUSAL, Documents, Variant, softmax_of, squeezed
from bakeoff.engine.batches import to_device
from bakeoff.engine.shared_prefix import SharedPrefix

WIDEST = 256
"""Largest width of a head that flash attention takes."""
HALF = (torch.bfloat16, torch.float16)
DEVICES = ("cuda", "meta")
"""Where torch has it; without values on the device `meta`."""


def varlen_attn(*given: Any, **named: Any) -> torch.Tensor:
    """torch.nn.attention.varlen's function; tests put a reference for a CPU in its place."""
    from torch.nn.attention import varlen

    found = varlen.varlen_attn(*given, **named)
    assert isinstance(found, torch.Tensor)
    return found


def told() -> frozenset[str]:
    """What this torch's `varlen_attn` can be told: it is in torch from 2.10 on, windows came later, then the cache."""
    try:
        from torch.nn.attention import varlen
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen.varlen_attn).parameters)


ARGUMENTS = told()


def takes(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, variant: Variant, cached: bool = False) -> bool:
    """Whether flash attention computes this: tensors ... x width; `cached` for keys of which a part is in use."""
    width = query.shape[-1]
    able = query.device.type in DEVICES and query.dtype in HALF and width <= WIDEST and width % 8 == 0
    able = able and key.shape[-1] == value.shape[-1] == width and not variant.softcap and not variant.dropout
    return able and {"window_size", "scale", *(("seqused_k",) if cached else ())} <= ARGUMENTS


def flashes(model: Any, kind: torch.dtype) -> bool:
    """Whether flash attention computes a model's attention in `kind`, as its configuration says."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None) or 1
    width = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // heads
    capped = getattr(config, "attn_logit_softcapping", None)
    return bool(kind in HALF and width <= WIDEST and width % 8 == 0 and not capped and "window_size" in ARGUMENTS)


def flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, of_queries: torch.Tensor, of_keys: torch.Tensor,
    longest: tuple[int, int], scaling: float, window: int = 0, used: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Causal attention of documents in one row: tokens x heads x width from the same of queries, keys and values.

    `of_queries` and `of_keys` (int32) are where each document starts and where the last one ends, `longest` their most
    queries and keys. The last query stands beside the last key. `used` (int32) are each document's keys that count.
    """
    one = used is not None and longest[0] == 1
    # One query beside the last key that counts sees them all, causal or not; where a kernel isn't told causal, it takes
    # the queries of a group together.
    right = -1 if one and not window and "num_splits" in ARGUMENTS else 0
    named: dict[str, Any] = {"scale": scaling, "window_size": (window - 1 if window else -1, right)}
    if key.shape[1] != query.shape[1]:
        if "enable_gqa" in ARGUMENTS:
            named["enable_gqa"] = True
        else:
            key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    if used is not None:
        named["seqused_k"] = used
        if "num_splits" in ARGUMENTS:
            named["num_splits"] = 1  # a row's sums don't depend on how long the cache is
    return varlen_attn(query, key, value, of_queries, of_keys, *longest, **named)


class Varlen(Documents):
    """Documents one after another in a row, each causal in itself, all of them in one kernel."""

    indexed = True

    def __init__(self, lengths: Sequence[int], device: Any, kind: torch.dtype) -> None:
        """`kind` is the type in which attention is computed, whatever a layer brings."""
        super().__init__(lengths, flash=True)
        self.kind, self.longest = kind, max(lengths)
        self.offsets = to_device(torch.tensor([0, *lengths]).cumsum(0).int(), device)

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float,
        variant: Variant = CAUSAL,
    ) -> torch.Tensor:  # fmt: skip
        query, key, value = (part.to(self.kind) for part in (query, key, value))
        if not takes(query, key, value, variant):
            return super().__call__(layer, query, key, value, scaling, variant)
        query, key, value = (part.transpose(0, 1) for part in (query, key, value))
        longest = self.longest, self.longest
        return flash(query, key, value, self.offsets, self.offsets, longest, scaling, variant.window)


class FixedCache:
    """Keys and values of `rows` documents, allocated once and never moved: a captured graph knows their addresses."""

    def __init__(self, rows: int, capacity: int) -> None:
        self.rows, self.capacity = rows, capacity
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """Of each layer keys and values, rows x capacity x heads x width."""

    def of(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of `layer`, of which a token has `key` and `value` (tokens x heads x width)."""
        if layer not in self.layers:
            self.layers[layer] = tuple(  # type: ignore[assignment]
                part.new_zeros(self.rows, self.capacity, *part.shape[1:]) for part in (key, value)
            )
        return self.layers[layer]

    def write(
        self, layer: int, places: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Puts each token's key and value (tokens x heads x width) at its place among rows x capacity.

        Returns all keys and values of the layer.
        """
        held = self.of(layer, key, value)
        with any_order():
            for tensor, part in zip(held, (key, value), strict=True):
                tensor.flatten(0, 1).index_copy_(0, places, part.to(tensor.dtype))
        return held


@contextmanager
def any_order() -> Iterator[None]:
    """Inside, torch may write in any order: where no place is written twice, what it leaves is the same.

    In its deterministic form `index_copy_` sorts the places first, ten kernels instead of one.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


class FixedPrefill(Varlen):
    """Whole prompts, one after another in a row, each kept in a row of the cache of its own."""

    def __init__(
        self, lengths: Sequence[int], device: Any, kind: torch.dtype, cache: FixedCache, rows: Sequence[int]
    ) -> None:
        super().__init__(lengths, device, kind)
        self.cache = cache
        places = [row * cache.capacity + torch.arange(length) for row, length in zip(rows, lengths, strict=True)]
        self.places = to_device(torch.cat(places), device)

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float,
        variant: Variant = CAUSAL,
    ) -> torch.Tensor:  # fmt: skip
        self.cache.write(
            layer, self.places, key.transpose(0, 1).to(self.kind), value.transpose(0, 1).to(self.kind)
        )  # fmt: skip
        return super().__call__(layer, query, key, value, scaling, variant)


class FixedStep:
    """One new token for every row of a fixed cache; a token sees its own row alone."""

    indexed = True
    wanted: torch.Tensor | None = None
    shared: SharedPrefix | None = None

    def __init__(self, cache: FixedCache, at: torch.Tensor, by_flash: bool = True) -> None:
        """`at` (1 x rows, int64) are tokens of each row in the cache before this step: where the new one is put.

        `by_flash`: by flash attention, which reads what is in use of the cache, else by a mask over all of it.
        """
        self.cache, self.by_flash = cache, by_flash
        device, rows = at.device, torch.arange(cache.rows + 1, device=at.device, dtype=torch.int32)
        self.places = (rows[:-1] * cache.capacity + at[0]).long()
        self.of_queries, self.of_keys = rows, rows * cache.capacity
        self.used = at[0].int() + 1
        self.distance = at[0, :, None, None, None] - torch.arange(cache.capacity, device=device)
        """How far each place of the cache lies behind the new token; below 0 where none is yet."""

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float,
        variant: Variant = CAUSAL,
    ) -> torch.Tensor:  # fmt: skip
        query, key, value = (part.transpose(0, 1) for part in (query, key, value))  # rows x heads x width
        keys, values = self.cache.write(layer, self.places, key, value)
        query = query.to(keys.dtype)
        if self.by_flash and takes(query, keys, values, variant, cached=True):
            return flash(
                query, keys.flatten(0, 1), values.flatten(0, 1), self.of_queries, self.of_keys,
                (1, self.cache.capacity), scaling, variant.window, self.used,
            )  # fmt: skip
        rows, heads, width = query.shape
        # The queries that share a key head stand where a kernel expects tokens: no key is copied for them.
        grouped = query.reshape(rows, keys.shape[2], -1, width)
        cached, held = keys.transpose(1, 2), values.transpose(1, 2)
        mask = self.distance >= 0
        if variant.window:
            mask = mask & (self.distance < variant.window)
        if variant.softcap:
            out = softmax_of(squeezed(grouped @ cached.transpose(2, 3) * scaling, variant.softcap), mask) @ held
        else:
            out = scaled_dot_product_attention(grouped, cached, held, attn_mask=mask, scale=scaling)
        return out.reshape(rows, heads, held.shape[3])
