"""Decoder layers in two calls of layer.c around their attention, and steps of decoding in one call of all, where there
are tiles and no weight of them learns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from bakeoff.engine.attention import Documents
from bakeoff.engine.cache import Step
from bakeoff.engine.cpu import native
from bakeoff.engine.linear import WIDE, LoraPair, side_by_side

WEIGHTS = "bakeoff_weights"
"""Attribute of a decoder layer: its packed weights, and what they were made from."""


class Weights:
    """Frozen weights of a decoder layer packed, with room for LoRA; those for the gradient once it asks."""

    def __init__(self, groups: Sequence[Sequence[nn.Linear]], ranks: int) -> None:
        """`groups`: the layers of queries, keys and values, of the output, of gate and up, and of down.

        `ranks` is what LoRA pairs bring beside the first, up to the next multiple of WIDE.
        """
        self.groups, self.ranks = groups, ranks
        self.shapes = [(sum(len(layer.weight) for layer in group), group[0].weight.shape[1]) for group in groups]
        """Outputs and inputs of each group."""
        self.packed: tuple[torch.Tensor, ...] = ()
        self.packed_transposed: tuple[torch.Tensor, ...] = ()

    def of(self, lay: Callable[..., None], transposed: bool) -> tuple[torch.Tensor, ...]:
        """The packed weights, with zeros for LoRA pairs beside those of the first, and the LoRA pairs' own."""
        found = []
        with torch.inference_mode(False), torch.no_grad():  # what is made inside may not be written to outside
            for group, shape, room in zip(self.groups, self.shapes, (self.ranks, 0, 0, 0), strict=True):
                weight = side_by_side(group)
                outputs, inputs = shape[::-1] if transposed else shape
                packed = (weight.new_zeros if room else weight.new_empty)(outputs * (inputs + room))
                lay(weight, packed, *shape, room)
                found.append(packed)
            return *found, found[0].new_zeros(self.ranks * self.shapes[0][0 if transposed else 1])

    def forward(self, kernels: native.Kernels, beside: Sequence[LoraPair]) -> tuple[torch.Tensor, ...]:
        """The panels for the layer, with what A and B are now; the last are of all A."""
        if not self.packed:
            self.packed = self.of(kernels.pack, transposed=False)
        width, at = self.shapes[0][1], 0
        for pair in beside:
            self.pack_lora(kernels, pair.lora_A, 1.0, self.packed[-1], width, at, 0)
            self.pack_lora(
                kernels, pair.lora_B, pair.scaling, self.packed[0], width + self.ranks, pair.start, width + at
            )
            at += len(pair.lora_A)
        return self.packed

    def backward(self, kernels: native.Kernels, beside: Sequence[LoraPair]) -> tuple[torch.Tensor, ...]:
        """The same of the transposed weights, for the gradient; the last are of all B."""
        if not self.packed_transposed:
            self.packed_transposed = self.of(kernels.pack_transposed, transposed=True)
        outputs, at = self.shapes[0][0], 0
        for pair in beside:
            self.pack_lora(
                kernels, pair.lora_B, pair.scaling, self.packed_transposed[-1], outputs, at, pair.start, turned=True
            )
            self.pack_lora(
                kernels, pair.lora_A, 1.0, self.packed_transposed[0], outputs + self.ranks, 0, outputs + at, turned=True
            )
            at += len(pair.lora_A)
        return self.packed_transposed

    def pack_lora(
        self, kernels: native.Kernels, weight: torch.Tensor, scaling: float, packed: torch.Tensor, inputs: int,
        row: int, column: int, turned: bool = False,
    ) -> None:  # fmt: skip
        """Writes a weight of a LoRA pair times `scaling` into `packed` weights of so many inputs from a row and column.

        `turned`: its transpose.
        """
        weight = weight.float()
        step = -1 if turned else 1
        kernels.pack_lora(
            weight, packed, float(scaling), *weight.shape[::step], *weight.stride()[::step], inputs, row, column
        )


