"""A GGUF file as the folder that `save_pretrained` would leave: converted once, checked ever after."""

import json
import os
import shutil
import tempfile
from pathlib import Path

from bakeoff.core.errors import UsageError, first_line
from bakeoff.core.files import checksum
from bakeoff.methods.parameters import shapes_of
from bakeoff.models.gguf_patches import parsed_once
from bakeoff.models.safety import check_gguf

CHECKSUMS = "checksums"
"""The file of a conversion that holds the others' checksums."""


def converted(folder: Path, planned: bool) -> bool:
    """Whether a conversion is there, byte for byte as it was written.

    What has not been touched since the checksums were written, last of all, is read by the plan alone.
    """
    try:
        listed, last = json.loads((folder / CHECKSUMS).read_bytes()), os.stat(folder / CHECKSUMS).st_ctime_ns
        trusted = planned and os.name != "nt"  # where ctime is when a file was made
        return bool(listed) and all(
            (trusted and os.stat(folder / name).st_ctime_ns <= last) or checksum(folder / name) == found
            for name, found in listed.items()
        )
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def staging_prefix(folder: Path) -> str:
    """How the names begin of folders in which `folder` is made."""
    return f".converting-{folder.name}-"


def convert(gguf: Path, folder: Path) -> None:
    """Writes a GGUF file's dequantised fp32 weights, configuration and tokenizer as `folder`, whole or not at all.

    Nobody else makes `folder` at the same time.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_gguf(gguf)
    try:
        location = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        with parsed_once():
            tokenizer = AutoTokenizer.from_pretrained(**location)
            model = AutoModelForCausalLM.from_pretrained(**location, dtype=torch.float32)
    except Exception as error:  # a foreign file: the reader raises whatever its bytes lead it to
        raise UsageError(
            f"--model {gguf}: not a GGUF file that transformers reads ({type(error).__name__}: {first_line(error)}); "
            "copy or download it again"
        ) from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=staging_prefix(folder)))
    try:
        # transformers' save_pretrained refuses a model that came from GGUF, so the tensors are written here.
        ties = shapes_of(model).ties
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in ties}
        save_file(tensors, staging / "model.safetensors", metadata={"format": "pt"})
        config = model.config
        config.dtype = torch.float32
        for leftover in ("quantization_config", "_name_or_path"):
            if hasattr(config, leftover):
                delattr(config, leftover)
        config.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        listed = {path.name: checksum(path) for path in sorted(staging.iterdir())}
        (staging / CHECKSUMS).write_text(json.dumps(listed, indent=1))
        os.rename(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
