"""Documents in one row without padding, on any device: what the engines that are faster than `plain` have in common."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from bakeoff.data.encoding import Encoded
from bakeoff.engine import layout
from bakeoff.engine.attention import Segments, documents, row_logits
from bakeoff.engine.batches import Batch, by_tokens, collate
from bakeoff.engine.decoding import decode
from bakeoff.engine.plain import Plain, castable, highest, unwritable
from bakeoff.engine.shared_prefix import sharing

REFILL = 4
"""A chunk holds so many times the rows that are decoded together: a row that ends makes room for the next document."""


class Packed(Plain):
    """It puts documents into one row where a test on the model allows it; else it does as `plain` does."""

    name = "packed"

    def packs(self, model: Any) -> bool:
        """Whether documents may stand in one row."""
        return self.where.packing and not layout.packed(model)

    @property
    def unfused(self) -> str:
        """Why layers stay transformers' own whatever the model is; empty where they need not."""
        if self.where.checkpoint_activations:
            return "machine.checkpoint_activations has transformers compute them again"
        return "" if self.where.fused else "engine.fused is off"

    def micro_batches(self, model: Any, examples: Sequence[Encoded], size: int) -> Iterator[list[Encoded]]:
        """See Engine: by `engine.micro_batch_tokens` where it is set and documents share a row."""
        if self.where.micro_batch_tokens and self.packs(model):
            return by_tokens(examples, self.row(model))
        return super().micro_batches(model, examples, size)

    def row(self, model: Any) -> int:
        """Tokens of a micro-batch."""
        return self.where.micro_batch_tokens

    def batches(self, model: Any, examples: Sequence[Encoded]) -> list[Batch]:
        """`examples` in one row where `model` may read them so, else as `plain` has them."""
        if self.packs(model):
            return [collate(examples, self.pad, self.where.device, packed=True)]
        return super().batches(model, examples)

    def read(self, model: Any, batch: Batch, keep: torch.Tensor) -> torch.Tensor:
        """kept x vocabulary, of documents in one row or padded."""
        if not batch.lengths:
            return super().read(model, batch, keep)
        share = sharing(model, self.where)
        return row_logits(model, batch.input_ids, batch.lengths, keep, self.segments(model), share)

    def segments(self, model: Any) -> Callable[[Sequence[int]], Segments]:
        """What keeps documents of given lengths apart in a row of `model`."""
        return documents(self.where)

    def chunk(self, model: Any, rows: int) -> int:
        """See Engine."""
        return rows * REFILL if self.packs(model) else rows

    def generate(
        self, model: Any, prompts: Sequence[Sequence[int]], limit: int, *, rows: int, ends: Collection[int],
        vocabulary: Collection[int],
    ) -> list[list[int]]:  # fmt: skip
        """See Engine."""
        if not self.packs(model):
            return super().generate(model, prompts, limit, rows=rows, ends=ends, vocabulary=vocabulary)
        return self.decode(model, prompts, limit, rows, ends, unwritable(model, vocabulary))

    def decode(
        self, model: Any, prompts: Sequence[Sequence[int]], limit: int, rows: int, ends: Collection[int],
        barred: torch.Tensor | None,
    ) -> list[list[int]]:  # fmt: skip
        """New tokens of each prompt, where documents may stand in one row; `barred` are no tokens."""
        return decode(model, prompts, limit, rows, ends, partial(highest, barred=barred), self.where)


@contextmanager
def in_precision(model: Any, precision: str) -> Iterator[None]:
    """Every weight in the run's precision, once, instead of a cast at each product; fp32 again afterwards."""
    lower = torch.bfloat16 if precision == "bf16" else torch.float32
    changed = {
        parameter: parameter.data
        for parameter in model.parameters()
        if parameter.dtype != lower and castable(parameter)
    }
    try:
        for parameter, value in changed.items():
            parameter.data = value.to(lower)
        yield
    finally:
        for parameter, value in changed.items():
            parameter.data = value
