"""What training did beside the task: what the model forgot, and what it costs to write with it, attached and merged."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bakeoff.core.packed import held_bytes
from bakeoff.data.encoding import Encoded
from bakeoff.engine import Engine

Write = Callable[[Any, Sequence[Sequence[int]]], Any]
"""Writes a summary of each prompt with a model."""


def forgetting(
    engine: Engine, base: Any, model: Any, texts: Sequence[Encoded], prompts: Sequence[Encoded]
) -> dict[str, float]:
    """Nats per token: cross-entropy of `texts` by the base model and by the trained one, and how far their
    distributions are apart on `prompts` (KL divergence of the trained from the base model, averaged over tokens).

    Every token of a sequence counts but the first, so `prompt` of each is 1.
    """
    with torch.no_grad():
        before, after = (cross_entropy(engine, one, texts) for one in (base, model))
        apart = sum(divergence(engine.logits(base, one), engine.logits(model, one)) for one in prompts)
    return {"before": before, "after": after, "divergence": apart / labels(prompts)}


def cross_entropy(engine: Engine, model: Any, texts: Sequence[Encoded]) -> float:
    """Nats per token."""
    model.eval()
    return sum(engine.loss(model, [one]).item() for one in texts) / labels(texts)


def labels(examples: Sequence[Encoded]) -> int:
    """Tokens that are predicted."""
    return sum(len(one.ids) - one.prompt for one in examples)


def divergence(base: torch.Tensor, model: torch.Tensor) -> float:
    """Nats, summed over the rows of two tensors of logits (tokens x vocabulary): sum of p (log p - log q)."""
    p, q = (part.double().log_softmax(-1) for part in (base, model[:, : base.shape[1]]))
    return (p.exp() * (p - q)).sum().item()


def cost(engine: Engine, model: Any, prompts: Sequence[Sequence[int]], write: Write) -> dict[str, float]:
    """Seconds a summary, and the bytes of the weights that are held for it.

    What happens once is not counted: weights that are put as writing wants them, a step that is captured.
    """
    held = {id(tensor): held_bytes(tensor) for tensor in (*model.parameters(), *model.buffers())}
    with engine.writing(model):
        write(model, [max(prompts, key=len)])
        begun = time.perf_counter()
        write(model, prompts)
        seconds = time.perf_counter() - begun
    return {"seconds": seconds / len(prompts), "bytes": float(sum(held.values()))}


def merged(model: Any) -> Any:
    """`model` with its adapter in the base model's weights; None where the method has no such form."""
    if not hasattr(model, "merge_and_unload") or model.active_peft_config.is_prompt_learning:
        return None
    try:
        return model.merge_and_unload()
    except (NotImplementedError, AttributeError, ValueError):  # PEFT's ways to say that this method can't be merged
        return None
