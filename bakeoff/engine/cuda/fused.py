"""Decoder layers that torch.compile fuses: fewer kernels that Python must start, and fewer passes over memory.

One compilation serves all layers of a kind and rows of any length. Only passes with a gradient take it: the steps of
writing are a graph, which Python does not start.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from bakeoff.config.hardware import repeatable
from bakeoff.data.encoding import Encoded
from bakeoff.engine import layout
from bakeoff.engine.decoder_layers import layers_of

REPAYS = 1000
"""Optimizer steps of a run from which on its layers are compiled, which takes a minute: an estimate, for on no GPU has
it been measured. `python -m lab.gpu` says from how many on it pays."""
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.05}
"""Largest distance of two gradients that counts as rounding, as a share of their length; by the type of products."""
BACKEND = "inductor"
"""What torch.compile compiles with."""
ALIKE = ("deterministic", "emulate_precision_casts")
"""Settings of inductor: it chooses no kernel whose sums differ by how fast one was, and rounds to bf16 where layers
do."""
LONG = 2048
"""Tokens of the row for which layers are first compiled on a GPU: inductor sizes its blocks by the first row that it
sees."""
CALLS = "_bakeoff_compiled"
"""The attribute of a model that holds the compiled call of each of its layers."""


@contextmanager
def fused(model: Any) -> Iterator[None]:
    """Inside, the decoder layers of `model` are computed as torch.compile has them; the first pass compiles."""
    layers = layers_of(model)
    if CALLS not in vars(model):
        alike()
        for layer in layers:
            layer.compile(dynamic=True, backend=BACKEND)
        vars(model)[CALLS] = [layer._compiled_call_impl for layer in layers]
    try:
        for layer, call in zip(layers, vars(model)[CALLS], strict=True):
            layer._compiled_call_impl = call
        yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None


def alike() -> str:
    """Has inductor compile a layer as it is and each time alike; says what this torch lacks for that, if anything."""
    from torch._inductor import config as compiling  # seconds, which only a run that compiles should take

    for option in ALIKE:
        if not hasattr(compiling, option):
            return f"this torch can't be told to compile a layer as it is and each time alike ({option})"
        setattr(compiling, option, True)
    return ""


def unfusable(
    model: Any, added: Iterable[torch.nn.Parameter], loss: Callable[[Any, Sequence[Encoded]], torch.Tensor],
    kind: torch.dtype, device: str,
) -> str:  # fmt: skip
    """Why layers are not compiled: each must be one piece, serve every layer and row, and leave the gradient as it is.

    `loss` computes by layers as they are inside and outside of `fused`; `kind` is the type of its products. What is
    compiled here serves the run.
    """
    from torch._dynamo import config as tracing
    from torch._dynamo import error_on_graph_break as whole

    if not layers_of(model):
        return "its architecture names no decoder layers"
    if why := layout.steady(model):
        return why
    if why := alike():
        return why
    one, other = ([*text, *text] for text in layout.documents(model))
    many = [one, other] * (LONG // len(one + other) + 1 if device == "cuda" else 1)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradient(texts: Sequence[list[int]]) -> list[torch.Tensor]:
        nats = loss(model, [Encoded(text, 1) for text in texts])
        with repeatable(device):
            return list(torch.autograd.grad(nats, trained, materialize_grads=True))

    with layout.noisy(added), torch.enable_grad():
        model.train()
        for number, texts in enumerate((many, [other, one[1:], one], [other[2:]], [*many, other, one])):
            expected = gradient(texts)
            again = torch.compiler.set_stance("fail_on_recompile") if number else nullcontext()
            with fused(model), again, whole(True), tracing.patch(fail_on_recompile_limit_hit=True):
                found = gradient(texts)
            far = distance(found, expected)
            if not far <= CLOSE[kind]:
                return f"compiled layers give another gradient, {far:.2g} of its length away"
    return ""


def distance(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """The length of the difference of two gradients, as a share of the second's."""
    apart = torch.stack([torch.dist(one.double(), other.double()) for one, other in zip(found, expected, strict=True)])
    length = torch.stack([one.double().norm() for one in expected]).norm()
    return float(apart.norm() / length.clamp(min=1e-30))
