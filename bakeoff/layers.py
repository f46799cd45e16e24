"""How a model's modules compute by the sums of kernels.py, where they are transformers' own of Llama's kind."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoRALinear
from torch import nn
from torch.nn import functional
from transformers.activations import SiLUActivation

from bakeoff import native
from bakeoff.attention import Copies, Documents, Segments, Step
from bakeoff.decoder import Entered, Layer, Rest, Weights
from bakeoff.kernels import (
    BLOCK,
    Attention,
    CompiledAttention,
    Gate,
    Norm,
    Product,
    Thin,
    gated,
    joined,
    normed,
    turn_keys,
)
from bakeoff.machine import has_bf16
from bakeoff.settings import MachineSettings

QKV = ("q_proj", "k_proj", "v_proj")
UNIT = ("gate_proj", "up_proj")
PARTS = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
SILU = (nn.SiLU, SiLUActivation)
PLAIN = (*SILU, nn.Linear, nn.Embedding, nn.Identity, nn.Dropout, nn.ModuleList, nn.ModuleDict, nn.ParameterDict)
KNOWN = ("transformers.", "peft.peft_model", "peft.tuners.tuners_utils", "peft.tuners.lora.",
         "peft.tuners.prompt_tuning.")  # fmt: skip
"""Where the classes come from that treat each token alone but for attention."""
WIDE = 32
"""Outputs of a panel of weights, and what numbers of inputs and outputs must be a multiple of to be put into panels."""
ORDERED = "bakeoff_ordered"
"""Attribute of a module, while it decodes: its products with weights in the order that the processor likes."""


def install(model: nn.Module) -> None:
    """Replaces how the norms, attentions and gated units of `model` compute; parameters and their names stay.

    A module is replaced where its class is transformers' own of Llama's kind. What a method puts in a module's or its
    forward's place, or wraps around a linear layer, is called as it is. The last decoder layer stops at the tokens
    whose logits are wanted.
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
    for module in model.modules():
        if (module is last or original(module)) and all(hasattr(module, name) for name in PARTS):
            module.forward = functools.partial(decoder_layer, module, module.forward, module is last)


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
    norms = layer.input_layernorm, layer.post_attention_layernorm, trunk.norm
    ours = {layer.self_attn: attention, layer.mlp: gated_unit, **dict.fromkeys(norms, norm)}
    if any(getattr(vars(module).get("forward"), "func", None) is not own for module, own in ours.items()):
        return None
    outside = [module for name, module in model.named_modules() if ".layers." not in f".{name}."]
    return None if any(hooked(module) for module in (*outside, layer, *ours)) else layer


def decoder_layer(
    module: Any, plain: Any, last: bool, hidden_states: torch.Tensor, position_embeddings: Any = None,
    segments: Any = None, **others: Any,
) -> torch.Tensor:  # fmt: skip
    """The forward of a decoder layer; `plain` is transformers' own."""
    if layer := whole(module, hidden_states, segments):
        rows, beside = Entered.apply(hidden_states[0], layer, *trained_in(layer.beside))
        seen = attended(module.self_attn, rows, position_embeddings, segments)
        wanted = segments.wanted if last else None
        if wanted is None:
            return Rest.apply(beside, seen, layer).unsqueeze(0)
        kept = Rest.apply(beside[wanted], seen[wanted], layer)
        return hidden_states.new_zeros(hidden_states.shape).index_copy(1, wanted, kept.unsqueeze(0))
    found: torch.Tensor = plain(hidden_states, position_embeddings=position_embeddings, segments=segments, **others)
    return found


