"""The plain engine with frozen weights divided among a run's ranks: for a base model that doesn't fit one card.

FSDP2 (Zhao et al. 2023, arXiv:2304.11277; torch's `fully_shard`) gathers a decoder layer while it computes. Every rank
calls the model as often as every other one, or all would wait for it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from bakeoff.core.errors import UsageError
from bakeoff.data.encoding import Encoded
from bakeoff.engine import layout
from bakeoff.engine.attention import compute_again
from bakeoff.engine.decoder_layers import layers_of
from bakeoff.engine.plain import Plain, cast


class Sharded(Plain):
    """Transformers' own forward, one document at a time, on layers of which each rank holds a share."""

    def prepare(
        self, model: Any, added: Iterable[torch.nn.Parameter], known: Mapping[str, str] | None = None, steps: int = 0
    ) -> Any:
        """See Plain. What a method trains, embeddings, norms and head stand whole on every rank."""
        cast(model, self.where.precision)
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        layers = divided(inner)
        shared = {id(parameter) for layer in layers for parameter in layer.parameters() if not parameter.requires_grad}
        whole = {parameter for parameter in model.parameters() if id(parameter) not in shared}
        for tensor in (*whole, *model.buffers()):
            tensor.data = tensor.data.to(self.where.device)
        if self.where.checkpoint_activations:
            compute_again(model)
        mesh = init_device_mesh(self.where.device, (self.where.ranks,))
        for module in (*layers, inner):
            fully_shard(module, mesh=mesh, ignored_params=whole)
        with self.products():
            layout.settle(model, added, False, known)
        return model

    def micro_batches(self, model: Any, examples: Sequence[Encoded], size: int) -> Iterator[list[Encoded]]:
        """See Engine: one document at a time, whose number is every rank's."""
        return ([example] for example in examples)

    def cached(self, model: Any, examples: Sequence[Encoded], size: int) -> Sequence[Encoded]:
        """See Engine."""
        return examples

    @contextmanager
    def writing(self, model: Any) -> Iterator[None]:
        """See Engine. FSDP2 has no weights to gather in torch's inference mode, which keeps no versions of them."""
        model.eval()
        with self.products(), torch.no_grad():
            yield


def divided(model: Any) -> list[torch.nn.Module]:
    """The decoder layers of a transformers model, of which each rank holds a share. Raises UsageError without any."""
    found = layers_of(model)
    if not found:
        raise UsageError(
            f"machine.sharded: {type(model).__name__} names no decoder layers (_no_split_modules); "
            "type --set machine.sharded=false"
        )
    return found
