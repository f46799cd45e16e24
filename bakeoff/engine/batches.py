"""Examples as the tensors of one forward pass: padded on the right, or in one row without padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bakeoff.data.encoding import Encoded


@dataclass(frozen=True)
class Batch:
    """Sequences of one forward pass, padded on the right."""

    input_ids: torch.Tensor
    """batch x length, int64."""
    predicts: torch.Tensor
    """batch x length, bool: True where the *next* token is labelled, so where logits are needed."""
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
        parts = [collate([example], pad, device) for example in examples]
        return Batch(
            input_ids=torch.cat([part.input_ids for part in parts], dim=1),
            predicts=torch.cat([part.predicts for part in parts], dim=1),
            labels=torch.cat([part.labels for part in parts]),
            lengths=tuple(len(example.ids) for example in examples),
        )
    length = max(len(example.ids) for example in examples)
    input_ids = torch.full((len(examples), length), pad, dtype=torch.long)
    predicts = torch.zeros((len(examples), length), dtype=torch.bool)
    for row, example in enumerate(examples):
        input_ids[row, : len(example.ids)] = torch.tensor(example.ids)
        predicts[row, example.prompt - 1 : len(example.ids) - 1] = True
    labels = torch.cat([torch.tensor(example.ids[example.prompt :]) for example in examples])
    return Batch(to_device(input_ids, device), to_device(predicts, device), to_device(labels, device))


def to_device(tensor: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """A tensor made on the CPU, on `device`; nobody waits for the transfer to a GPU."""
    pinned = str(device).startswith("cuda")
    return tensor.pin_memory().to(device, non_blocking=True) if pinned else tensor.to(device)
