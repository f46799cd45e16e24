"""Examples as the tensors of one forward pass: padded on the right, or in one row without padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from bakeoff.data.encoding import Encoded


@dataclass(frozen=True)
class Batch:
    """Sequences of one forward pass, padded on the right."""

    input_ids: torch.Tensor
    """batch x length, int64."""
    predicts: torch.Tensor
    """batch x length, bool: True where the *next* token is labelled, so where logits are needed.

    On the CPU if the sequences stand in one row: a GPU is then told places, and nobody waits to count them there."""
    labels: torch.Tensor
    """The labelled tokens in row-major order, one for each True of `predicts`."""
    lengths: tuple[int, ...] = ()
    """Of the sequences where they stand one after another in one row without padding; empty where each has its row."""


def collate(
    examples: Sequence[Encoded], pad: int, device: str | torch.device = "cpu", *, packed: bool = False
) -> Batch:
    """One Batch of `examples`. Positions past a sequence's end hold `pad` and are labelled nowhere.

    `packed` puts all of them into one row, and no padding anywhere.
    """
    if packed:
        parts = [collate([example], pad) for example in examples]
        return Batch(
            input_ids=to_device(torch.cat([part.input_ids for part in parts], dim=1), device),
            predicts=torch.cat([part.predicts for part in parts], dim=1),
            labels=to_device(torch.cat([part.labels for part in parts]), device),
            lengths=tuple(len(example.ids) for example in examples),
        )
    length = max(len(example.ids) for example in examples)
    input_ids = torch.full((len(examples), length), pad, dtype=torch.long)
    predicts = torch.zeros((len(examples), length), dtype=torch.bool)
    for row, example in enumerate(examples):
        input_ids[row, : len(example.ids)] = torch.tensor(example.ids)
        predicts[row, example.prompt - 1 : len(example.ids) - 1] = True
    labels = torch.tensor([label for example in examples for label in example.ids[example.prompt :]], dtype=torch.long)
    return Batch(to_device(input_ids, device), to_device(predicts, device), to_device(labels, device))


def to_device(tensor: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """A tensor on `device`; nobody waits for the transfer of one that was made on the CPU to a GPU."""
    pinned = str(device).startswith("cuda") and tensor.device.type == "cpu"
    return tensor.pin_memory().to(device, non_blocking=True) if pinned else tensor.to(device)


def by_size(examples: Sequence[Encoded], size: int) -> Iterator[list[Encoded]]:
    """The sequences of one effective batch by length, `size` at a time: almost no padding, the same gradient."""
    by_length = sorted(examples, key=lambda example: len(example.ids))
    for start in range(0, len(by_length), size):
        yield by_length[start : start + size]


def by_tokens(examples: Sequence[Encoded], tokens: int) -> Iterator[list[Encoded]]:
    """The sequences of one effective batch by length, at most `tokens` tokens at a time, or one that is longer."""
    some: list[Encoded] = []
    room = tokens
    for example in sorted(examples, key=lambda example: len(example.ids)):
        if some and len(example.ids) > room:
            yield some
            some, room = [], tokens
        some.append(example)
        room -= len(example.ids)
    if some:
        yield some
