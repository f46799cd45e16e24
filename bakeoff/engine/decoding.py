"""Greedy decoding of prompts that are read in one row, with keys and values kept in place."""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from bakeoff.config.schema import Computation
from bakeoff.engine.attention import forward, row_logits
from bakeoff.engine.cache import Cache, Prefill, Step
from bakeoff.engine.shared_prefix import sharing
from bakeoff.engine.virtual import virtual_tokens

PREFILL = 2048
"""Tokens of prompts that are read at once, if there is more than one prompt: what is larger is no faster."""

TOGETHER = 4
"""Prompts wait until this part of the rows is free, a fourth: some are read together in little more time than one."""

Pick = Callable[[torch.Tensor], list[int]]
"""Chooses a token for each row of logits."""


def decode(
    model: Any, prompts: Sequence[Sequence[int]], limit: int, rows: int, ends: Collection[int], pick: Pick,
    where: Computation,
) -> list[list[int]]:  # fmt: skip
    """New tokens of each prompt, at most `limit`, the end token included; `rows` prompts are decoded at a time.

    Prompts are read without padding, keys and values are kept in place, and rows that end make room for the next
    prompts; meanwhile, and when none is waiting, the last row moves into the place of one that ended.
    """
    batch = Decoding(model, prompts, limit, rows, ends, where)
    while batch.waiting or batch.active:
        fresh = batch.admitted()
        chosen = fresh or list(batch.active)
        for prompt, token in zip(chosen, pick(batch.read(fresh) if fresh else batch.step()), strict=True):
            batch.written[prompt].append(token)
        batch.retire()
    return batch.written


class Decoding:
    """Prompts that are waiting, being written, and done, and the rows of the cache that they have."""

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], limit: int, rows: int, ends: Collection[int],
        where: Computation,
    ) -> None:  # fmt: skip
        self.model, self.prompts, self.limit, self.ends, self.where = model, prompts, limit, ends, where
        self.virtual = virtual_tokens(model)
        self.inner = model.base_model if self.virtual else model
        self.cache = Cache(min(rows, len(prompts)), max(map(len, prompts)) + self.virtual + limit)
        self.written: list[list[int]] = [[] for _ in prompts]
        """New tokens by prompt."""
        self.waiting = deque(range(len(prompts)))
        self.active: list[int] = []
        """The prompt of each row of the cache that is in use."""
        self.filling = False
        """Whether prompts are being read until no row is free: they may be too long to be read at once."""

    def admitted(self) -> list[int]:
        """Prompts that are read now, as many as rows are free and PREFILL allows; none while few rows are free."""
        free = min(self.cache.rows - len(self.active), len(self.waiting))
        enough = min(len(self.waiting), self.cache.rows // TOGETHER)
        self.filling = free > 0 and (self.filling or free >= enough)
        fresh: list[int] = []
        while self.filling and len(fresh) < free:
            if fresh and sum(len(self.prompts[prompt]) for prompt in (*fresh, self.waiting[0])) > PREFILL:
                break
            fresh.append(self.waiting.popleft())
        return fresh

    def read(self, fresh: Sequence[int]) -> torch.Tensor:
        """Logits of the first new token of each of these prompts, which get the next rows of the cache."""
        rows = range(len(self.active), len(self.active) + len(fresh))
        self.active += fresh
        return prefill(self.model, [self.prompts[prompt] for prompt in fresh], self.cache, list(rows), self.where)

    def step(self) -> torch.Tensor:
        """Logits of the next token of each active prompt."""
        lengths = [self.length(prompt) - 1 for prompt in self.active]
        device = self.where.device
        last = torch.tensor([[self.written[prompt][-1] for prompt in self.active]], device=device)
        positions = torch.tensor([lengths], device=device)
        return forward(self.inner, Step(self.cache, lengths, device), lengths, 0, positions, input_ids=last)

    def length(self, prompt: int) -> int:
        """Tokens of a prompt with its virtual and its new ones."""
        return len(self.prompts[prompt]) + self.virtual + len(self.written[prompt])

    def retire(self) -> None:
        """Frees the rows of prompts that are done; the last row moves into the place of one that ended."""
        for row in reversed(range(len(self.active))):
            new = self.written[self.active[row]]
            if new[-1] in self.ends or len(new) >= self.limit:
                mover = self.active.pop()
                if row < len(self.active):
                    self.active[row] = mover
                    self.cache.move(len(self.active), row, self.length(mover))


def prefill(
    model: Any, prompts: Sequence[Sequence[int]], cache: Cache, rows: Sequence[int], where: Computation
) -> torch.Tensor:
    """Logits of each prompt's first new token; its keys and values are in the cache's `rows` afterwards."""
    device, flash = where.device, where.attention == "sdpa"
    ids = torch.tensor([[token for prompt in prompts for token in prompt]], device=device)
    lengths = [len(prompt) for prompt in prompts]
    keep = last_tokens(lengths)
    share = sharing(model, where)
    return row_logits(model, ids, lengths, keep, lambda longer: Prefill(longer, cache, rows, flash), share)


def last_tokens(lengths: Sequence[int]) -> torch.Tensor:
    """1 x tokens, on the CPU: True at the last token of each document of a row."""
    keep = torch.zeros(1, sum(lengths), dtype=torch.bool)
    keep[0, torch.tensor(lengths).cumsum(0) - 1] = True
    return keep
