"""Greedy decoding in rows that stay where they are: a step is one graph, and the host reads tokens now and then."""

from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

import torch

from bakeoff.engine.attention import forward, row_logits
from bakeoff.engine.batches import to_device
from bakeoff.engine.cuda import graph
from bakeoff.engine.cuda.varlen import FixedCache, FixedPrefill, FixedStep
from bakeoff.engine.decoding import TOGETHER, last_tokens
from bakeoff.engine.virtual import virtual_tokens

PREFILL = 8192
"""Tokens of prompts that are read at once, if there is more than one prompt."""
READ = 8
"""Steps between two looks at the tokens: a look waits for the GPU, and a row that has ended idles until then."""
ROUND = 256
"""The cache's capacity is a multiple of it, so that chunks of similar prompts share a graph."""


class Rows:
    """The rows that a model writes in: their cache, and the tensors that a step reads and changes in place."""

    def __init__(
        self, model: Any, rows: int, capacity: int, barred: torch.Tensor | None, device: str, by_flash: bool = True
    ) -> None:  # fmt: skip
        """`barred` are rows of the output head that are no tokens; `by_flash` as for FixedStep."""
        self.model, self.device, self.rows, self.by_flash = model, device, rows, by_flash
        self.barred: torch.Tensor | None = None
        if barred is not None:
            self.barred = torch.zeros(len(model.get_output_embeddings().weight), dtype=torch.bool, device=device)
            self.barred[barred] = True
        self.virtual = virtual_tokens(model)
        self.inner = model.base_model if self.virtual else model
        self.cache = FixedCache(rows, capacity)
        self.ids, self.at, self.last = (torch.zeros(1, rows, dtype=torch.long, device=device) for _ in range(3))
        """1 x rows: the newest token of each row, its place in the row, and the last place that the row may use."""
        self.news = torch.zeros(READ + 1, rows, dtype=torch.long, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        """A captured step. It must not hold these rows: what holds itself lives on beside the rows that follow."""

    @torch.no_grad()
    def compute(self) -> None:
        """Reads the newest token of every row and puts the one that follows in its place."""
        logits = forward(self.inner, FixedStep(self.cache, self.at, self.by_flash), (), 0, self.at, input_ids=self.ids)
        self.ids.copy_(self.highest(logits)[None])
        # An ended row writes over its last place again and again: positions beyond it may not exist.
        self.at.copy_(torch.minimum(self.at + 1, self.last))

    def highest(self, logits: torch.Tensor) -> torch.Tensor:
        """The first token with the highest logit of each row."""
        if self.barred is not None:
            logits = logits.masked_fill(self.barred, -torch.inf)
        return logits.argmax(dim=-1)

    def read(self, prompts: Sequence[Sequence[int]], rows: Sequence[int], limit: int, kind: torch.dtype) -> None:
        """Reads prompts into `rows`, which hold the first new token of each afterwards."""
        lengths = [len(prompt) for prompt in prompts]
        ids = to_device(torch.tensor([[token for prompt in prompts for token in prompt]]), self.device)
        logits = row_logits(
            self.model, ids, lengths, last_tokens(lengths),
            lambda longer: FixedPrefill(longer, self.device, kind, self.cache, rows),
        )  # fmt: skip
        where = to_device(torch.tensor(rows), self.device)
        at = torch.tensor(lengths) + self.virtual
        self.ids[0].index_copy_(0, where, self.highest(logits))
        self.at[0].index_copy_(0, where, to_device(at, self.device))
        self.last[0].index_copy_(0, where, to_device(at + max(limit - 2, 0), self.device))

    def write(self, steps: int, captured: bool) -> list[list[int]]:
        """(steps + 1) x rows: the newest tokens, and those of so many more steps, `captured` on a GPU."""
        if captured and self.graph is None and self.device == "cuda":
            before = [tensor.clone() for tensor in (self.ids, self.at)]

            def undo() -> None:  # places behind `at` were written, and will be again before they are read
                self.ids.copy_(before[0])
                self.at.copy_(before[1])

            self.graph = graph.captured(self.compute, undo)
        step = self.graph.replay if captured and self.graph else self.compute
        self.news[0].copy_(self.ids[0])
        for number in range(1, steps + 1):
            step()
            self.news[number].copy_(self.ids[0])
        found: list[list[int]] = self.news[: steps + 1].tolist()
        return found


def capacity_for(model: Any, prompts: Sequence[Sequence[int]], limit: int) -> int:
    """Tokens that each row needs, rounded up."""
    return -(-(max(map(len, prompts)) + virtual_tokens(model) + limit) // ROUND) * ROUND


def write(
    rows: Rows, prompts: Sequence[Sequence[int]], limit: int, ends: Collection[int], kind: torch.dtype, captured: bool
) -> list[list[int]]:  # fmt: skip
    """New tokens of each prompt, at most `limit`, the end token included; rows that end take the next prompts."""
    written: list[list[int]] = [[] for _ in prompts]
    waiting = deque(range(len(prompts)))
    held: dict[int, int] = {}
    """The prompt of each row that is in use."""
    while waiting or held:
        free = [row for row in range(rows.rows) if row not in held]
        fresh = set()
        if waiting and len(free) >= min(len(waiting), max(1, rows.rows // TOGETHER)):
            for some, to in portions(waiting, free, prompts):
                rows.read([prompts[prompt] for prompt in some], to, limit, kind)
                held |= dict(zip(to, some, strict=True))
                fresh |= set(to)
        most = max(limit - len(written[prompt]) - (row in fresh) for row, prompt in held.items())
        tokens = rows.write(min(READ, most), captured)
        for row, prompt in list(held.items()):
            for token in [line[row] for line in tokens[row not in fresh :]]:
                written[prompt].append(token)
                if token in ends or len(written[prompt]) >= limit:
                    del held[row]
                    break
    return written


def portions(
    waiting: deque[int], free: list[int], prompts: Sequence[Sequence[int]]
) -> list[tuple[list[int], list[int]]]:  # fmt: skip
    """Takes as many prompts from `waiting` as rows are free: those that are read at once, with their rows."""
    found: list[tuple[list[int], list[int]]] = []
    room = 0
    for row in free[: len(waiting)]:
        prompt = waiting.popleft()
        room -= len(prompts[prompt])
        if not found or room < 0:
            found.append(([], []))
            room = PREFILL - len(prompts[prompt])
        found[-1][0].append(prompt)
        found[-1][1].append(row)
    return found
