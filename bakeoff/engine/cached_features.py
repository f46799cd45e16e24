"""A frozen trunk's output, computed once: where only the output head is trained, all below it never changes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bakeoff.core.disk_list import DiskList
from bakeoff.data.encoding import Encoded
from bakeoff.engine.linear import taken_apart


@dataclass(frozen=True)
class CachedFeatures(Encoded):
    """An example with the hidden states that its output head is given."""

    hidden: torch.Tensor = torch.empty(0)  # noqa: RUF009 (never changed)
    """label tokens x hidden size: what the output head is asked to turn into logits."""


def head_alone(model: Any) -> torch.nn.Module | None:
    """The output head where it is all that `model` trains and what it is given never changes; else None."""
    get = getattr(model, "get_output_embeddings", lambda: None)
    head: Any = get()
    found = taken_apart(head) if head is not None else None
    if found is None or found[1]:  # not a matrix alone: hooked, put in another's place, or something beside it
        return None
    below = [parameter for parameter in model.parameters() if not any(parameter is own for own in head.parameters())]
    embedding = model.get_input_embeddings().weight
    noisy = any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules())
    noisy = noisy or bool(getattr(getattr(model, "config", None), "attention_dropout", 0.0))
    if noisy or any(parameter.requires_grad for parameter in below) or head.weight is embedding:
        return None
    return head if head.weight.requires_grad else None


class Features(Sequence[CachedFeatures]):
    """Examples with their hidden states, computed once and then read from disk."""

    def __init__(
        self, examples: Sequence[Encoded], hidden: Callable[[list[Encoded]], Sequence[torch.Tensor]], size: int
    ) -> None:
        """`hidden` is the trunk's output, label tokens x hidden size, of each of at most `size` examples."""
        self.examples = examples
        # Neighbours by length: what is computed together hardly needs padding.
        indices = sorted(range(len(examples)), key=lambda index: len(examples[index].ids))
        self.shelf: DiskList[torch.Tensor] = DiskList()
        self.shelved = {index: number for number, index in enumerate(indices)}
        for start in range(0, len(indices), size):
            for states in hidden([examples[index] for index in indices[start : start + size]]):
                self.shelf.append(states.clone())

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        example = self.examples[index]
        found = self.shelf[self.shelved[index]]
        return CachedFeatures(example.ids, example.prompt, example.document_cut, example.summary_cut, found)