def whole(module: Any, hidden_states: torch.Tensor, segments: Any) -> Layer | None:
    """What layer.c needs to compute a decoder layer, where nothing in it is of a method but LoRA in front of the heads."""
    sums = native.sums(hidden_states)
    if sums is None or not sums.tiles or not isinstance(segments, Documents) or len(hidden_states) > 1:
        return None
    attention_of, unit, norms = module.self_attn, module.mlp, (module.input_layernorm, module.post_attention_layernorm)
    if hidden_states.shape[1] <= BLOCK or hooked(module) or module.gradient_checkpointing or not ours(module):
        return None
    groups = [
        group(attention_of, QKV),
        group(attention_of, ("o_proj",)),
        group(unit, UNIT),
        group(unit, ("down_proj",)),
    ]
    weights = [stacked(found[0]) if found and found[0][0].bias is None else None for found in groups]
    if any(
        weight is None or weight.dtype != torch.bfloat16 or (weight.shape[0] | weight.shape[1]) % WIDE
        for weight in weights
    ):
        return None
    if any(found[1] for found in groups[1:]) or any(
        norm.weight.requires_grad or norm.weight.dtype != torch.bfloat16 for norm in norms
    ):
        return None
    beside = groups[0][1]
    ranks = -(-sum(len(thin.down) for thin in beside) // WIDE) * WIDE
    key = ranks, *((weight.data_ptr(), weight._version) for weight in weights)
    kept = vars(module).get(PANELS)
    if kept is None or kept[0] != key:
        kept = vars(module)[PANELS] = key, Weights(*weights, ranks)
    return Layer(sums, kept[1], beside, norms)


PANELS = "bakeoff_panels"


def ours(module: Any) -> bool:
    norms = module.input_layernorm, module.post_attention_layernorm
    parts = {module.self_attn: attention, module.mlp: gated_unit, **dict.fromkeys(norms, norm)}
    return not any(
        getattr(vars(part).get("forward"), "func", None) is not own or hooked(part) for part, own in parts.items()
    )


def trained_in(beside: Sequence[Thin]) -> list[torch.Tensor]:
    """A and B of each thin product, in order."""
    return [tensor for thin in beside for tensor in (thin.down, thin.up)]


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
    seen = heads(of_attention, module.input_layernorm(hidden_states), position_embeddings, segments)
    kept = hidden_states[:, wanted] + product(of_attention, ("o_proj",), seen[wanted].unsqueeze(0))
    kept = kept + unit(module.post_attention_layernorm(kept))
    return kept.new_zeros(hidden_states.shape).index_copy(1, wanted, kept)


def tokens_alone(model: nn.Module) -> bool:
    """Whether all of `model` but its attention treats each token alone and alike, so that equal ones may be one.

    What it can't know says no: a class of a method's own, a patch, a hook, and dropout in training.
    """
    for module in model.modules():
        kind, patch = type(module), vars(module).get("forward", tokens_alone)
        known = kind in PLAIN or kind.__module__.startswith(KNOWN)
        computes = (kind.forward, getattr(patch, "func", patch))
        if not known or hooked(module) or (model.training and vars(module).get("p")):
            return False
        if any(not function.__module__.startswith(("bakeoff.", "torch.nn.", *KNOWN)) for function in computes):
            return False
    return True


def norm(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """The forward of an RMSNorm module."""
    if not torch.is_grad_enabled() and (sums := native.sums(hidden_states, module.weight)):
        return normed(sums, hidden_states, module.weight, module.variance_epsilon)[0]
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
    seen = heads(module, hidden_states, position_embeddings, segments)
    return product(module, ("o_proj",), seen.unsqueeze(0)), None


def heads(module: Any, hidden_states: torch.Tensor, position_embeddings: Any, segments: Segments) -> torch.Tensor:
    """tokens x (heads width), what the heads of an attention module see in 1 x tokens x hidden size."""
    return attended(module, product(module, QKV, hidden_states)[0], position_embeddings, segments)


def attended(module: Any, rows: torch.Tensor, position_embeddings: Any, segments: Segments) -> torch.Tensor:
    """The same from tokens x (heads + 2 kept) width, their queries, keys and values."""
    cos, sin = (part[0] for part in position_embeddings)
    if torch.is_autocast_enabled(rows.device.type):  # what a method does beside its products may be in fp32
        rows = rows.to(torch.get_autocast_dtype(rows.device.type))
    shared = getattr(segments, "shared", None)
    if shared:
        if len(rows) != len(shared.row):
            raise ValueError(f"attention is given {len(rows)} tokens, where a row has {len(shared.row)}")
        rows = Copies.apply(rows, shared)
        cos, sin = (part.index_select(0, shared.copies) for part in (cos, sin))
    cos, sin = (part.unsqueeze(1).to(rows.dtype) for part in (cos, sin))
    seen = from_rows(module, rows, cos, sin, segments).flatten(1)
    return seen.index_select(0, shared.row) if shared else seen


def from_rows(
    module: Any, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, segments: Segments
) -> torch.Tensor:
    """tokens x heads x width from tokens x (heads + 2 kept) width: positions and attention."""
    kept, scaling, layer = module.config.num_key_value_heads, module.scaling, module.layer_idx
    sums = native.sums(rows, cos, sin)
    tokens = len(segments.rows) if isinstance(segments, Step) else sum(getattr(segments, "lengths", [len(rows)]))
    if not len(rows) == len(cos) == len(sin) == tokens:
        raise ValueError(
            f"attention is given {len(rows)} tokens at {len(cos)} positions, where documents have {tokens}"
        )
    learns = torch.is_grad_enabled() and rows.requires_grad
    out: torch.Tensor
    if sums and learns and isinstance(segments, Documents):
        out = CompiledAttention.apply(rows, cos, sin, layer, segments, kept, scaling, sums)
    elif sums and isinstance(segments, Documents | Step):
        out = segments.from_rows(sums, layer, rows, cos, sin, kept, scaling)
    elif learns:
        out = Attention.apply(rows, cos, sin, layer, segments, kept, scaling)
    else:
        both, value = turn_keys(rows, cos, sin, kept)
        query, key = both.transpose(0, 1).split((both.shape[1] - kept, kept))
        out = segments(layer, query, key, value.transpose(0, 1), scaling)
    return out


def gated_unit(module: Any, x: torch.Tensor) -> torch.Tensor:
    """The forward of a Llama-like MLP module."""
    both = product(module, UNIT, x)
    if not torch.is_grad_enabled() and (sums := native.sums(both)):
        return product(module, ("down_proj",), gated(sums, both))
    if torch.is_grad_enabled() or both.numel() > BLOCK * both.shape[-1]:
        return product(module, ("down_proj",), Gate.apply(both))
    gate, up = both.chunk(2, dim=-1)
    return product(module, ("down_proj",), functional.silu(gate) * up)


def product(module: nn.Module, names: Sequence[str], x: torch.Tensor) -> torch.Tensor:
    """... x inputs through the linear layers `names` of `module`, their outputs side by side."""
    ordered = getattr(module, ORDERED, None)
    # Many rows of fp32 are for MKL, which is quicker at them than oneDNN, where the weights stand side by side.
    if ordered and (x.dtype != torch.float32 or x.numel() <= BLOCK * x.shape[-1]):
        return ordered[names[0]](x)
    found = group(module, names)
    weight = stacked(found[0]) if found else None
    if ordered and weight is None:
        return ordered[names[0]](x)
    if not found or weight is None:
        return torch.cat([getattr(module, name)(x) for name in names], dim=-1)
    layers, beside = found
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    if not beside:
        return functional.linear(x, weight, bias)
    trained = [tensor for thin in beside for tensor in (thin.down, thin.up)]
    rows = x.to(weight.dtype).flatten(0, -2)
    result: torch.Tensor = Product.apply(rows, weight, bias, beside, *trained)
    return result.unflatten(0, x.shape[:-1])


def taken_apart(layer: Any) -> tuple[nn.Linear, Thin | None] | None:
    """A linear layer and PEFT's LoRA beside it, if that is all that there is; None for anything else."""
    if untouched(layer, nn.Linear):
        return layer, None
    if not untouched(layer, LoRALinear) or not untouched(layer.base_layer, nn.Linear):
        return None
    if layer.merged or layer.disable_adapters or layer.fan_in_fan_out or len(layer.active_adapters) != 1:
        return None
    [name] = layer.active_adapters
    if name not in layer.lora_A or layer.lora_variant.get(name) or layer.lora_bias[name]:
        return None
    if not untouched(layer.lora_A[name], nn.Linear) or not untouched(layer.lora_B[name], nn.Linear):
        return None
    noise = layer.lora_dropout[name]
    if not untouched(noise, nn.Identity, nn.Dropout) or (layer.training and getattr(noise, "p", 0.0) > 0):
        return None
    down: Any = layer.lora_A[name].weight
    up: Any = layer.lora_B[name].weight
    return layer.base_layer, Thin(down, up, layer.scaling[name], 0)


def untouched(module: Any, *kinds: type) -> bool:
    """Whether `module` is of one of `kinds`, no subclass, and a method neither listens to it nor patched it."""
    return type(module) in kinds and not hooked(module) and "forward" not in vars(module)


def hooked(module: nn.Module) -> bool:
    """Whether a method listens to what `module` is given or returns."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def group(module: nn.Module, names: Sequence[str]) -> tuple[list[nn.Linear], list[Thin]] | None:
    """The linear layers `names` of `module` and what stands beside which columns; None where one is another thing."""
    layers, beside, start = [], [], 0
    for name in names:
        found = taken_apart(getattr(module, name))
        if found is None:
            return None
        layer, thin = found
        if thin:
            thin.start = start
            beside.append(thin)
        layers.append(layer)
        start += layer.out_features
    if len({layer.bias is None for layer in layers}) > 1:
        return None
    return layers, beside


def stack(module: nn.Module, names: Sequence[str]) -> None:
    """Puts the frozen weights of linear layers that read the same input behind one another in memory."""
    found = group(module, names)
    if found and not any(parameter.requires_grad for layer in found[0] for parameter in layer.parameters()):
        weights = [layer.weight for layer in found[0]]
        rows = torch.cat([weight.detach() for weight in weights])
        for weight, part in zip(weights, rows.split([len(weight) for weight in weights]), strict=True):
            weight.data = part


def stacked(layers: Sequence[nn.Linear]) -> torch.Tensor | None:
    """The weights of `layers` as one frozen matrix, if they stand behind one another in memory."""
    first, rows = layers[0].weight, 0
    for layer in layers:
        weight = layer.weight
        if any(parameter.requires_grad for parameter in layer.parameters()):
            return None
        if weight.data_ptr() != first.data_ptr() + rows * first.shape[1] * first.itemsize:
            return None
        rows += len(weight)
    if first.untyped_storage().nbytes() < (first.storage_offset() + rows * first.shape[1]) * first.itemsize:
        return None
    return first.detach().as_strided((rows, first.shape[1]), (first.shape[1], 1))


def plain_head(model: Any) -> nn.Linear | None:
    """The output head of `model` where it is a matrix and nothing else."""
    head = model.get_output_embeddings()
    found = taken_apart(head) if head is not None else None
    return head if found and not found[1] and head.bias is None else None


@contextmanager
def passed_by(head: nn.Module) -> Iterator[None]:
    """Inside, `head` returns what it is given, so that a model's logits are its last hidden states."""
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del head.forward


class Ordered:
    """Linear layers that read the same input, their weights in oneDNN's order; in fp32 a LoRA is added to them."""

    def __init__(self, layers: Sequence[nn.Linear], beside: Sequence[Thin]) -> None:
        weight = torch.cat([layer.weight.detach() for layer in layers])
        self.outputs, self.up = len(weight), None
        bias = None if layers[0].bias is None else torch.cat([layer.bias.detach() for layer in layers])
        if beside:
            down, up = joined(beside, weight)
            if weight.dtype == torch.float32:
                weight.addmm_(up, down)
            else:  # a sum of weights would be rounded
                weight, self.up = torch.cat([weight, down]), up.t().contiguous()
                bias = None if bias is None else functional.pad(bias, (0, len(down)))
        self.bias = bias
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """... x outputs from ... x inputs."""
        rows = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        if self.up is None:
            return rows
        found = rows.flatten(0, -2)
        found = torch.addmm(found[:, : self.outputs], found[:, self.outputs :], self.up)
        return found.unflatten(0, x.shape[:-1])


class Panels:
    """The same in bf16 for a few rows at a time, by attention.c; many rows read the weights as they are."""

    def __init__(self, layers: Sequence[nn.Linear], beside: Sequence[Thin], sums: native.Sums) -> None:
        stack = stacked(layers)
        self.sums, self.thin = sums, None
        self.weights = [layer.weight.detach() for layer in layers] if stack is None else [stack]
        weight = torch.cat(self.weights)
        self.outputs, self.inputs = weight.shape
        self.panels = in_panels(weight)
        if beside:
            down, up = joined(beside, weight)
            spare = -len(down) % WIDE
            down, up = functional.pad(down, (0, 0, 0, spare)), functional.pad(up, (0, spare))
            self.thin = down, up, in_panels(down), in_panels(up)

    @staticmethod
    def able(layers: Sequence[nn.Linear]) -> native.Sums | None:
        """The compiled sums, if these weights are of a kind and size that they read."""
        weight, outputs = layers[0].weight, sum(layer.out_features for layer in layers)
        fits = weight.dtype == torch.bfloat16 and layers[0].bias is None and not (outputs | weight.shape[1]) % WIDE
        return native.sums(weight) if fits else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """... x outputs from ... x inputs."""
        if x.numel() > BLOCK * self.inputs or x.shape[-1] != self.inputs or native.sums(x) is not self.sums:
            parts = [functional.linear(x, weight) for weight in self.weights]
            rows = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
            if self.thin:
                flat = rows.flatten(0, -2)
                flat.addmm_(functional.linear(x, self.thin[0]).flatten(0, -2), self.thin[1].t())
            return rows
        rows = self.product(x, self.panels, self.outputs)
        if self.thin:
            down, up = self.thin[2:]
            inner = self.product(x, down, len(self.thin[0]))
            self.sums.product(inner, up, rows, inner.numel() // inner.shape[-1], inner.shape[-1], self.outputs, 1)
        return rows

    def product(self, x: torch.Tensor, panels: torch.Tensor, outputs: int) -> torch.Tensor:
        """... x outputs from ... x inputs, by `panels`."""
        out = x.new_empty(*x.shape[:-1], outputs)
        self.sums.product(x, panels, out, x.numel() // x.shape[-1], x.shape[-1], outputs, 0)
        return out


def in_panels(weight: torch.Tensor) -> torch.Tensor:
    """outputs x inputs, in bf16: for each WIDE outputs, two inputs of each of them after another."""
    return weight.unflatten(0, (-1, WIDE)).unflatten(2, (-1, 2)).transpose(1, 2).contiguous()


def for_decoding(layers: Sequence[nn.Linear], beside: Sequence[Thin]) -> Ordered | Panels:
    """What computes the products of `layers` while decoding."""
    sums = Panels.able(layers)
    return Panels(layers, beside, sums) if sums else Ordered(layers, beside)


@contextmanager
def ordered(model: nn.Module, machine: MachineSettings) -> Iterator[None]:
    """Inside, the products of replaced modules and the output head read weights in an order made for a few rows."""
    able = machine.precision == "fp32" or has_bf16("cpu")
    if machine.device != "cpu" or not able or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        yield
        return
    changed: list[nn.Module] = []
    head: Any = None
    try:
        for module in model.modules():
            replaced = vars(module).get("forward")
            names = PRODUCTS.get(getattr(replaced, "func", None), ())
            parts = {some[0]: group(module, some) for some in names}
            if names and all(parts.values()):
                vars(module)[ORDERED] = {name: for_decoding(*found) for name, found in parts.items() if found}
                changed.append(module)
        if changed:
            head = plain_head(model)
        if head is not None:
            head.forward = for_decoding([head], [])
        yield
    finally:
        for module in changed:
            del vars(module)[ORDERED]
        if head is not None:
            vars(head).pop("forward", None)


PRODUCTS: dict[Any, tuple[tuple[str, ...], ...]] = {attention: (QKV, ("o_proj",)), gated_unit: (UNIT, ("down_proj",))}
"""Which linear layers of a replaced module are one product."""
