"""How a model's modules compute by kernels.py, where they are transformers' own of Llama's kind."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPast

from bakeoff.engine.attention import Documents, Segments, unlike_llama
from bakeoff.engine.cache import Step
from bakeoff.engine.cpu import native
from bakeoff.engine.cpu.decoder import Layer, Stack, layer_of
from bakeoff.engine.cpu.kernels import (
    BLOCK,
    Attention,
    CompiledAttention,
    Gate,
    Norm,
    Product,
    gated,
    normed,
    rope_queries_and_keys,
)
from bakeoff.engine.linear import group, hooked, stack, stacked, trained_in, untouched
from bakeoff.engine.shared_prefix import SILU, Copies

QKV = ("q_proj", "k_proj", "v_proj")
UNIT = ("gate_proj", "up_proj")
PARTS = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
"""What a decoder layer is made of."""
DECODING_WEIGHTS = "bakeoff_decoding_weights"
"""Attribute of a module, while it decodes: its products with weights in the order that the processor likes."""
STEPS = "bakeoff_steps"
"""Attribute of a decoder layer, while it decodes: what takes a step through it and those behind it, and these."""


@contextmanager
def installed(model: nn.Module) -> Iterator[None]:
    """Inside, `model` computes as `install` says; afterwards as before, its weights as they stand in memory now."""
    install(model)
    try:
        yield
    finally:
        for module in model.modules():
            ours = (norm, attention, gated_unit, narrowed, trunk_forward)
            if getattr(vars(module).get("forward"), "func", None) in ours:
                del module.forward


def install(model: nn.Module) -> None:
    """Replaces how the norms, attentions and gated units of `model` compute; parameters and their names stay.

    A module is replaced where its class is transformers' own of Llama's kind. What a method puts in a module's or its
    forward's place, or wraps around a linear layer, is called as it is. The last decoder layer stops at the tokens
    whose logits are wanted. What calls the decoder layers has layer.c compute several of them at once where it can.
    """
    for module in model.modules():
        kind = type(module)
        if not original(module):
            continue
        if kind.__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.forward = functools.partial(norm, module)
        elif all(hasattr(module, name) for name in (*QKV, "o_proj", "scaling")) and not hasattr(module, "q_norm"):
            stack(module, QKV)
            module.forward = functools.partial(attention, module, module.forward)
        elif all(hasattr(module, name) for name in (*UNIT, "down_proj")) and untouched(module.act_fn, *SILU):
            stack(module, UNIT)
            module.forward = functools.partial(gated_unit, module)
    last = last_layer(model)
    if last is not None:
        last.forward = functools.partial(narrowed, last, last.forward)
    trunk = plain_trunk(model)
    if trunk is not None:
        trunk.forward = functools.partial(trunk_forward, trunk, trunk.forward, last)


def original(module: Any) -> bool:
    """Whether `module` is of a class of transformers' models and computes as that says."""
    kind = type(module)
    own = kind.__module__.startswith("transformers.models.") and kind.forward.__module__ == kind.__module__
    return own and "forward" not in vars(module)


def last_layer(model: nn.Module) -> Any:
    """The last decoder layer of `model` where it and all that reads its output treat each token alone; else None."""
    get: Any = getattr(model, "get_base_model", lambda: model)
    inner = get()
    trunk: Any = getattr(inner, "model", None)
    layer: Any = next(reversed(getattr(trunk, "layers", nn.ModuleList())), None)
    if not all(original(module) for module in (inner, trunk, layer)) or list(trunk.layers).count(layer) > 1:
        return None
    outside = [module for name, module in model.named_modules() if ".layers." not in f".{name}."]
    return layer if replaced(layer, trunk.norm) and not any(map(hooked, outside)) else None


def replaced(layer: Any, *norms: nn.Module) -> bool:
    """Whether all parts of a decoder layer, and `norms` beside them, compute as `install` says, and nothing listens."""
    norms += layer.input_layernorm, layer.post_attention_layernorm
    ours = {layer.self_attn: attention, layer.mlp: gated_unit, **dict.fromkeys(norms, norm)}
    replacing = all(getattr(vars(part).get("forward"), "func", None) is own for part, own in ours.items())
    return replacing and not any(map(hooked, (layer, *ours)))


def plain_trunk(model: nn.Module) -> Any:
    """What calls the decoder layers of `model`, if it gives what one returns to the next and to nobody else."""
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    trunk: Any = getattr(inner, "model", None)
    if trunk is None or not hasattr(trunk, "layers") or unlike_llama(inner):
        return None
    return trunk if original(trunk) or getattr(vars(trunk).get("forward"), "func", None) is trunk_forward else None


