"""The plain engine: transformers' own forward for every model, readable, the reference of every other engine."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from bakeoff.config.schema import Computation
from bakeoff.core.packed import packed
from bakeoff.data.encoding import Encoded
from bakeoff.engine import layout
from bakeoff.engine.attention import compute_again
from bakeoff.engine.batches import Batch, by_size, collate, to_device
from bakeoff.engine.cached_features import CachedFeatures, Features, head_alone
from bakeoff.engine.linear import passed_by
from bakeoff.engine.padded import label_logits, write

READY = "_bakeoff_decoding"
"""The attribute of a model whose weights are as decoding wants them."""


class Plain:
    """Transformers' own forward: the reference that every other engine is held against, usable for every model."""

    name = "plain"

    def __init__(self, where: Computation, pad: int) -> None:
        """`pad` is the id that stands in padded places, whatever it means: what is padding is told by length."""
        self.where, self.pad = where, pad

    @contextmanager
    def prepared(
        self, model: Any, added: Iterable[torch.nn.Parameter], known: Mapping[str, str] | None = None, steps: int = 0
    ) -> Iterator[Any]:
        """See Engine."""
        yield self.prepare(model, added, known, steps)

    def prepare(
        self, model: Any, added: Iterable[torch.nn.Parameter], known: Mapping[str, str] | None = None, steps: int = 0
    ) -> Any:
        """`model` as `prepared` gives it, with nothing patched."""
        move(model, self.where.device)
        # A model that was read in two bytes with fp32 beside it computes as it will while it is trained.
        mixed = any(parameter.dtype != torch.float32 for parameter in model.parameters())
        if mixed:
            cast(model, self.where.precision)
        with self.products() if mixed else nullcontext():
            layout.settle(model, added, self.where.packing, known)
        cast(model, self.where.precision)
        if self.where.checkpoint_activations:
            compute_again(model)
        return model

    def answers(self, model: Any) -> dict[str, str]:
        """See Engine."""
        return layout.answers(model)

    def reason(self, model: Any) -> str:
        """See Engine."""
        return "" if self.where.engine == "plain" else "there is no faster way on this device"

    def documents(self, model: Any) -> str:
        """See Engine."""
        return layout.summary(layout.answers(model), self.where.packing)

    def micro_batches(self, model: Any, examples: Sequence[Encoded], size: int) -> Iterator[list[Encoded]]:
        """See Engine: `size` documents at a time."""
        return by_size(examples, size)

    def loss(self, model: Any, examples: Sequence[Encoded]) -> torch.Tensor:
        """See Engine."""
        if isinstance(examples[0], CachedFeatures):
            hidden = torch.cat([example.hidden for example in examples if isinstance(example, CachedFeatures)])
            labels = [label for example in examples for label in example.ids[example.prompt :]]
            return self.head_loss(model, hidden, to_device(torch.tensor(labels), hidden.device))
        first, *others = self.batches(model, examples)
        return sum((self.batch_loss(model, batch) for batch in others), self.batch_loss(model, first))

    def logits(self, model: Any, example: Encoded) -> torch.Tensor:
        """See Engine."""
        [batch] = self.batches(model, [example])
        return self.label_logits(model, batch)

    def cached(self, model: Any, examples: Sequence[Encoded], size: int) -> Sequence[Encoded]:
        """See Engine."""
        head = head_alone(model) if self.where.cached_features else None
        if head is None or layout.head_last(model) or layout.steady(model):
            return examples

        @torch.no_grad()
        def hidden(some: Sequence[Encoded]) -> Sequence[torch.Tensor]:
            parts = self.batches(model, some)
            rows = torch.cat([self.label_logits(model, batch, passed_by(head)) for batch in parts])
            return rows.split([len(example.ids) - example.prompt for example in some])

        found = Features(examples, hidden, size)
        self.release(model)
        return found

    def batches(self, model: Any, examples: Sequence[Encoded]) -> list[Batch]:
        """`examples` padded where `model` may read them so, else each by itself."""
        if len({len(example.ids) for example in examples}) == 1 or not layout.padded(model):
            return [collate(examples, self.pad, self.where.device)]
        return [collate([example], self.pad, self.where.device) for example in examples]

    def batch_loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """Cross-entropy in nats, summed over the batch's label tokens."""
        return functional.cross_entropy(self.label_logits(model, batch).float(), batch.labels, reduction="sum")

    def head_loss(self, model: Any, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy in nats, summed, of the output head's logits for `hidden` (label tokens x hidden size)."""
        with self.products():
            logits = model.get_output_embeddings()(hidden)
            return functional.cross_entropy(logits.float(), labels, reduction="sum")

    def label_logits(self, model: Any, batch: Batch, head: AbstractContextManager[Any] | None = None) -> torch.Tensor:
        """label tokens x vocabulary; inside `passed_by(head)` x hidden size."""
        keep = batch.predicts if self.where.labels_only else torch.ones_like(batch.predicts)
        with self.products(), head or nullcontext():
            logits = self.read(model, batch, keep)
        if self.where.labels_only:
            return logits
        return logits[to_device(batch.predicts.flatten().nonzero().flatten(), logits.device)]

    def read(self, model: Any, batch: Batch, keep: torch.Tensor) -> torch.Tensor:
        """kept x vocabulary: logits where `keep` (batch x length, bool) is True."""
        return label_logits(model, batch.input_ids, keep)

    def products(self) -> AbstractContextManager[Any]:
        """Matrix products in bf16 where the run's precision says so; trained parameters stay fp32."""
        return torch.autocast(self.where.device, dtype=torch.bfloat16, enabled=self.where.precision == "bf16")

    @contextmanager
    def writing(self, model: Any) -> Iterator[None]:
        """See Engine."""
        model.eval()  # first: beside dropout a LoRA is no product of weights
        if READY in vars(model):
            yield
            return
        vars(model)[READY] = True
        try:
            with self.decoding_weights(model), torch.inference_mode():
                yield
        finally:
            del vars(model)[READY]

    def decoding_weights(self, model: Any) -> AbstractContextManager[Any]:
        """Inside, the weights are as decoding wants them."""
        return self.products()

    def chunk(self, model: Any, rows: int) -> int:
        """See Engine."""
        return rows

    def generate(
        self, model: Any, prompts: Sequence[Sequence[int]], limit: int, *, rows: int, ends: Collection[int],
        vocabulary: Collection[int],
    ) -> list[list[int]]:  # fmt: skip
        """See Engine. `rows` is not asked: the prompts of a chunk are read together.

        They are padded on the left where the model takes no notice of it, else those of one length are read together,
        else each is read by itself.
        """
        pick = partial(highest, barred=unwritable(model, vocabulary))

        def together(index: int) -> int:
            if not layout.written(model):
                return 0
            return index if layout.alike(model) else len(prompts[index])

        cached = not layout.cached(model)
        return write(
            model, prompts, limit, ends, pick, self.where.device, pad=self.pad, together=together, cached=cached
        )

    def release(self, model: Any) -> None:
        """Nothing is derived from weights."""


def cast(model: Any, precision: str) -> None:
    """Puts frozen weights into the run's precision, trained ones into fp32."""
    frozen = torch.bfloat16 if precision == "bf16" else torch.float32
    for parameter in model.parameters():
        if castable(parameter):
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else frozen)


