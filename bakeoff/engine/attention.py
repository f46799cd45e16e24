"""Attention over documents that stand in one row without padding; one function for training, prefill and decoding."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.modeling_utils import PreTrainedModel

from bakeoff.config.schema import Computation
from bakeoff.core.packed import packed
from bakeoff.engine.batches import to_device
from bakeoff.engine.cpu import native
from bakeoff.engine.cpu.kernels import BLOCK, causal_mask
from bakeoff.engine.shared_prefix import Copies, SharedPrefix, common
from bakeoff.engine.virtual import virtual_tokens

PADDING = "warn_if_padding_and_no_attention_mask"
"""The method by which transformers' models look for padding."""
PACKED = "bakeoff_packed"
"""The name under which transformers' models find `attend`."""
LLAMA_LIKE = ("llama", "qwen2", "qwen3", "mistral")
"""Architectures whose decoder layers may be computed in fewer passes (cpu/layers.py)."""
HARMLESS = ("position_ids", "cache_position", "cu_seq_lens_q", "cu_seq_lens_k")
"""Tensors that a model may pass to its attention and that change nothing where `segments` limit its attention."""


class Unpackable(ValueError):
    """A model's attention asks for something that packed rows do not have; the text says what."""


class Segments(Protocol):
    """Which tokens of a row may see which: called by every attention layer."""

    wanted: torch.Tensor | None
    """Places of the tokens whose logits are wanted; None: of all."""
    shared: SharedPrefix | None
    """Where documents have their first tokens in common, and these stand in the row once."""
    indexed: bool
    """Whether a model is told the places of those tokens instead of a mask, which a GPU would have to count."""

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float,
        variant: "Variant" = ...,
    ) -> torch.Tensor:  # fmt: skip
        """Tokens x heads x width from query heads x tokens x width, key and value heads x tokens x width."""


@dataclass(frozen=True)
class Variant:
    """What an architecture adds to causal softmax attention."""

    window: int = 0
    """A token sees itself and the window - 1 tokens before it; 0: all before it."""
    softcap: float = 0.0
    """Scores are squeezed into (-softcap, softcap) by a tanh; 0: they are not."""
    dropout: float = 0.0
    """Share of the weights that are dropped."""


CAUSAL = Variant()


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    segments: Segments | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: 1 x heads x tokens x width in, 1 x tokens x heads x width out.

    Raises Unpackable for attention that is not causal or that reads tensors of its own (sinks, position biases).
    """
    if segments is None:
        raise Unpackable("its attention layers are not told which tokens belong together")
    unknown = [name for name, given in others.items() if isinstance(given, torch.Tensor) and name not in HARMLESS]
    if unknown or others.get("is_causal") is False:
        raise Unpackable(f"its attention reads {unknown[0]}" if unknown else "its attention is not causal")
    variant = Variant(sliding_window or 0, softcap or 0.0, dropout) if sliding_window or softcap or dropout else CAUSAL
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = query[0], key[0], value[0]
    if segments.shared:
        query, key, value = (Copies.apply(part.transpose(0, 1), segments.shared) for part in (query, key, value))
        query, key, value = (part.transpose(0, 1) for part in (query, key, value))
    found = segments(module.layer_idx, query, key, value, scaling, variant)  # type: ignore[arg-type]
    if segments.shared:
        found = found.index_select(0, segments.shared.row)
    return found.unsqueeze(0), None


AttentionInterface.register(PACKED, attend)


def replaceable(model: Any) -> bool:
    """Whether transformers lets the attention of `model` (or what PEFT wrapped) be another function."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return isinstance(inner, PreTrainedModel) and bool(inner._supports_attention_backend)