def layers_of(trunk: Any) -> list[Any]:
    """The decoder layers that `trunk` calls, in order."""
    return list(trunk.layers)[: trunk.config.num_hidden_layers]


def trunk_forward(
    trunk: Any, plain: Any, last: Any, *given: Any, input_ids: Any = None, inputs_embeds: Any = None,
    position_ids: Any = None, attention_mask: Any = None, past_key_values: Any = None, use_cache: Any = None,
    segments: Any = None, **others: Any,
) -> Any:  # fmt: skip
    """The forward of what calls the decoder layers; `plain` is transformers' own, for calls that want anything else.

    Layers that layer.c computes are computed several at once; the others are called one by one.
    """
    asked = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "position_ids": position_ids}
    more = {"attention_mask": attention_mask, "past_key_values": past_key_values}
    states = others.get("output_hidden_states") or others.get("output_attentions")
    states = states or trunk.config.output_hidden_states or trunk.config.output_attentions
    if segments is None or given or states or any(value is not None for value in more.values()):
        if segments is not None:
            others["segments"] = segments
        return plain(*given, **asked, **more, use_cache=use_cache, **others)
    hidden_states = trunk.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
    position_embeddings = trunk.rotary_emb(hidden_states, position_ids)
    layers, at = layers_of(trunk), 0
    while at < len(layers):
        found = several(trunk, at, last, hidden_states, position_embeddings, segments)
        if found is not None:
            hidden_states, taken = found
            at += taken
            continue
        hidden_states = layers[at](
            hidden_states, attention_mask=None, position_ids=position_ids, past_key_values=None, use_cache=False,
            position_embeddings=position_embeddings, segments=segments, **others,
        )  # fmt: skip
        at += 1
    return BaseModelOutputWithPast(last_hidden_state=trunk.norm(hidden_states))


def several(
    trunk: Any, at: int, last: Any, hidden_states: torch.Tensor, position_embeddings: Any, segments: Any
) -> tuple[torch.Tensor, int] | None:
    """What the decoder layers from number `at` on return by layer.c, and how many they are; None where it takes none.

    The `last` one goes on after its attention only for tokens whose logits are wanted, and is 0 for the others.
    """
    out: torch.Tensor
    if isinstance(segments, Step):
        steps = vars(trunk).get(STEPS, {}).get(at)
        if steps is None or native.kernels_for(hidden_states) is not steps.kernels:
            return None
        cos, sin = rope_angles(position_embeddings, segments, hidden_states.dtype)
        out = steps(hidden_states.squeeze(0), segments, cos, sin)
        return out.unsqueeze(0), len(steps.layers)
    if not isinstance(segments, Documents):
        return None
    tokens = len(segments.shared.row) if segments.shared else sum(segments.lengths)
    if not hidden_states.shape[:-1].numel() == position_embeddings[0].shape[:-1].numel() == tokens:
        return None
    found = run(trunk, at, hidden_states)
    if not found:
        return None
    cos, sin = rope_angles(position_embeddings, segments, hidden_states.dtype)
    wanted = segments.wanted if last in found else None
    trained = [tensor for layer in found.values() for tensor in trained_in(layer.beside)]
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (hidden_states, *trained))
    out = Stack.apply(hidden_states.squeeze(0), [*found.values()], segments, cos, sin, wanted, keep, *trained)
    return out.unsqueeze(0), len(found)


def run(trunk: Any, at: int, hidden_states: torch.Tensor) -> dict[Any, Layer]:
    """The decoder layers from number `at` on that layer.c computes one after another; none if one is called twice."""
    found: dict[Any, Layer] = {}
    layers = layers_of(trunk)
    for one in layers[at:] if len(set(layers)) == len(layers) else []:
        layer = whole(one, hidden_states) if own(one) else ""
        if isinstance(layer, str):
            break
        found[one] = layer
    return found


def own(module: nn.Module) -> bool:
    """Whether a decoder layer computes as transformers or `install` says, with nothing around it."""
    return original(module) or getattr(vars(module).get("forward"), "func", None) is narrowed


