"""Attention over documents that stand in one row without padding; one function for training, prefill and decoding."""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.modeling_utils import PreTrainedModel

from bakeoff import native
from bakeoff.kernels import BLOCK, causal_mask
from bakeoff.settings import MachineSettings
from bakeoff.shared import Copies, Shared, common

PACKED = "bakeoff_packed"
"""The name under which transformers' models find `attend`."""
PLAIN = ("llama", "qwen2", "qwen3", "mistral")
"""Architectures whose attention is causal softmax attention and nothing else."""


class Segments(Protocol):
    """Which tokens of a row may see which: called by every attention layer."""

    wanted: torch.Tensor | None
    """Places of the tokens whose logits are wanted; None: of all."""
    shared: Shared | None
    """Where documents have their first tokens in common, and these stand in the row once."""

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Tokens x heads x width from query heads x tokens x width, key and value heads x tokens x width."""


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    segments: Segments,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: 1 x heads x tokens x width in, 1 x tokens x heads x width out."""
    query, key, value = query[0], key[0], value[0]
    if segments.shared:
        query, key, value = (Copies.apply(part.transpose(0, 1), segments.shared) for part in (query, key, value))
        query, key, value = (part.transpose(0, 1) for part in (query, key, value))
    found = segments(module.layer_idx, query, key, value, scaling)  # type: ignore[arg-type]
    if segments.shared:
        found = found.index_select(0, segments.shared.row)
    return found.unsqueeze(0), None


AttentionInterface.register(PACKED, attend)


def packable(model: Any) -> bool:
    """Whether `model` (or what PEFT wrapped) computes the same in one row: by its architecture."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config: Any = getattr(inner, "config", None)
    if not isinstance(inner, PreTrainedModel) or not inner._supports_attention_backend:
        return False
    special = ("sliding_window", "attn_logit_softcapping", "attention_chunk_size", "attention_dropout")
    if config.model_type not in PLAIN or any(getattr(config, name, None) for name in special):
        return False
    peft: Any = getattr(model, "active_peft_config", None)
    return not getattr(peft, "is_prompt_learning", False) or peft.peft_type.value == "PROMPT_TUNING"


def causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, flash: bool = False
) -> torch.Tensor:
    """Causal attention of one document: query heads x tokens x width, key and value with as many or fewer heads.

    Returns tokens x heads x width. The queries that share a key head are one matrix, so no key is copied for them.
    `flash`: by torch's own kernel where no gradient is wanted.
    """
    if flash and not torch.is_grad_enabled():
        out = scaled_dot_product_attention(
            query[None], key[None], value[None], is_causal=True, scale=scaling, enable_gqa=True
        )
        return out[0].transpose(0, 1)
    heads, length, width = query.shape
    kept = key.shape[0]
    group = heads // kept
    query = query.reshape(kept, group, length, width)
    found = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        rows = query[:, :, start:end].reshape(kept, group * (end - start), width)
        scores = torch.bmm(rows, key[:, :end].transpose(1, 2))
        weights = causal_softmax(scores.view(kept, group, end - start, end), scaling, start).view_as(scores)
        found.append(torch.bmm(weights, value[:, :end]).view(kept, group, end - start, width))
    joined = torch.cat(found, dim=2) if len(found) > 1 else found[0]
    return joined.permute(2, 0, 1, 3).reshape(length, heads, width)


def causal_softmax(scores: torch.Tensor, scaling: float, start: int) -> torch.Tensor:
    """Shares of the keys (... x queries x keys) for queries start, start + 1, ...; `scores` may be overwritten."""
    size = scores.shape[-2]
    scores = scores.mul_(scaling)
    scores[..., start:] += causal_mask(scores.dtype, scores.device)[:size, :size]
    return torch.softmax(scores, dim=-1)


def quicker(machine: MachineSettings, length: int = 256, times: int = 15) -> tuple[str, dict[str, float]]:
    """`sdpa` where torch's own kernel reads a document faster than plain products, else `eager`; median seconds.

    The two take turns on a document of `length` tokens, 9 heads over 3 key heads of width 64.
    """
    kind = torch.bfloat16 if machine.precision == "bf16" else torch.float32
    before = torch.get_num_threads()
    torch.set_num_threads(machine.threads)
    query, key, value = (torch.randn(heads, length, 64, generator=torch.Generator()).to(kind) for heads in (9, 3, 3))
    found: dict[str, list[float]] = {"eager": [], "sdpa": []}
    with torch.inference_mode():
        for _ in range(times):
            for name, seconds in found.items():
                start = time.perf_counter()
                causal(query, key, value, 0.125, flash=name == "sdpa")
                seconds.append(time.perf_counter() - start)
    torch.set_num_threads(before)
    medians = {name: sorted(seconds)[times // 2] for name, seconds in found.items()}
    return min(medians, key=lambda name: medians[name]), medians


def virtual_tokens(model: Any) -> int:
    """How many trained embeddings PEFT puts in front of every sequence."""
    config = getattr(model, "active_peft_config", None)
    return getattr(config, "num_virtual_tokens", 0) if getattr(config, "is_prompt_learning", False) else 0


def positions(lengths: Sequence[int], device: Any) -> torch.Tensor:
    """1 x tokens: 0, 1, 2, ... anew for each document of a row."""
    return torch.cat([torch.arange(length, device=device) for length in lengths]).unsqueeze(0)


def row_logits(
    model: Any,
    ids: torch.Tensor,
    lengths: Sequence[int],
    keep: torch.Tensor,
    segments: Callable[[Sequence[int]], Segments],
    share: Callable[[int, int], bool] | None = None,
) -> torch.Tensor:
    """Logits (kept x vocabulary) of documents of `lengths` tokens that stand in one row `ids` (1 x tokens).

    `keep` (1 x tokens, bool) is True where logits are wanted. PEFT's virtual tokens are put in front of each document,
    with False columns of their own; `segments` gets the lengths with them. The tokens with which all documents begin
    stand in the row once where `share` says so, which is asked how many of how many tokens may fall away.
    """
    inner, inputs, name = model, ids, "input_ids"
    count = common(ids, lengths, keep) if share and len(lengths) > 1 else 0
    if virtual_tokens(model):
        inner, inputs, name = model.base_model, model.word_embeddings(ids), "inputs_embeds"
        prompt = model.get_prompt(batch_size=1).to(inputs.dtype)
        virtual = prompt.shape[1]
        inputs, keep = ahead(prompt, inputs, lengths), ahead(keep.new_zeros(1, virtual), keep, lengths)
        lengths = [length + virtual for length in lengths]
        count += virtual if share else 0
    places, found = positions(lengths, ids.device), segments(lengths)
    if share and share(count * (len(lengths) - 1), sum(lengths)):
        found.shared = Shared(lengths, count, ids.device)
        inputs, keep, places = (part.index_select(1, found.shared.row) for part in (inputs, keep, places))
    return forward(inner, found, lengths, keep, places, **{name: inputs})


def ahead(prompt: torch.Tensor, row: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """1 x tokens ...: `prompt` in front of each document of `row`."""
    return torch.cat([piece for part in row.split(list(lengths), dim=1) for piece in (prompt, part)], dim=1)


def forward(
    model: Any, segments: Segments, lengths: Sequence[int], keep: torch.Tensor | int,
    places: torch.Tensor | None = None, **inputs: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The model's logits of one row: kept x vocabulary. `places` are positions other than 0, 1, 2, ..."""
    config = (model.get_base_model() if hasattr(model, "get_base_model") else model).config
    before, config._attn_implementation = config._attn_implementation, PACKED
    try:
        [tensor] = inputs.values()
        where = positions(lengths, tensor.device) if places is None else places
        if isinstance(keep, torch.Tensor):
            segments.wanted = keep.flatten().nonzero().flatten()
        logits = model(**inputs, position_ids=where, logits_to_keep=keep, use_cache=False, segments=segments).logits
    finally:
        config._attn_implementation = before
    return logits.flatten(0, -2)