def unlike_llama(model: Any) -> str:
    """Why cpu/layers.py may not replace the layers of `model` (or of what PEFT wrapped); empty where it may."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config: Any = getattr(inner, "config", None)
    if not replaceable(model) or config.model_type not in LLAMA_LIKE:
        kind = getattr(config, "model_type", type(inner).__name__)
        return f"its architecture ({kind}) is none of {', '.join(LLAMA_LIKE)}"
    if any(map(packed, model.parameters())):
        return "its weights are quantised"
    special = ("sliding_window", "attn_logit_softcapping", "attention_chunk_size", "attention_dropout")
    found = [name for name in special if getattr(config, name, None)]
    return f"its configuration has {found[0]}" if found else ""


def causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, flash: bool = False,
    variant: Variant = CAUSAL,
) -> torch.Tensor:  # fmt: skip
    """Causal attention of one document: query heads x tokens x width, key and value with as many or fewer heads.

    Returns tokens x heads x width. The queries that share a key head are one matrix, so no key is copied for them.
    `flash`: by torch's own kernel where no gradient is wanted.
    """
    if variant.window >= query.shape[1]:
        variant = replace(variant, window=0)
    if flash and not torch.is_grad_enabled() and variant == CAUSAL:
        out = scaled_dot_product_attention(
            query[None], key[None], value[None], is_causal=True, scale=scaling, enable_gqa=True
        )
        return out[0].transpose(0, 1)
    heads, length, width = query.shape
    n_kv_heads = key.shape[0]
    group = heads // n_kv_heads
    query = query.reshape(n_kv_heads, group, length, width)
    found = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        rows = query[:, :, start:end].reshape(n_kv_heads, group * (end - start), width)
        scores = torch.bmm(rows, key[:, :end].transpose(1, 2))
        softmax = causal_softmax if variant == CAUSAL else functools.partial(variant_softmax, variant)
        weights = softmax(scores.view(n_kv_heads, group, end - start, end), scaling, start).view_as(scores)
        found.append(torch.bmm(weights, value[:, :end]).view(n_kv_heads, group, end - start, value.shape[2]))
    joined = torch.cat(found, dim=2) if len(found) > 1 else found[0]
    return joined.permute(2, 0, 1, 3).reshape(length, heads, value.shape[2])


def variant_softmax(variant: Variant, scores: torch.Tensor, scaling: float, start: int) -> torch.Tensor:
    """The same as `causal_softmax` where an architecture adds something to it; `scores` stay as they are."""
    queries = torch.arange(start, start + scores.shape[-2], device=scores.device).unsqueeze(1)
    distance = queries - torch.arange(scores.shape[-1], device=scores.device)
    mask = (distance >= 0) & (distance < variant.window) if variant.window else distance >= 0
    weights = softmax_of(squeezed(scores * scaling, variant.softcap), mask)
    return torch.nn.functional.dropout(weights, variant.dropout)


def squeezed(scores: torch.Tensor, softcap: float) -> torch.Tensor:
    """Scores between -softcap and softcap; as they are where it is 0."""
    return softcap * torch.tanh(scores / softcap) if softcap else scores


def softmax_of(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Weights of the keys that `mask` keeps, computed in fp32 as transformers does."""
    shares = torch.softmax(scores.masked_fill(~mask, -math.inf), dim=-1, dtype=torch.float32)
    return shares.to(scores.dtype)


def causal_softmax(scores: torch.Tensor, scaling: float, start: int) -> torch.Tensor:
    """Shares of the keys (... x queries x keys) for queries start, start + 1, ...; `scores` may be overwritten."""
    size = scores.shape[-2]
    scores = scores.mul_(scaling)
    scores[..., start:] += causal_mask(scores.dtype, scores.device)[:size, :size]
    return torch.softmax(scores, dim=-1)


def positions(lengths: Sequence[int], device: Any) -> torch.Tensor:
    """1 x tokens: 0, 1, 2, ... anew for each document of a row."""
    return to_device(torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0), device)


def row_logits(
    model: Any,
    ids: torch.Tensor,
    lengths: Sequence[int],
    keep: torch.Tensor,
    segments: Callable[[Sequence[int]], Segments],
    share: Callable[[int, int], bool] | None = None,
) -> torch.Tensor:
    """Logits (kept x vocabulary) of documents of `lengths` tokens that stand in one row `ids` (1 x tokens).

    `keep` (1 x tokens, bool, on the CPU or beside `ids`) is True where logits are wanted. PEFT's virtual tokens are put
    in front of each document, with False columns of their own; `segments` gets the lengths with them. The tokens with
    which all documents begin stand in the row once where `share` says so, which is asked how many of how many tokens
    may fall away.
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
    position_ids, found = positions(lengths, ids.device), segments(lengths)
    if share and share(count * (len(lengths) - 1), sum(lengths)):
        found.shared = SharedPrefix(lengths, count, ids.device)
        inputs, keep, position_ids = (part.index_select(1, found.shared.row) for part in (inputs, keep, position_ids))
    return forward(inner, found, lengths, keep, position_ids, **{name: inputs})


def ahead(prompt: torch.Tensor, row: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """1 x tokens ...: `prompt` in front of each document of `row`."""
    return torch.cat([piece for part in row.split(list(lengths), dim=1) for piece in (prompt, part)], dim=1)


def forward(
    model: Any, segments: Segments, lengths: Sequence[int], keep: torch.Tensor | int,
    position_ids: torch.Tensor | None = None, **inputs: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The model's logits of one row: kept x vocabulary. `position_ids` are others than 0, 1, 2, ..."""
    config = (model.get_base_model() if hasattr(model, "get_base_model") else model).config
    with attention_of(config, PACKED):
        [tensor] = inputs.values()
        where = positions(lengths, tensor.device) if position_ids is None else position_ids
        if isinstance(keep, torch.Tensor):
            segments.wanted = to_device(keep.flatten().nonzero().flatten(), tensor.device)
            if segments.indexed or keep.device != tensor.device:
                keep = segments.wanted
        with unwarned(model):
            found = model(**inputs, position_ids=where, logits_to_keep=keep, use_cache=False, segments=segments)
            logits = found.logits
    return logits.flatten(0, -2)


