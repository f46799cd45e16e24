"""What a method trained, on disk: exactly those tensors, as safetensors in a folder that PEFT loads if it is PEFT's."""

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from xxhash import xxh3_128

from bakeoff.core.packed import parts
from bakeoff.runs.tensor_files import save_tensors

TENSORS = "trained.safetensors"
PEFT_TENSORS = "adapter_model.safetensors"


def save(model: Any, folder: Path) -> Path:
    """Writes the trained tensors of `model` into `folder`; returns the safetensors file that holds exactly them.

    PEFT's own file stands beside it where it holds something else: what an encoder computes (P-tuning), say, or frozen
    projections.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    if hasattr(model, "peft_config"):
        # PEFT would add the whole embedding where its vocabulary grew, and ask the hub whether it did.
        model.save_pretrained(folder, save_embedding_layers=False)
        if contents(load_file(folder / PEFT_TENSORS)) == contents(tensors):
            return folder / PEFT_TENSORS
    save_tensors(tensors, folder / TENSORS)
    return folder / TENSORS


def contents(tensors: dict[str, torch.Tensor]) -> Counter[tuple[tuple[int, ...], str]]:
    """Shapes and checksums of tensors, whatever their names."""
    found = digests(tensors)
    return Counter((tuple(tensor.shape), found[name]) for name, tensor in tensors.items())


def load(model: Any, folder: Path) -> None:
    """Puts saved tensors into `model`, which has the same method attached. Raises ValueError where they don't fit."""
    if hasattr(model, "peft_config") and not (folder / TENSORS).is_file():
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        saved = load_file(folder / PEFT_TENSORS)
        set_peft_model_state_dict(model, saved)
        there = get_peft_model_state_dict(model, save_embedding_layers=False)
        # PEFT passes over keys that it can't place, so what arrived is compared with what was saved.
        if there.keys() != saved.keys() or any(not torch.equal(there[key].cpu(), saved[key]) for key in saved):
            raise ValueError(f"{folder}: PEFT did not load all of {sorted(saved)[:3]}")
        return
    tensors = load_file(folder / TENSORS)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if tensors.keys() != trained.keys():
        raise ValueError(f"{folder}: holds {sorted(tensors)[:3]}, the method trains {sorted(trained)[:3]}")
    for name, parameter in trained.items():
        found, wanted = ((tuple(tensor.shape), tensor.dtype) for tensor in (tensors[name], parameter))
        if found != wanted:
            raise ValueError(f"{folder}: {name} is {found}, expected {wanted}")
        # In place of the base model's memory: its file is mapped there, and to write over it takes five times as long.
        parameter.data = tensors[name].to(parameter.device)


def saved_parameters(file: Path) -> int:
    """Numbers in a safetensors file, read from its header."""
    with safe_open(file, framework="pt") as tensors:
        return sum(
            math.prod(tensors.get_slice(name).get_shape())
            for name in tensors.keys()  # noqa: SIM118 (no mapping)
        )


def frozen_digests(model: torch.nn.Module) -> dict[str, str]:
    """Checksum of every parameter that is not trained, by name."""
    return digests({name: p for name, p in model.named_parameters() if not p.requires_grad})


def trained_digests(model: torch.nn.Module) -> dict[str, str]:
    """Checksum of every parameter that is trained, by name."""
    return digests({name: p for name, p in model.named_parameters() if p.requires_grad})


def digests(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Checksum of each tensor's bytes; several at once, on the processors that computed them.

    Tensors of which each rank holds a share are gathered one after another, in the same order on every rank.
    """
    if any(map(divided, tensors.values())):
        return {name: digest(tensor) for name, tensor in tensors.items()}
    with ThreadPoolExecutor(torch.get_num_threads()) as beside:
        return dict(zip(tensors, beside.map(digest, tensors.values()), strict=True))


def digest(tensor: torch.Tensor) -> str:
    """XXH3 of a tensor's bytes, 128 bits: it notices every accident, at the speed of memory."""
    if divided(tensor):
        tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    found = xxh3_128()
    for part in parts(tensor.detach()):
        plain = part.as_subclass(torch.Tensor)  # bitsandbytes' own kind moves its scales along
        found.update(plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def divided(tensor: torch.Tensor) -> bool:
    """Whether each rank holds a share of a tensor (DTensor, which not every build of torch has)."""
    return hasattr(tensor, "full_tensor")
