"""What finished runs trained, read from the store: LoRA's factors, and full fine-tuning's update of each matrix."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bakeoff.config.schema import Settings
from bakeoff.models import loading

LAYERS = "layers."
"""What the name of a weight of a layer holds."""


def factors(adapter: Path) -> dict[str, tuple[NDArray, NDArray]]:
    """LoRA's A (rank x inputs) and B (outputs x rank) by the name of the layer, from a saved adapter."""
    tensors = saved(adapter)
    found = {name.partition(".lora_A")[0]: tensor for name, tensor in tensors.items() if ".lora_A" in name}
    others = {name.partition(".lora_B")[0]: tensor for name, tensor in tensors.items() if ".lora_B" in name}
    return {name: (a, others[name]) for name, a in found.items()}


def updates(adapter: Path, base: dict[str, NDArray]) -> Iterator[tuple[str, NDArray]]:
    """Name and update (trained minus base) of each matrix of a layer that a run of full fine-tuning saved."""
    for name, tensor in saved(adapter).items():
        if LAYERS in name and tensor.ndim == 2:
            yield name, tensor - base[name]


def saved(adapter: Path) -> dict[str, NDArray]:
    """The tensors of a saved adapter."""
    from safetensors.numpy import load_file

    from bakeoff.runs.adapters import PEFT_TENSORS, TENSORS

    file = adapter / TENSORS
    return dict(load_file(file if file.is_file() else adapter / PEFT_TENSORS))


def virtual_tokens(adapter: Path) -> NDArray:
    """The embeddings of a soft prompt, virtual tokens x width."""
    [tensor] = [tensor for tensor in saved(adapter).values() if tensor.ndim == 2]
    return tensor


def base_model(settings: Settings, cache: Path) -> tuple[Any, Any]:
    """The base model, fp32, and its tokenizer; `cache` holds converted models."""
    source = loading.locate(settings.model)
    return loading.load(settings.model, source, loading.prepare(source, cache), None)


def base_weights(settings: Settings, cache: Path) -> dict[str, NDArray]:
    """The base model's weights by name, fp32."""
    model, _ = base_model(settings, cache)
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