@contextmanager
def attention_of(config: Any, name: str) -> Iterator[None]:
    """Inside, a model of `config` computes its attention as transformers knows by `name`."""
    before, config._attn_implementation = config._attn_implementation, name
    try:
        yield
    finally:
        config._attn_implementation = before


@contextmanager
def unwarned(model: Any) -> Iterator[None]:
    """Inside, `model` does not look for padding in its tokens: rows have none, and a GPU would be waited for."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    parts = [part for part in (inner, getattr(inner, "base_model", None)) if isinstance(part, PreTrainedModel)]
    try:
        for part in parts:
            vars(part)[PADDING] = ignored
        yield
    finally:
        for part in parts:
            vars(part).pop(PADDING, None)


def ignored(*given: Any) -> None:
    """Does nothing."""


def compute_again(model: Any) -> None:
    """Has decoder layers compute their activations again in the backward pass (Chen et al. 2016, arXiv:1604.06174).

    They do so by the attention with which they were computed first: packed rows switch it for a forward pass alone.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model

    def contexts() -> tuple[Any, Any]:
        return nullcontext(), attention_of(inner.config, inner.config._attn_implementation)

    inner.activation_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})


class Documents:
    """Documents one after another in a row, each causal in itself."""

    wanted: torch.Tensor | None = None
    shared: SharedPrefix | None = None
    indexed = False

    def __init__(self, lengths: Sequence[int], flash: bool = False) -> None:
        self.lengths, self.flash = list(lengths), flash

    @functools.cached_property
    def starts(self) -> torch.Tensor:
        """Where each document starts in the row, and where the last one ends."""
        return torch.tensor([0, *self.lengths]).cumsum(0)

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float,
        variant: Variant = CAUSAL,
    ) -> torch.Tensor:  # fmt: skip
        parts = zip(*(tensor.split(self.lengths, dim=1) for tensor in (query, key, value)), strict=True)
        return torch.cat([causal(q, k, v, scaling, self.flash, variant) for q, k, v in parts])

    def from_rows(
        self, kernels: native.Kernels, layer: int, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor,
        n_kv_heads: int, scaling: float, logs: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """The same from tokens x (n_heads + 2 n_kv_heads) width before their positions, by the compiled kernels.

        Or heads x tokens x width from (n_heads + 2 n_kv_heads) x tokens x width. `logs` (heads x tokens, fp32) is
        filled with what a gradient needs.
        """
        width, by_head = cos.shape[-1], rows.dim() == 3
        heads, tokens = rows.numel() // len(cos) // width - 2 * n_kv_heads, len(cos)
        out = rows.new_empty(heads, tokens, width) if by_head else rows.new_empty(tokens, heads, width)
        keys, values, cache_rows = self.cached_kv(layer, rows.new_empty(n_kv_heads, 0, width))
        logs = out.new_empty(0) if logs is None else logs
        sizes = len(self.lengths), max(self.lengths), heads, n_kv_heads, width, int(by_head)
        kernels.attention_forward(
            rows, cos, sin, out, logs, self.starts, keys, values, cache_rows, keys.shape[2], float(scaling), *sizes
        )
        return out

    def of_rows(
        self, kernels: native.Kernels, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, n_kv_heads: int,
        scaling: float, logs: torch.Tensor, attn_output: torch.Tensor, gradient: torch.Tensor,
        to: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """The gradient of `rows` from that of `attn_output`, what `from_rows` gave; the softmax is computed again.

        It is written to `to`, which may be `rows`, if given.
        """
        found = torch.empty_like(rows) if to is None else to
        sizes = len(self.lengths), max(self.lengths), len(logs), n_kv_heads, cos.shape[-1], int(rows.dim() == 3)
        kernels.attention_backward(
            rows, cos, sin, attn_output, gradient, logs, found, self.starts, float(scaling), *sizes
        )
        return found

    def cached_kv(self, layer: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where the compiled kernels keep keys and values, and each document's row there: nowhere."""
        nowhere = like.new_empty(0, 0, 0, 0)
        return nowhere, nowhere, nowhere


def documents(where: Computation) -> Callable[[Sequence[int]], Documents]:
    """Documents by their lengths, as `machine` computes attention."""
    return functools.partial(Documents, flash=where.attention == "sdpa")
