"""The base model without its values: what is counted, and what is checked before the first run."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bakeoff.config.schema import ModelSettings
from bakeoff.core.errors import UsageError
from bakeoff.methods.parameters import shapes_of
from bakeoff.models import loading


def builder(settings: ModelSettings, folder: Path | None, vocabulary: int) -> Callable[[str], Any]:
    """A function that builds the base model anew on the device `meta` (shapes alone) or `cpu` (random values)."""

    first = skeleton(settings, folder, vocabulary)

    def build(device: str) -> Any:
        return copy.deepcopy(first) if device == "meta" else rehearsal(settings, first)

    return build


def skeleton(settings: ModelSettings, folder: Path | None, vocabulary: int = 0) -> Any:
    """The model that `load` gives, on the meta device: shapes, ties and growth are the same, nothing is computed.

    A folder's files are held against its configuration, by their headers; without a folder, the configuration is all.
    `vocabulary` is as for `meta_model`. Raises UsageError for what `load` would refuse.
    """
    if folder is None:
        return loading.meta_model(settings, None, vocabulary)
    loading.read_configuration(settings, folder)
    model = loading.from_files(settings, str(folder), "eager", device_map="meta")
    loading.grow(model, vocabulary)
    if settings.architecture:
        told, found = shapes_of(loading.meta_model(settings, None, vocabulary)), shapes_of(model)
        if wrong := [name for name in (*found, *told) if name not in told or found.get(name) != told[name]]:
            shown = [dict(shapes).get(wrong[0], "not there") for shapes in (told, found)]
            raise UsageError(
                f"model.architecture is not that of {settings.name}: {wrong[0]} is {shown[0]} by it, {shown[1]} in the "
                "files; mend [model.architecture] or take it out"
            )
    return model


def rehearsal(settings: ModelSettings, model: Any) -> Any:
    """A model of the configuration of `model` on the CPU in fp32, with random values: the same at every call."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(
            model.config,
            dtype=torch.float32,
            attn_implementation="eager",
            trust_remote_code=settings.trust_remote_code,
        )


def vocabulary(settings: ModelSettings, folder: Path | None) -> int:
    """The size of the tokenizer with the preset's special tokens; 0 where counting must do without one.

    A preset's architecture is counted from itself alone, so no tokenizer is fetched for it.
    """
    if settings.name != "random" and folder is None:
        if settings.architecture:
            return 0
        packed = settings.name in loading.KNOWN or settings.name.endswith(".gguf")
        if packed and not settings.special_tokens:  # has as many rows as tokens, and takes a while to read
            return 0
        loading.read_configuration(settings, None)  # says what to do where a name is not known
    return len(loading.load_tokenizer(settings, folder))
