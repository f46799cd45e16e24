"""The cpu engine: documents in one row, and layers of Llama's kind by compiled kernels, as far as a model allows."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from bakeoff.data.encoding import Encoded
from bakeoff.engine import layout
from bakeoff.engine.attention import documents, row_logits, unlike_llama
from bakeoff.engine.batches import Batch, collate
from bakeoff.engine.cpu import layers
from bakeoff.engine.cpu.decoder import forget
from bakeoff.engine.cpu.head import CrossEntropy
from bakeoff.engine.cpu.packed_weights import packed_weights
from bakeoff.engine.decoding import decode
from bakeoff.engine.linear import passed_by, plain_head
from bakeoff.engine.plain import Plain, highest, unwritable
from bakeoff.engine.shared_prefix import sharing

REFILL = 4
"""A chunk holds so many times the rows that are decoded together: a row that ends makes room for the next document."""


class Cpu(Plain):
    """What it can't do faster for a model, it does as `plain` does."""

    name = "cpu"

    @contextmanager
    def prepared(
        self, model: Any, added: Iterable[torch.nn.Parameter], known: Mapping[str, str] | None = None
    ) -> Iterator[Any]:
        """See Engine."""
        model = self.prepare(model, added, known)
        with layers.installed(model) if self.where.fused and not self.unlike(model) else nullcontext():
            yield model

    def reason(self, model: Any) -> str:
        """See Engine."""
        if not self.where.packing:
            return "engine.packing is off"
        if why := layout.packed(model) or unlike_llama(model):
            return why
        if not self.where.fused:
            return "engine.fused is off"
        if not self.where.compiled:
            return "the kernels are not compiled"
        return layers.slow_layers(model)

    def packs(self, model: Any) -> bool:
        """Whether documents may stand in one row."""
        return self.where.packing and not layout.packed(model)

    def unlike(self, model: Any) -> bool:
        """Whether the layers of `model` are transformers' own business."""
        return not self.packs(model) or bool(unlike_llama(model))

    def batches(self, model: Any, examples: Sequence[Encoded]) -> list[Batch]:
        """`examples` in one row where `model` may read them so, else as `plain` has them."""
        if self.packs(model):
            return [collate(examples, self.pad, self.where.device, packed=True)]
        return super().batches(model, examples)

    def batch_loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """Cross-entropy in nats, summed over the batch's label tokens."""
        fused = self.where.fused and self.where.labels_only and batch.lengths and not layout.head_last(model)
        head = plain_head(model) if fused else None
        if head is None:
            return super().batch_loss(model, batch)
        return self.head_loss(model, self.label_logits(model, batch, passed_by(head)), batch.labels)

    def head_loss(self, model: Any, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The same without all logits in memory, where the head is a matrix alone."""
        head = plain_head(model) if self.where.fused else None
        if head is None:
            return super().head_loss(model, hidden, labels)
        with self.products():
            if self.where.precision == "bf16":
                hidden = hidden.bfloat16()
            needed = torch.is_grad_enabled() and (hidden.requires_grad or head.weight.requires_grad)
            loss: torch.Tensor = CrossEntropy.apply(hidden, head.weight, labels, needed)
            return loss

    def read(self, model: Any, batch: Batch, keep: torch.Tensor) -> torch.Tensor:
        """kept x vocabulary, of documents in one row or padded."""
        if not batch.lengths:
            return super().read(model, batch, keep)
        share = sharing(model, self.where)
        return row_logits(model, batch.input_ids, batch.lengths, keep, documents(self.where), share)

    def decoding_weights(self, model: Any) -> AbstractContextManager[Any]:
        """Inside, the weights are in the run's precision and in an order that suits a few rows."""
        return super().decoding_weights(model) if self.unlike(model) else self.weights_for_few_rows(model)

    @contextmanager
    def weights_for_few_rows(self, model: Any) -> Iterator[None]:
        """See `decoding_weights`."""
        with in_precision(model, self.where.precision), packed_weights(model, self.where):
            yield

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
        pick = partial(highest, barred=unwritable(model, vocabulary))
        return decode(model, prompts, limit, rows, ends, pick, self.where)

    def release(self, model: Any) -> None:
        """Drops weights in panels: what changes weights behind autograd's back is not seen by them."""
        forget(model)


@contextmanager
def in_precision(model: Any, precision: str) -> Iterator[None]:
    """Every weight in the run's precision, once, instead of a cast at each product; fp32 again afterwards."""
    lower = torch.bfloat16 if precision == "bf16" else torch.float32
    changed = {parameter: parameter.data for parameter in model.parameters() if parameter.dtype != lower}
    try:
        for parameter, value in changed.items():
            parameter.data = value.to(lower)
        yield
    finally:
        for parameter, value in changed.items():
            parameter.data = value