def whole(module: Any, hidden_states: torch.Tensor) -> Layer | str:
    """What the two calls need to know of a decoder layer, or why it doesn't compute by them."""
    kernels = native.kernels_for(hidden_states)
    if kernels is None:
        return f"there are no compiled kernels for {str(hidden_states.dtype).removeprefix('torch.')}"
    if not kernels.tiles:
        return "the processor has no tiles (AMX)"
    if len(hidden_states) > 1:
        return "documents stand in several rows"
    if module.gradient_checkpointing:
        return "its layers are computed again for their gradient"
    if not replaced(module):
        return "a part of its layers is not transformers' own"
    parts, norms = (module.self_attn, module.mlp), (module.input_layernorm, module.post_attention_layernorm)
    groups = [group(part, names) for part in parts for names in PRODUCTS[vars(part)["forward"].func]]
    return layer_of(module, groups, norms, hidden_states.shape[-1], kernels)


def slow_layers(model: Any) -> str:
    """Why a decoder layer of `model` is not computed by layer.c; empty where all are."""
    trunk = plain_trunk(model)
    if trunk is None:
        return "its trunk is not transformers' own"
    row = torch.empty(1, 1, trunk.config.hidden_size, dtype=torch.bfloat16)
    found = (whole(layer, row) if own(layer) else "a layer is not transformers' own" for layer in trunk.layers)
    return next((why for why in found if isinstance(why, str)), "")


def foreign(model: Any) -> bool:
    """Whether a part of the decoder layers of `model` is neither a linear layer nor one with a LoRA: what it holds, or
    computes between its products, may be in fp32."""
    trunk = plain_trunk(model)
    if trunk is None or not all(own(layer) and replaced(layer) for layer in layers_of(trunk)):
        return True
    parts = (part for layer in layers_of(trunk) for part in (layer.self_attn, layer.mlp))
    return not all(group(part, names) for part in parts for names in PRODUCTS[vars(part)["forward"].func])


def narrowed(
    module: Any, plain: Any, hidden_states: torch.Tensor, position_embeddings: Any = None, segments: Any = None,
    **others: Any,
) -> torch.Tensor:  # fmt: skip
    """The forward of the last decoder layer: after its attention only for tokens whose logits are wanted, else 0."""
    wanted, of_attention, unit = getattr(segments, "wanted", None), module.self_attn, module.mlp
    if wanted is None or hooked(module) or module.gradient_checkpointing or not (
        group(of_attention, ("o_proj",)) and all(group(unit, names) for names in PRODUCTS[gated_unit])
    ):  # fmt: skip
        found: torch.Tensor = plain(hidden_states, position_embeddings=position_embeddings, segments=segments, **others)
        return found
    attn_output = heads(of_attention, module.input_layernorm(hidden_states), position_embeddings, segments)
    kept = hidden_states[:, wanted] + product(of_attention, ("o_proj",), attn_output[wanted].unsqueeze(0))
    kept = kept + unit(module.post_attention_layernorm(kept))
    return kept.new_zeros(hidden_states.shape).index_copy(1, wanted, kept)


def norm(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """The forward of an RMSNorm module."""
    if not torch.is_grad_enabled() and (kernels := native.kernels_for(hidden_states, module.weight)):
        return normed(kernels, hidden_states, module.weight, module.variance_epsilon)[0]
    if torch.is_grad_enabled() or hidden_states.numel() > BLOCK * hidden_states.shape[-1]:
        found: torch.Tensor = Norm.apply(hidden_states, module.weight, module.variance_epsilon)
        return found
    wide = hidden_states.float()  # a few tokens: fewer calls are faster than fewer bytes
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + module.variance_epsilon)
    return (wide * scale).to(hidden_states.dtype) * module.weight