def castable(parameter: torch.Tensor) -> bool:
    """Whether a parameter means the same in another floating type: not if it is quantised."""
    return parameter.is_floating_point() and parameter.itemsize > 1 and not packed(parameter)


def move(model: Any, device: str) -> None:
    """Puts on `device` what is not there; quantised weights are, and bitsandbytes would pack others again."""
    for name, ids in getattr(model, "prompt_tokens", {}).items():  # PEFT's, which it would copy for each micro-batch
        model.prompt_tokens[name] = ids.to(device)
    if all(castable(parameter) for parameter in model.parameters()):
        model.to(device)
        return
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type != torch.device(device).type:
            tensor.data = tensor.data.to(device)


def highest(logits: torch.Tensor, barred: torch.Tensor | None = None) -> list[int]:
    """The first token with the highest logit of each row that is not `barred`.

    argmax finds the same in bf16, five times slower.
    """
    if barred is not None:
        logits = logits.index_fill(-1, barred, -torch.inf)
    found: list[int] = logits.max(dim=-1).indices.tolist()
    return found


def unwritable(model: Any, vocabulary: Collection[int]) -> torch.Tensor | None:
    """Rows of the output head that are no token: a vocabulary is often padded to a round number. None without any."""
    head = model.get_output_embeddings()
    known = set(vocabulary)
    barred = [] if head is None else [row for row in range(head.weight.shape[0]) if row not in known]
    return torch.tensor(barred, device=head.weight.device) if barred else None
