"""The cpu engine: documents in one row, and layers of Llama's kind by compiled kernels, as far as a model allows."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from bakeoff.engine import layout
from bakeoff.engine.attention import unlike_llama
from bakeoff.engine.batches import Batch
from bakeoff.engine.cpu import layers
from bakeoff.engine.cpu.decoder import forget
from bakeoff.engine.cpu.head import CrossEntropy
from bakeoff.engine.cpu.packed_weights import packed_weights
from bakeoff.engine.linear import passed_by, plain_head
from bakeoff.engine.packed import Packed, in_precision


class Cpu(Packed):
    """What it can't do faster for a model, it does as `plain` does."""

    name = "cpu"

    @contextmanager
    def prepared(
        self, model: Any, added: Iterable[torch.nn.Parameter], known: Mapping[str, str] | None = None, steps: int = 0
    ) -> Iterator[Any]:
        """See Engine."""
        model = self.prepare(model, added, known, steps)
        with layers.installed(model) if self.where.fused and not self.unlike(model) else nullcontext():
            yield model

    def reason(self, model: Any) -> str:
        """See Engine."""
        if not self.where.packing:
            return "engine.packing is off"
        if why := layout.packed(model) or unlike_llama(model):
            return why
        if self.unfused:
            return self.unfused
        if not self.where.compiled:
            return "the kernels are not compiled"
        return layers.slow_layers(model)

    def unlike(self, model: Any) -> bool:
        """Whether the layers of `model` are transformers' own business."""
        return not self.packs(model) or bool(unlike_llama(model))

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

    def decoding_weights(self, model: Any) -> AbstractContextManager[Any]:
        """Inside, the weights are in the run's precision and in an order that suits a few rows."""
        return super().decoding_weights(model) if self.unlike(model) else self.weights_for_few_rows(model)

    @contextmanager
    def weights_for_few_rows(self, model: Any) -> Iterator[None]:
        """See `decoding_weights`."""
        kinds = self.products() if layers.foreign(model) else nullcontext()
        with in_precision(model, self.where.precision), packed_weights(model, self.where), kinds:
            yield

    def release(self, model: Any) -> None:
        """Drops weights in panels: what changes weights behind autograd's back is not seen by them."""
        forget(model)