def attention(
    module: Any, plain: Any, hidden_states: torch.Tensor, position_embeddings: Any = None, segments: Any = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """The forward of an attention module; `plain` is transformers' own, for calls that don't say `segments`."""
    if segments is None:
        found: tuple[torch.Tensor, None] = plain(hidden_states, position_embeddings=position_embeddings, **others)
        return found
    attn_output = heads(module, hidden_states, position_embeddings, segments)
    return product(module, ("o_proj",), attn_output.unsqueeze(0)), None


def heads(module: Any, hidden_states: torch.Tensor, position_embeddings: Any, segments: Segments) -> torch.Tensor:
    """tokens x (heads width), what the heads of an attention module see in 1 x tokens x hidden size."""
    return attended(module, product(module, QKV, hidden_states)[0], position_embeddings, segments)


def attended(module: Any, rows: torch.Tensor, position_embeddings: Any, segments: Segments) -> torch.Tensor:
    """The same from tokens x (n_heads + 2 n_kv_heads) width, their queries, keys and values."""
    if torch.is_autocast_enabled(rows.device.type):  # what a method does beside its products may be in fp32
        rows = rows.to(torch.get_autocast_dtype(rows.device.type))
    cos, sin = rope_angles(position_embeddings, segments, rows.dtype)
    shared = getattr(segments, "shared", None)
    if shared:
        if len(rows) != len(shared.row):
            raise ValueError(f"attention is given {len(rows)} tokens, where a row has {len(shared.row)}")
        rows = Copies.apply(rows, shared)
    attn_output = from_rows(module, rows, cos, sin, segments).flatten(1)
    return attn_output.index_select(0, shared.row) if shared else attn_output


def rope_angles(position_embeddings: Any, segments: Segments, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the positions of all documents' tokens: tokens x 1 x width of a head."""
    cos, sin = (part[0] for part in position_embeddings)
    shared = getattr(segments, "shared", None)
    if shared:
        cos, sin = (part.index_select(0, shared.copies) for part in (cos, sin))
    cos, sin = (part.unsqueeze(1).to(kind) for part in (cos, sin))
    return cos, sin


def from_rows(
    module: Any, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, segments: Segments
) -> torch.Tensor:
    """tokens x heads x width from tokens x (n_heads + 2 n_kv_heads) width: positions and attention."""
    n_kv_heads, scaling, layer = module.config.num_key_value_heads, module.scaling, module.layer_idx
    kernels = native.kernels_for(rows, cos, sin)
    tokens = len(segments.rows) if isinstance(segments, Step) else sum(getattr(segments, "lengths", [len(rows)]))
    if not len(rows) == len(cos) == len(sin) == tokens:
        raise ValueError(
            f"attention is given {len(rows)} tokens at {len(cos)} positions, where documents have {tokens}"
        )
    learns = torch.is_grad_enabled() and rows.requires_grad
    out: torch.Tensor
    if kernels and learns and isinstance(segments, Documents):
        out = CompiledAttention.apply(rows, cos, sin, layer, segments, n_kv_heads, scaling, kernels)
    elif kernels and isinstance(segments, Documents | Step):
        out = segments.from_rows(kernels, layer, rows, cos, sin, n_kv_heads, scaling)
    elif learns:
        out = Attention.apply(rows, cos, sin, layer, segments, n_kv_heads, scaling)
    else:
        both, value = rope_queries_and_keys(rows, cos, sin, n_kv_heads)
        query, key = both.transpose(0, 1).split((both.shape[1] - n_kv_heads, n_kv_heads))
        out = segments(layer, query, key, value.transpose(0, 1), scaling)
    return out


def gated_unit(module: Any, x: torch.Tensor) -> torch.Tensor:
    """The forward of a Llama-like MLP module."""
    both = product(module, UNIT, x)
    if not torch.is_grad_enabled() and (kernels := native.kernels_for(both)):
        return product(module, ("down_proj",), gated(kernels, both))
    if torch.is_grad_enabled() or both.numel() > BLOCK * both.shape[-1]:
        return product(module, ("down_proj",), Gate.apply(both))
    gate, up = both.chunk(2, dim=-1)
    return product(module, ("down_proj",), functional.silu(gate) * up)


def product(module: nn.Module, names: Sequence[str], x: torch.Tensor) -> torch.Tensor:
    """... x inputs through the linear layers `names` of `module`, their outputs side by side."""
    packed = getattr(module, DECODING_WEIGHTS, None)
    # Many rows of fp32 are for MKL, which is quicker at them than oneDNN, where the weights stand side by side.
    if packed and (x.dtype != torch.float32 or x.numel() <= BLOCK * x.shape[-1]):
        return packed[names[0]](x)
    found = group(module, names)
    weight = stacked(found[0]) if found else None
    if packed and weight is None:
        return packed[names[0]](x)
    if not found or weight is None:
        return torch.cat([getattr(module, name)(x) for name in names], dim=-1)
    layers, beside = found
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    if not beside:
        return functional.linear(x, weight, bias)
    rows = x.to(weight.dtype).flatten(0, -2)
    result: torch.Tensor = Product.apply(rows, weight, bias, beside, *trained_in(beside))
    return result.unflatten(0, x.shape[:-1])


PRODUCTS: dict[Any, tuple[tuple[str, ...], ...]] = {attention: (QKV, ("o_proj",)), gated_unit: (UNIT, ("down_proj",))}
"""Which linear layers of a replaced module are one product."""
