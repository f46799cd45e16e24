"""Text to token ids with labels, and token ids to batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bakeoff.settings import TaskSettings
from bakeoff.tasks import Example, Task


@dataclass(frozen=True)
class Encoded:
    """Prompt and summary as one sequence: ids[:prompt] is the prompt, ids[prompt:] is labelled."""

    ids: list[int]
    prompt: int
    """Tokens of the prompt, separator included."""
    document_cut: bool = False
    """Whether the document was truncated."""
    summary_cut: bool = False
    """Whether the summary was truncated."""


class Encoder:
    """Encodes the examples of one task for one tokenizer.

    Text from a document or a summary never becomes a special token; text from the prompt template may.
    """

    def __init__(self, tokenizer: Any, task: Task, settings: TaskSettings) -> None:
        self.tokenizer = tokenizer
        self.task = task
        self.max_input = settings.max_input_tokens
        self.max_target = settings.max_target_tokens
        first = tokenizer("").input_ids[:1]
        self.start = first if first and first[0] == tokenizer.bos_token_id else []

    def example(self, example: Example) -> Encoded:
        """Prompt, separator, summary and end token, for training."""
        prompt, document_cut = self.prompt(example)
        summary = self._foreign(" " + example.summary)
        room = self.max_target - 1
        ids = [*prompt, *summary[:room], self.tokenizer.eos_token_id]
        return Encoded(ids, len(prompt), document_cut, len(summary) > room)

    def prompt(self, example: Example) -> tuple[list[int], bool]:
        """Token ids of the plain prompt, and whether the document was truncated to fit."""
        head, tail = self._around(self.task.prompt, example)
        return self._fit([*self.start, *self._own(head)], example.document, self._own(tail))

    def chat(self, example: Example) -> tuple[list[int], bool]:
        """The instruction as the user's turn of the model's chat template; the plain prompt where there is none."""
        if not self.tokenizer.chat_template:
            return self.prompt(example)
        mark = "\x00document\x00"
        head, tail = self._around(self.task.instruction, example)
        turns = [{"role": "user", "content": f"{head}{mark}{tail}"}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        before, _, after = text.partition(mark)
        # The template's own words don't count against the document's place: both prompts show the model as much of it.
        length = len(self.prompt(example)[0])
        wrapped = self._own(before), self._own(after)
        limit = max(self.max_input, length + len(wrapped[0]) + len(wrapped[1]))
        return self._fit(wrapped[0], example.document, wrapped[1], limit)

    def _around(self, template: str, example: Example) -> tuple[str, str]:
        head, _, tail = template.partition("{document}")
        return head.replace("{aspect}", example.aspect), tail.replace("{aspect}", example.aspect)

    def _fit(self, head: list[int], document: str, tail: list[int], limit: int = 0) -> tuple[list[int], bool]:
        room = max(1, (limit or self.max_input) - len(head) - len(tail))
        ids = self._foreign(document)
        # A document may leave no token; something must stand before the first word of the summary.
        return [*head, *ids[:room], *tail] or [self.tokenizer.eos_token_id], len(ids) > room

    def _own(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids) if text else []

    def _foreign(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)


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


def windows(count: int, size: int, order: torch.Generator | None = None) -> Iterator[list[int]]:
    """Places 0..count-1, shuffled by `order`, in groups of `size`: the effective batches of an epoch."""
    places = torch.randperm(count, generator=order).tolist() if order is not None else list(range(count))
    for start in range(0, count, size):
        yield places[start : start + size]


def micro_batches(window: Sequence[Encoded], size: int) -> Iterator[list[Encoded]]:
    """The sequences of one effective batch by length, `size` at a time: almost no padding, the same gradient."""
    by_length = sorted(window, key=lambda example: len(example.ids))
    for start in range(0, len(by_length), size):
        yield by_length[start : start + size]
