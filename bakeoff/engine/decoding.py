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
    device, virtual = where.device, virtual_tokens(model)
    inner = model.base_model if virtual else model
    cache = Cache(min(rows, len(prompts)), max(map(len, prompts)) + virtual + limit)
    written: list[list[int]] = [[] for _ in prompts]
    waiting = deque(range(len(prompts)))
    active: list[int] = []  # row of the cache -> prompt
    filling = False  # until no row is free: prompts may be too long to be read at once
    while waiting or active:
        free = list(range(len(active), cache.rows))[: len(waiting)]
        filling = bool(free) and (filling or len(free) >= min(len(waiting), cache.rows // TOGETHER))
        if filling:
            fresh = [waiting.popleft()]
            while len(fresh) < len(free) and sum(len(prompts[p]) for p in (*fresh, waiting[0])) <= PREFILL:
                fresh.append(waiting.popleft())
            free = free[: len(fresh)]
            active += fresh
            for prompt, token in zip(
                fresh, pick(prefill(model, [prompts[p] for p in fresh], cache, free, where)), strict=True
            ):
                written[prompt].append(token)
        else:
            lengths = [len(prompts[p]) + virtual + len(written[p]) - 1 for p in active]
            last = torch.tensor([[written[p][-1] for p in active]], device=device)
            places = torch.tensor([lengths], device=device)
            logits = forward(inner, Step(cache, lengths, device), lengths, 0, places, input_ids=last)
            for prompt, token in zip(active, pick(logits), strict=True):
                written[prompt].append(token)
        for row in reversed(range(len(active))):
            prompt = active[row]
            if written[prompt][-1] in ends or len(written[prompt]) >= limit:
                mover = active.pop()
                if row < len(active):
                    active[row] = mover
                    cache.move(len(active), row, len(prompts[mover]) + virtual + len(written[mover]))
    return written


def prefill(
    model: Any, prompts: Sequence[Sequence[int]], cache: Cache, rows: Sequence[int], where: Computation
) -> torch.Tensor:
    """Logits of each prompt's first new token; its keys and values are in the cache's `rows` afterwards."""
    device, flash = where.device, where.attention == "sdpa"
    ids = torch.tensor([[token for prompt in prompts for token in prompt]], device=device)
    lengths = [len(prompt) for prompt in prompts]
    keep = torch.zeros(ids.shape, dtype=torch.bool, device=device)
    keep[0, torch.tensor(lengths, device=device).cumsum(0) - 1] = True
    share = sharing(model, where)
    return row_logits(model, ids, lengths, keep, lambda longer: Prefill(longer, cache, rows, flash), share)
