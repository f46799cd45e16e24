"""What makes the library gguf and transformers' reader of it quick, in effect inside `parsed_once` alone."""

import functools
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

AT_ONCE = 2**17
"""Weights that are dequantised at a time."""


@contextmanager
def parsed_once() -> Iterator[None]:
    """Inside, gguf remembers its answers: transformers has a file parsed twice, and a table made for each tensor.

    A list is parsed at once, by a plain array: one number or text after another, from an array that is mapped to a
    file, takes twenty times as long. Weights are dequantised AT_ONCE at a time, not 16 rows. Both were most of a
    conversion's time.
    """
    import gguf
    from gguf import quants
    from transformers import modeling_gguf_pytorch_utils as reading

    with ThreadPoolExecutor(2) as beside:
        changes: list[tuple[Any, str, Any]] = [
            (gguf, "GGUFReader", functools.cache(reader())),
            (gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map)),
            (quants, "_apply_over_grouped_rows", functools.partial(over_rows, beside)),
            (reading, "_gguf_parse_value", value_of(reading._gguf_parse_value)),
        ]
        before = [getattr(module, name) for module, name, _ in changes]
        try:
            for module, name, new in changes:
                setattr(module, name, new)
            yield
        finally:
            for (module, name, _), old in zip(changes, before, strict=True):
                setattr(module, name, old)


def reader() -> type:
    """gguf's reader, with lists that are parsed at once."""
    import gguf
    import numpy

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
                order = "<" if self.endianess == gguf.GGUFEndian.LITTLE else ">"
                parts, end = texts(self.data.data, f"{order}Q", count, end)
            else:
                values = self._get(end, self.gguf_scalar_to_np[kinds(item)], count)
                parts, end = list(values.reshape(-1, 1)), end + values.nbytes
            return end - start, parts, list(range(count)), [kinds.ARRAY, *([kinds(item)] if count else [])]

    return Reader


def texts(data: memoryview, size_format: str, count: int, start: int) -> tuple[list[Any], int]:
    """`count` texts from `start` on, each behind its length, and where the last one ends."""
    parts: list[Any] = []
    for _ in range(count):
        [size] = struct.unpack_from(size_format, data, start)
        parts.append(bytes(data[start + 8 : start + 8 + size]))
        start += 8 + size
    return parts, start


def over_rows(beside: ThreadPoolExecutor, func: Any, arr: Any, otype: Any, oshape: tuple[int, ...]) -> Any:
    """What gguf's `_apply_over_grouped_rows` gives, by several threads, AT_ONCE weights at a time."""
    import numpy

    rows = arr.reshape(-1, arr.shape[-1])
    out = numpy.empty((len(rows), oshape[-1]), otype)
    step = max(1, AT_ONCE // oshape[-1])

    def some(start: int) -> None:
        out[start : start + step] = func(rows[start : start + step])

    list(beside.map(some, range(0, len(rows), step)))
    return out.reshape(oshape)


def value_of(plain: Callable[..., Any]) -> Callable[..., Any]:
    """transformers' reading of a value, which takes a text that is one already."""
    return lambda part, types: part.decode() if isinstance(part, bytes) else plain(part, types)
