"""How much memory a run takes, from a model's configuration: an estimate in bytes, before anything is loaded.

It counts what training must hold at its peak. A GPU holds more: CUDA's own half a gigabyte, workspaces of products, and
what its allocator can't use between tensors.
"""

import math
from dataclasses import dataclass
from typing import Any

from bakeoff.core.packed import held_bytes
from bakeoff.methods.parameters import Shapes

BITS = {"nf4": 4 + 8 / 64 + 32 / (64 * 256), "int8": 8.0, "torchao-int8": 8.0}
"""Bits of a quantised weight with its share of the scales: NF4 has one in eight bits for each 64 weights, and one in 32
for each 256 of those (Dettmers et al. 2023, arXiv:2305.14314, section 3). With eight bits, the one scale a row is left
out."""
MOMENTS = {"adamw": 8.0, "adamw8bit": 2 + 2 * 4 / 256}
"""Bytes that the optimizer holds of each trained number: two moments in fp32, or in eight bits with one scale in fp32
for each 256 (Dettmers et al. 2022, arXiv:2110.02861)."""


@dataclass(frozen=True)
class Work:
    """What is computed at once."""

    tokens: int
    """Of a micro-batch."""
    labels: int
    """Label tokens among them."""
    rows: int
    """Prompts that are decoded together."""
    capacity: int
    """Most tokens of a prompt and its summary."""


@dataclass(frozen=True)
class Memory:
    """Bytes by what they hold."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    cache: int
    """Keys and values while writing."""

    @property
    def training(self) -> int:
        """All that training holds at once."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    @property
    def writing(self) -> int:
        """All that writing holds at once, a prompt's activations aside; trained weights have a copy to compute with."""
        return self.weights + self.gradients // 2 + self.cache


def estimate(
    model: Any, shapes: Shapes, work: Work, *, precision: str, quantisation: str = "", again: bool = False,
    optimizer: str = "adamw",
) -> Memory:  # fmt: skip
    """Of `model`, a base model of `shapes` with a method attached, which may stand on the meta device.

    `again`: activations are computed again in the backward pass. Each formula is in the function that it calls.
    """
    size = 2 if precision == "bf16" else 4
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    config = model.config.get_text_config()
    cache = 2 * shapes.layers * shapes.key_width * size * work.rows * work.capacity
    words = shapes[f"{shapes.embedding}.weight"][0]
    activations = work.tokens * per_token(config, shapes.layers, size, inputs(model), again)
    if quantisation == "int8":
        activations += work.tokens * shapes.layers * of_int8(config, size)
    # Products in bf16 read copies of what is trained in fp32, and keep them for the backward pass.
    copies = (2 * trained if size == 2 else 0) / (shapes.layers if again and shapes.layers else 1)
    return Memory(
        weights=int(weights(model, shapes, size, quantisation)),
        gradients=4 * trained,
        optimizer=int(MOMENTS[optimizer] * trained),
        activations=int(activations + copies),
        # Logits, the same in fp32, their log-softmax, and its gradient.
        logits=work.labels * words * (size + 4 + 4 + 4),
        cache=cache,
    )


def fitting(model: Any, total: int, *, precision: str, again: bool = False, flash: bool = True) -> int:
    """Tokens of a micro-batch of a prepared `model` that a GPU of `total` bytes holds, as if all of them had labels.

    A fifth of its memory is left for what an estimate can't see, and 12 bytes of each trained number for gradient and
    moments. Without `flash` attention each layer keeps its scores, of which one document of all tokens has the most.
    """
    size = 2 if precision == "bf16" else 4
    parameters = list(model.parameters())
    held = sum(held_bytes(one) + (12 * one.numel() if one.requires_grad else 0) for one in parameters)
    config = model.config.get_text_config()
    layers = getattr(config, "num_hidden_layers", 0)
    each = per_token(config, layers, size, inputs(model), again)
    if any(one.itemsize == 1 and one.is_signed() for one in parameters):
        each += layers * of_int8(config, size)
    each += model.get_input_embeddings().weight.shape[0] * (size + 12)
    room = 0.8 * total - held
    heads = getattr(config, "num_attention_heads", None) or 1
    scores = 0.0 if flash else size * heads / 2 * (1 if again else layers)  # bytes for each pair of tokens
    if room <= 0 or not scores:
        return max(1, int(room / each))
    return max(1, int((math.sqrt(each**2 + 4 * scores * room) - each) / (2 * scores)))


def weights(model: Any, shapes: Shapes, size: int, quantisation: str) -> float:
    """Bytes of all parameters: trained ones in fp32, quantised ones in few bits, others in `size` bytes."""
    quantised = {f"{name}.weight" for name in shapes.linear if name != shapes.head} if quantisation else set()
    packed = sum(shapes.size(name) for name in quantised)
    parameters = {id(one): one for one in model.parameters()}.values()
    trained = sum(one.numel() for one in parameters if one.requires_grad)
    rest = sum(one.numel() for one in parameters) - trained - packed
    return 4 * trained + size * rest + packed * BITS.get(quantisation, 0) / 8


def inputs(model: Any) -> int:
    """Numbers of each token that trained linear layers keep: what they were given, for the gradient of their weight."""
    from torch import nn

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return sum(layer.in_features for layer in layers if layer.weight.requires_grad)


def per_token(config: Any, layers: int, size: int, kept: int, again: bool) -> float:
    """Bytes of activations of each token of a micro-batch; `kept` are numbers that trained layers keep beside.

    With `again`, each layer keeps its input alone, and one layer at a time has all of its activations. Beside them
    stand two gradients of one MLP.
    """
    layer = of_layer(config, size) + kept * size / max(1, layers)
    hidden = config.hidden_size * size
    return (layers * hidden + layer if again else layers * layer) + 2 * size * wide(config)


def wide(config: Any) -> int:
    """The width of an MLP's inner layer."""
    return int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)


def of_int8(config: Any, size: int) -> float:
    """Bytes of each token that the eight-bit linear layers of a decoder layer keep: what they were given.

    bitsandbytes holds them where autograd doesn't look, so they stay where activations are computed again.
    """
    return float(size * (3 * config.hidden_size + wide(config)))


def of_layer(config: Any, size: int) -> float:
    """Bytes of a decoder layer's activations of each token, beside those of trained layers.

    A gated layer of Llama's kind keeps what its two norms are given in fp32, queries, keys, values and the output of
    flash attention with its log-sums (Dao 2023, arXiv:2307.08691), and gate, silu(gate) and up. A frozen linear layer
    keeps nothing. Others are taken for the 34 bytes of a 16-bit number of Korthikanti et al. 2022 (arXiv:2205.05198),
    without its scores of attention.
    """
    heads, inner = getattr(config, "num_attention_heads", None), getattr(config, "intermediate_size", None)
    if not heads or not inner:
        return 17 * size * float(config.hidden_size)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    attention = size * 2 * (heads + kv_heads) * width + 4 * heads
    return float(2 * 4 * config.hidden_size + attention + 3 * size * inner)