@dataclass
class Layer:
    """A decoder layer as layer.c computes it: before its attention and after it, and the gradients of both."""

    kernels: native.Kernels
    weights: Weights
    beside: Sequence[LoraPair]
    """LoRA beside queries, keys and values."""
    norms: Sequence[Any]
    """The one before the attention and the one after it."""
    index: int
    """Which of the model's layers this is."""
    n_kv_heads: int
    scaling: float
    """Of products of queries and keys."""
    head_dim: int

    def pre_attention(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values (heads x tokens x their width) of tokens x width.

        Beside it, for a gradient, its norm's inverse and x A.
        """
        (tokens, width), norm = x.shape, self.norms[0]
        outputs, ranks = self.weights.shapes[0][0], self.weights.ranks
        inverse, lora_inner = x.new_empty(tokens, dtype=torch.float32), x.new_empty(tokens, ranks)
        rows = x.new_empty(outputs // self.head_dim, tokens, self.head_dim)
        packed, *_, down = self.weights.forward(self.kernels, self.beside)
        self.kernels.pre_attention_forward(
            x, norm.weight, packed, down, lora_inner, inverse, rows,
            float(norm.variance_epsilon), tokens, width, outputs, self.head_dim, ranks,
        )  # fmt: skip
        return rows, inverse, lora_inner

    def pre_attention_backward(
        self, gradient: torch.Tensor, beside: torch.Tensor, x: torch.Tensor, inverse: torch.Tensor,
        lora_inner: torch.Tensor, wanted: bool = True,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:  # fmt: skip
        """Of x, with what `beside` brings of it, if `wanted`, and of A and B of each LoRA pair in fp32."""
        (tokens, width), outputs, ranks = x.shape, self.weights.shapes[0][0], self.weights.ranks
        grad_x, grad_lora = torch.empty_like(x), x.new_empty(ranks * (outputs + width), dtype=torch.float32)
        packed, *_, up = self.weights.backward(self.kernels, self.beside)
        self.kernels.pre_attention_backward(
            gradient, beside, x, self.norms[0].weight, inverse, packed, up, lora_inner, grad_lora, grad_x,
            tokens, width, outputs, self.head_dim, ranks, int(wanted),
        )  # fmt: skip
        ups, downs = grad_lora[: ranks * outputs].view(ranks, outputs), grad_lora[ranks * outputs :].view(ranks, width)
        found, at = [], 0
        for pair in self.beside:
            size, rank = pair.lora_B.shape
            of_up = ups.new_empty(size, rank)
            self.kernels.transpose_scaled(ups[at:, pair.start :], of_up, float(pair.scaling), rank, size, outputs)
            found += [downs[at : at + rank], of_up]
            at += rank
        return grad_x, found

    def post_attention(self, x: torch.Tensor, attn_output: torch.Tensor, keep: bool) -> tuple[torch.Tensor, ...]:
        """What the layer returns from tokens x width and what its heads saw of them, heads x tokens x their width.

        Beside it what a gradient needs, if `keep`: the first sum, its norm's inverse, and the unit's factors.
        """
        (tokens, width), weights, norm = x.shape, self.weights, self.norms[1]
        _, *packed, _ = weights.packed
        wide = weights.shapes[1][1]
        if attn_output.shape != (wide // self.head_dim, tokens, self.head_dim):
            raise ValueError(f"heads saw {tuple(attn_output.shape)} of {tokens} tokens, {wide} numbers each")
        inner = weights.shapes[3][1]
        out, middle, inverse = torch.empty_like(x), torch.empty_like(x), x.new_empty(tokens, dtype=torch.float32)
        both = x.new_empty(inner // WIDE, tokens if keep else 0, 2 * WIDE)
        self.kernels.post_attention_forward(
            x, attn_output, packed[0], norm.weight, *packed[1:], middle, inverse, both, out,
            float(norm.variance_epsilon), tokens, wide, self.head_dim, width, inner, int(keep),
        )  # fmt: skip
        return out, middle, inverse, both

    def post_attention_backward(
        self, gradient: torch.Tensor, middle: torch.Tensor, inverse: torch.Tensor, both: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of x and of what the heads saw."""
        (tokens, width), inner, weights = middle.shape, both.shape[0] * WIDE, self.weights
        _, o, unit, down, _ = weights.backward(self.kernels, ())
        wide = weights.shapes[1][1]
        grad_x = torch.empty_like(middle)
        grad_attn_output = middle.new_empty(wide // self.head_dim, tokens, self.head_dim)
        self.kernels.post_attention_backward(
            gradient, o, self.norms[1].weight, unit, down, middle, inverse, both, grad_x, grad_attn_output,
            tokens, wide, self.head_dim, width, inner,
        )  # fmt: skip
        return grad_x, grad_attn_output


class Steps:
    """Decoder layers, one after another, as decoding.c takes a step through all of them in one call."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.kernels = layers[0].kernels
        self.kept = [layer.weights.forward(layer.kernels, layer.beside) for layer in layers]
        """What the table points to."""
        table, constants = [], []
        for layer, (qkv, o, gate_up, down, lora_A) in zip(layers, self.kept, strict=True):
            before, after = layer.norms
            weights = before.weight, qkv, lora_A, o, after.weight, gate_up, down
            heads, inner = (layer.weights.shapes[place][1] for place in (1, 3))
            table.append([*(weight.data_ptr() for weight in weights),
                          layer.weights.ranks, heads // layer.head_dim, layer.n_kv_heads, inner])  # fmt: skip
            constants.append([before.variance_epsilon, after.variance_epsilon, layer.scaling])
        self.table, self.constants = torch.tensor(table), torch.tensor(constants, dtype=torch.float32)

    def __call__(self, x: torch.Tensor, step: Step, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """tokens x width from tokens x width, a token for each of the first rows of the step's cache."""
        cache = [step.cached_kv(layer.index, x) for layer in self.layers]
        (tokens, width), head_dim = x.shape, self.layers[0].head_dim
        if (
            width != len(self.layers[0].norms[0].weight)
            or not cos.numel() == sin.numel() == len(step.rows) * head_dim == tokens * head_dim
        ):
            raise ValueError(f"layers are given {tokens} tokens of {width} numbers, positions {tuple(cos.shape)}")
        out, capacity = x.clone(memory_format=torch.contiguous_format), cache[0][0].shape[2]
        pointers = torch.tensor([[keys.data_ptr(), values.data_ptr()] for keys, values in cache])
        self.kernels.decoder_step(
            self.table, self.constants, pointers, out, cos.contiguous(), sin.contiguous(), step.at,
            len(self.layers), tokens, width, head_dim, capacity,
        )  # fmt: skip
        return out


def layer_of(
    module: Any, groups: Sequence[tuple[list[nn.Linear], list[LoraPair]] | None], norms: Sequence[Any],
    width: int, kernels: native.Kernels,
) -> Layer | str:  # fmt: skip
    """The decoder layer `module` of these linear layers and norms, for tokens of `width` numbers, or why not.

    layer.c computes it where all but LoRA in front of the heads is frozen, or nothing learns, in bf16 and without bias,
    and all sizes, a head's too, are multiples of WIDE.
    """
    found, learns = list(filter(None, groups)), torch.is_grad_enabled()
    if len(found) < 4:
        return "a linear layer is another thing than a matrix with a LoRA"
    if any(beside for _, beside in found[1:]):
        return "a LoRA stands behind the heads"
    owners, scales = [layer for layers, _ in found for layer in layers], [norm.weight for norm in norms]
    weights = [layer.weight for layer in owners]
    if any(layer.bias is not None for layer in owners):
        return "a linear layer has a bias"
    if any(tensor.dtype != torch.bfloat16 for tensor in (*weights, *scales)):
        return "its weights are not in bf16"
    if learns and any(tensor.requires_grad for tensor in (*weights, *scales)):
        return "weights of its layers learn"
    beside = found[0][1]
    ranks = -(-sum(len(pair.lora_A) for pair in beside) // WIDE) * WIDE
    of_layers = Weights([layers for layers, _ in found], ranks)
    qkv, o, unit, down = of_layers.shapes
    gate, up = (len(layer.weight) for layer in found[2][0])
    if {qkv[1], o[0], unit[1], down[0], *map(len, scales)} != {width} or not gate == up == down[1]:
        return "its linear layers do not fit together"
    heads = module.self_attn
    n_kv_heads = heads.config.num_key_value_heads
    if any(size % WIDE for size in (width, heads.head_dim, gate)) or qkv[0] != o[1] + 2 * n_kv_heads * heads.head_dim:
        return f"a size of its layers is no multiple of {WIDE}"
    adapters = [(pair.start, pair.lora_B.shape) for pair in beside]
    made_from = ranks, *adapters, *((weight.data_ptr(), weight._version) for weight in weights)
    kept = vars(module).get(WEIGHTS)
    if kept is None or kept[0] != made_from:
        kept = vars(module)[WEIGHTS] = made_from, of_layers
    constants = heads.layer_idx, n_kv_heads, heads.scaling, heads.head_dim
    return Layer(kernels, kept[1], beside, norms, *constants)


def forget(model: nn.Module) -> None:
    """Drops all packed weights: what changes weights behind autograd's back is not seen by them."""
    for module in model.modules():
        vars(module).pop(WEIGHTS, None)


class Stack(torch.autograd.Function):
    """What decoder layers return, one after another, as one step of autograd: what Python does between two calls of C
    finds nothing in the processor's cache."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, layers: Sequence[Layer], segments: Documents, cos: torch.Tensor, sin: torch.Tensor,
        wanted: torch.Tensor | None, keep: bool, *trained: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """tokens x width from tokens x width; `trained` are A and B of each LoRA pair of each layer, in order.

        `cos` and `sin` are tokens of all documents x 1 x width of a head. The last layer goes on after its attention
        only for the tokens `wanted`, if given, and is 0 for the others. `keep`: for a gradient.
        """
        shared, ctx.kept = segments.shared, []
        first = out = x
        for layer in layers:
            x = out
            rows, inverse, lora_inner = layer.pre_attention(x)
            if shared:
                rows = rows.index_select(1, shared.copies)
            heads = len(rows) - 2 * layer.n_kv_heads
            logs = rows.new_empty(heads, rows.shape[1], dtype=torch.float32) if keep else None
            attn_output = segments.from_rows(
                layer.kernels, layer.index, rows, cos, sin, layer.n_kv_heads, layer.scaling, logs
            )
            if keep:
                ctx.kept.append((layer, x, inverse, lora_inner, rows, logs, attn_output))
            if shared:
                attn_output = attn_output.index_select(1, shared.row)
            if wanted is not None and layer is layers[-1]:
                kept, *after = layer.post_attention(x[wanted], attn_output.index_select(1, wanted), keep)
                out = spread(kept, wanted, len(x))
            else:
                out, *after = layer.post_attention(x, attn_output, keep)
            if keep:
                ctx.kept[-1] += (after,)
        ctx.constants = segments, wanted
        ctx.save_for_backward(first, cos, sin, *trained)  # none of these may change before the gradient
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Of x, and of A and B in fp32."""
        (_, cos, sin, *_), (segments, wanted) = ctx.saved_tensors, ctx.constants
        shared = segments.shared
        found: list[torch.Tensor] = []
        if not ctx.kept:
            raise RuntimeError("what the layers kept for their gradient was given back: it can be asked for once")
        while ctx.kept:  # what a layer kept is given back as soon as its gradient is there
            layer, x, inverse, lora_inner, rows, logs, attn_output, after = ctx.kept.pop()
            gradient = gradient.contiguous()
            if wanted is not None:
                beside, grad_attn_output = (
                    spread(part, wanted, len(x)) for part in layer.post_attention_backward(gradient[wanted], *after)
                )
                wanted = None
            else:
                beside, grad_attn_output = layer.post_attention_backward(gradient, *after)
            if shared:
                grad_attn_output = spread(grad_attn_output, shared.row, rows.shape[1])
            constants = layer.n_kv_heads, layer.scaling, logs, attn_output, grad_attn_output
            # In place of `rows`, which nobody needs any more.
            grad_rows = segments.of_rows(layer.kernels, rows, cos, sin, *constants, to=rows)
            if shared:
                grad_rows = shared.of_row(grad_rows, dim=1)
            needed = bool(ctx.kept) or ctx.needs_input_grad[0]
            gradient, grad_lora = layer.pre_attention_backward(grad_rows, beside, x, inverse, lora_inner, needed)
            found = grad_lora + found
        return gradient if needed else None, None, None, None, None, None, None, *found


def spread(part: torch.Tensor, indices: torch.Tensor, tokens: int) -> torch.Tensor:
    """... x tokens x width: `part` (... x some x width) at its places, 0 at the others."""
    return part.new_zeros(*part.shape[:-2], tokens, part.shape[-1]).index_copy_(-2, indices, part)
