"""Floating-point operations that training needs, derived from the method's graph, and the device's measured peak.

A product of (m x k) and (k x n) counts 2 m k n; the rest of a transformer (norms, softmax, activations) counts nothing,
as is usual for model FLOPs utilisation (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
"""

import time
from dataclasses import dataclass
from typing import Any

import torch

from bakeoff.runs.resources import synchronise


@dataclass(frozen=True)
class Product:
    """One matrix product of the forward pass and which of its gradients training needs."""

    weights: int
    """Inputs x outputs of a linear layer; 0 for attention."""
    width: int
    """Heads x head size of an attention, 0 for a linear layer."""
    head: bool
    """Whether it is the output head, of which only labelled positions are needed."""
    gradients: int
    """How many of the two gradients (of each operand) are needed; 0 to 4 for the two products of attention."""
    fixed: bool
    """Whether nothing below or in it is trained, so that its output is the same in every epoch."""


def products(model: Any) -> list[Product]:
    """The products of one forward pass of `model`, which may stand on the meta device, by following requires_grad."""
    found: list[Product] = []
    streams: dict[Any, dict[str, bool]] = {}
    head = model.get_output_embeddings()
    owners = {id(child): (owner, name) for owner in model.modules() for name, child in owner.named_children()}

    def linear(layer: torch.nn.Linear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        below = inputs[0].requires_grad
        gradients = int(below) + int(layer.weight.requires_grad)
        found.append(Product(layer.weight.numel(), 0, layer is head, gradients, not output.requires_grad))

    def stream(layer: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        owner, name = owners[id(layer)]
        streams.setdefault(owner, {})[name] = output.requires_grad
        if len(streams[owner]) == 3:
            q, k, v = (streams[owner][part] for part in ("q_proj", "k_proj", "v_proj"))
            width = model.config.num_attention_heads * (
                getattr(model.config, "head_dim", None) or model.config.hidden_size // model.config.num_attention_heads
            )
            found.append(Product(0, width, False, q + k + (q or k) + v, not (q or k or v)))

    hooks = []
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            hooks.append(layer.register_forward_hook(linear))
        if id(layer) in owners and owners[id(layer)][1] in ("q_proj", "k_proj", "v_proj"):
            hooks.append(layer.register_forward_hook(stream))
    try:
        device = next(model.parameters()).device
        model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def training_flops(
    model: torch.nn.Module, lengths: list[tuple[int, int]], epochs: int = 1, *, causal: bool = True
) -> float:
    """Of `epochs` passes over documents of (tokens, label tokens): forward, activation and weight gradients.

    What is the same in every epoch (a frozen trunk) counts once. `causal` counts the half of each attention square that
    is not masked; False counts the whole, as a plain batched product computes it.
    """
    config = getattr(model, "active_peft_config", None)
    virtual = getattr(config, "num_virtual_tokens", 0) or 0
    rows = sum(tokens + virtual for tokens, _ in lengths)
    labels = sum(count for _, count in lengths)
    square = sum((n * (n + 1) / 2 if causal else n * n) for n in (tokens + virtual for tokens, _ in lengths))
    total = 0.0
    for product in products(model):
        if product.width:
            one = 2 * square * product.width
            forward, backward = 2 * one, product.gradients * one
        else:
            one = 2 * (labels if product.head else rows) * product.weights
            forward, backward = one, product.gradients * one
        total += (forward if product.fixed else epochs * forward) + epochs * backward
    return total


def peak(
    shapes: list[tuple[int, int]], rows: int, threads: int, precision: str, device: str = "cpu", seconds: float = 1.0
) -> dict[str, float]:
    """FLOP/s of the fastest product in `precision` by its size: `shapes` (inputs, outputs), and 4096 cubed."""
    torch.set_num_threads(threads)
    found = {}
    for m, k, n in [(4096, 4096, 4096), *((rows, inputs, outputs) for inputs, outputs in shapes)]:
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = torch.randn(m, k).to(device, kind), torch.randn(n, k).to(device, kind)
        best, end = float("inf"), time.perf_counter() + seconds
        while best == float("inf") or time.perf_counter() < end:
            synchronise()
            start = time.perf_counter()
            torch.nn.functional.linear(a, b)
            synchronise()
            best = min(best, time.perf_counter() - start)
        found[f"{m} x {k} x {n}"] = 2 * m * k * n / best
    return found


def measure_peak(
    shapes: list[tuple[int, int]], rows: int, threads: int, precision: str, device: str, tell: Any
) -> dict[str, float]:
    """`peak` as a job of its own process."""
    return peak(shapes, rows, threads, precision, device)
