"""A GGUF file as the folder that `save_pretrained` would leave: converted once, checked ever after."""

import functools
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bakeoff.core.errors import UsageError, first_line
from bakeoff.core.files import checksum
from bakeoff.methods.parameters import shapes_of
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


def convert(gguf: Path, folder: Path) -> None:
    """Writes a GGUF file's dequantised fp32 weights, configuration and tokenizer as `folder`, whole or not at all."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_gguf(gguf)
    try:
        place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        with parsed_once():
            tokenizer = AutoTokenizer.from_pretrained(**place)
            model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    except Exception as error:  # a foreign file: the reader raises whatever its bytes lead it to
        raise UsageError(
            f"--model {gguf}: not a GGUF file that transformers reads ({type(error).__name__}: {first_line(error)}); "
            "copy or download it again"
        ) from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
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
    except OSError:
        if not (folder / CHECKSUMS).is_file():  # else another process was faster
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def parsed_once() -> Iterator[None]:
    """Inside, gguf remembers its answers: transformers has a file parsed twice, and a table made for each tensor.

    A list is parsed at once, by a plain array: one number or text after another, from an array that is mapped to a
    file, takes twenty times as long. Weights are dequantised 2^17 at a time, not 16 rows. Both were most of a
    conversion's time.
    """
    import gguf
    import numpy
    from gguf import quants
    from transformers import modeling_gguf_pytorch_utils as reading

    kinds = gguf.GGUFValueType

    class Reader(gguf.GGUFReader):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value.view(numpy.ndarray) if name == "data" else value)

        def _get_field_parts(self, start: int, kind: int) -> tuple[int, list[Any], list[int], list[Any]]:
            item = self._get(start, numpy.uint32)[0] if kind == kinds.ARRAY else None
            if item != kinds.STRING and item not in self.gguf_scalar_to_np:
                return super()._get_field_parts(start, kind)
            count, end = int(self._get(start + 4, numpy.uint64)[0]), start + 12
            if item == kinds.STRING:
                order, data, parts = "<" if self.endianess == gguf.GGUFEndian.LITTLE else ">", self.data.data, []
                for _ in range(count):
                    [size] = struct.unpack_from(f"{order}Q", data, end)
                    parts.append(bytes(data[end + 8 : end + 8 + size]))
                    end += 8 + size
            else:
                values = self._get(end, self.gguf_scalar_to_np[kinds(item)], count)
                parts, end = list(values.reshape(-1, 1)), end + values.nbytes
            return end - start, parts, list(range(count)), [kinds.ARRAY, *([kinds(item)] if count else [])]

    def over_rows(func: Any, arr: Any, otype: Any, oshape: tuple[int, ...]) -> Any:
        rows = arr.reshape(-1, arr.shape[-1])
        out = numpy.empty((len(rows), oshape[-1]), otype)
        step = max(1, 2**17 // oshape[-1])

        def some(start: int) -> None:
            out[start : start + step] = func(rows[start : start + step])

        list(beside.map(some, range(0, len(rows), step)))
        return out.reshape(oshape)

    def value_of(part: Any, types: list[int], plain: Any = reading._gguf_parse_value) -> Any:
        return part.decode() if isinstance(part, bytes) else plain(part, types)

    changes: list[tuple[Any, str, Any]] = [
        (gguf, "GGUFReader", functools.cache(Reader)),
        (gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map)),
        (quants, "_apply_over_grouped_rows", over_rows),
        (reading, "_gguf_parse_value", value_of),
    ]
    before = [getattr(module, name) for module, name, _ in changes]
    try:
        for module, name, new in changes:
            setattr(module, name, new)
        with ThreadPoolExecutor(2) as beside:
            yield
    finally:
        for (module, name, _), old in zip(changes, before, strict=True):
            setattr(module, name, old)
