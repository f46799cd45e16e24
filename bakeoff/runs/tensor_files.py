"""Tensors into a safetensors file, past the system's cache."""

import json
from pathlib import Path
from typing import Any

import torch

from bakeoff.core.files import write_past_cache

KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64", torch.int64: "I64",
         torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL"}  # fmt: skip
"""How safetensors calls a type."""


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> str:
    """Writes a safetensors file (github.com/huggingface/safetensors, "Format"); returns its `checksum`.

    Raises OSError.

    safetensors' own writer copies every tensor and goes by the system's cache, and the file would have to be read again
    for its checksum.
    """
    header: dict[str, Any] = {}
    pieces: list[bytes | memoryview] = []
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):  # aligned
        data: Any = tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else memoryview(b"")
        span = [at, at + data.nbytes]
        header[name] = {"dtype": KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        pieces.append(data)
        at = span[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return write_past_cache(path, [len(text).to_bytes(8, "little"), text, *pieces])