class Documents:
    """Documents one after another in a row, each causal in itself."""

    wanted: torch.Tensor | None = None
    shared: Shared | None = None

    def __init__(self, lengths: Sequence[int], flash: bool = False) -> None:
        self.lengths, self.flash = list(lengths), flash
        self.computed: set[torch.nn.Module] = set()
        """Decoder layers that were computed together with one before them and not yet asked."""

    @functools.cached_property
    def starts(self) -> torch.Tensor:
        """Where each document starts in the row, and where the last one ends."""
        return torch.tensor([0, *self.lengths]).cumsum(0)

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        parts = zip(*(tensor.split(self.lengths, dim=1) for tensor in (query, key, value)), strict=True)
        return torch.cat([causal(q, k, v, scaling, self.flash) for q, k, v in parts])

    def from_rows(
        self, sums: native.Sums, layer: int, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, kept: int,
        scaling: float, logs: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """The same from tokens x (heads + 2 kept) width before their positions, by the compiled sums.

        Or heads x tokens x width from (heads + 2 kept) x tokens x width. `logs` (heads x tokens, fp32) is filled with
        what a gradient needs.
        """
        width, by_head = cos.shape[-1], rows.dim() == 3
        heads, tokens = rows.numel() // len(cos) // width - 2 * kept, len(cos)
        out = rows.new_empty(heads, tokens, width) if by_head else rows.new_empty(tokens, heads, width)
        keys, values, places = self.kept_in(layer, rows.new_empty(kept, 0, width))
        logs = out.new_empty(0) if logs is None else logs
        facts = len(self.lengths), max(self.lengths), heads, kept, width, int(by_head)
        sums.attend(rows, cos, sin, out, logs, self.starts, keys, values, places, keys.shape[2], float(scaling), *facts)
        return out

    def of_rows(
        self, sums: native.Sums, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, kept: int, scaling: float,
        logs: torch.Tensor, seen: torch.Tensor, gradient: torch.Tensor, to: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """The gradient of `rows` from that of `seen`, what `from_rows` gave; the softmax is computed again.

        It is written to `to`, which may be `rows`, if given.
        """
        found = torch.empty_like(rows) if to is None else to
        facts = len(self.lengths), max(self.lengths), len(logs), kept, cos.shape[-1], int(rows.dim() == 3)
        sums.attend_backward(rows, cos, sin, seen, gradient, logs, found, self.starts, float(scaling), *facts)
        return found

    def kept_in(self, layer: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where the compiled sums keep keys and values, and each document's row there: nowhere."""
        nowhere = like.new_empty(0, 0, 0, 0)
        return nowhere, nowhere, nowhere


def documents(machine: MachineSettings) -> Callable[[Sequence[int]], Documents]:
    """Documents by their lengths, as `machine` computes attention."""
    return functools.partial(Documents, flash=machine.attention == "sdpa")


class Cache:
    """Keys and values of several rows, allocated once: layer -> two tensors of rows x heads x capacity x width."""

    def __init__(self, rows: int, capacity: int) -> None:
        self.rows, self.capacity = rows, padded(capacity)
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, layer: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The two tensors of `layer`; `like` is heads x tokens x width."""
        if layer not in self.layers:
            shape = self.rows, like.shape[0], self.capacity, like.shape[2]
            self.layers[layer] = like.new_zeros(shape), like.new_zeros(shape)
        return self.layers[layer]

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` tokens of a row over another row's."""
        for tensors in self.layers.values():
            for tensor in tensors:
                tensor[target, :, : padded(length)] = tensor[source, :, : padded(length)]


def padded(length: int) -> int:
    """The next multiple of 32: the compiled sums read so many tokens at a time, and leave 0 where none is yet."""
    return math.ceil(length / 32) * 32


class Prefill(Documents):
    """Whole prompts, one after another in a row, each kept in a row of the cache of its own."""

    def __init__(self, lengths: Sequence[int], cache: Cache, rows: Sequence[int], flash: bool = False) -> None:
        super().__init__(lengths, flash)
        self.cache, self.rows = cache, rows

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        keys, values = self.cache.of(layer, key)
        for row, k, v in zip(self.rows, key.split(self.lengths, dim=1), value.split(self.lengths, dim=1), strict=True):
            for tensor, part in ((keys, k), (values, v)):
                tensor[row, :, : part.shape[1]] = part
                tensor[row, :, part.shape[1] : padded(part.shape[1])] = 0
        return super().__call__(layer, query, key, value, scaling)

    def kept_in(self, layer: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where the compiled sums keep keys and values, and each document's row there."""
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
    shared: Shared | None = None

    def __init__(self, cache: Cache, lengths: Sequence[int], device: Any) -> None:
        """`lengths` are tokens in the cache before this step."""
        self.cache = cache
        self.computed: set[Any] = set()
        """Decoder layers that one in front of them has taken with it."""
        self.at = torch.tensor(lengths, device=device)
        self.rows = torch.arange(len(lengths), device=device)
        self.longest = max(lengths) + 1
        self.seen = torch.arange(self.longest, device=device) <= self.at[:, None, None, None]

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        keys, values = self.cache.of(layer, key)
        keys[self.rows, :, self.at] = key.transpose(0, 1)
        values[self.rows, :, self.at] = value.transpose(0, 1)
        heads, rows, width = query.shape
        # The queries that share a key head stand where a kernel expects tokens: no key is copied for them.
        grouped = query.transpose(0, 1).reshape(rows, key.shape[0], -1, width)
        seen = keys[:rows, :, : self.longest], values[:rows, :, : self.longest]
        out = scaled_dot_product_attention(grouped, *seen, attn_mask=self.seen, scale=scaling)
        return out.reshape(rows, heads, width)

    def from_rows(
        self, sums: native.Sums, layer: int, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, kept: int,
        scaling: float,
    ) -> torch.Tensor:  # fmt: skip
        """The same from tokens x (heads + 2 kept) width before their positions, by the compiled sums."""
        keys, values = self.kept_in(layer, rows)
        width = cos.shape[-1]
        heads = rows.shape[1] // width - 2 * kept
        out = rows.new_empty(len(rows), heads, width)
        sums.step(
            rows, cos, sin, keys, values, self.at, out, float(scaling), len(rows), heads, kept, width, keys.shape[2]
        )
        return out

    def kept_in(self, layer: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the compiled sums keep keys and values. Raises ValueError or TypeError where `rows` don't fit there."""
        keys, values = self.cache.layers[layer]
        if self.longest > keys.shape[2] or len(rows) > len(keys):
            raise ValueError(
                f"{len(rows)} rows of {self.longest} tokens don't fit into {len(keys)} of {keys.shape[2]} of the cache"
            )
        if keys.dtype != rows.dtype:
            raise TypeError(f"the cache holds {keys.dtype}, a step brings {rows.dtype}")
        return keys, values
