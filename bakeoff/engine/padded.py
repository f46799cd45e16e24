"""Documents in transformers' own forward: padded, or each by itself; every architecture can be read this way."""

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch.nn import functional

from bakeoff.engine.virtual import virtual_tokens

CARRIED = ("past_key_values", "cache_params", "state")
"""What a model returns of the tokens that it has read, and takes back under the same name."""


def begin(model: Any, ids: torch.Tensor, padding: Sequence[int]) -> tuple[Any, dict[str, Any]]:
    """What to call with a batch of `ids` (batch x length), and what to give it.

    PEFT's virtual tokens stand in front of each document, behind the `padding` tokens on its left. Where they are keys
    and values (prefix tuning), they are what the model is told it has read already.
    """
    if not virtual_tokens(model):
        return model, {"input_ids": ids}
    prompt = model.get_prompt(batch_size=len(ids))
    if not isinstance(prompt, torch.Tensor):
        return model.base_model, {"input_ids": ids, "past_key_values": prompt}
    words = model.word_embeddings(ids)
    rows = [
        torch.cat([row[:left], virtual, row[left:]])
        for row, virtual, left in zip(words, prompt.to(words.dtype), padding, strict=True)
    ]
    return model.base_model, {"inputs_embeds": torch.stack(rows)}


def label_logits(model: Any, ids: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """kept x vocabulary: logits where `keep` (batch x length, bool) is True, of documents padded on the right."""
    inner, given = begin(model, ids, [0] * len(ids))
    if "inputs_embeds" in given:
        keep = functional.pad(keep, (virtual_tokens(model), 0), value=False)
    logits: torch.Tensor = inner(**given, logits_to_keep=keep, use_cache=False).logits
    return logits[keep] if logits.dim() == 3 else logits


def write(
    model: Any,
    prompts: Sequence[Sequence[int]],
    limit: int,
    ends: Collection[int],
    pick: Callable[[torch.Tensor], list[int]],
    device: str,
    *,
    pad: int,
    together: Callable[[int], Any],
    cached: bool = True,
) -> list[list[int]]:
    """New tokens of each prompt, at most `limit`, the end token included; `pick` chooses them from logits.

    Prompts are read together whose places are `together` the same, shorter ones filled with `pad` on the left.
    `cached`: see `steps`.
    """
    written: list[list[int]] = [[] for _ in prompts]
    for _, same in groupby(sorted(range(len(prompts)), key=together), key=together):
        indices = list(same)
        rows = [written[index] for index in indices]
        for logits in steps(model, [prompts[index] for index in indices], rows, device, pad, cached):
            for row, token in zip(rows, pick(logits), strict=True):
                # A row that has ended is still computed; what it is given then is of no interest.
                row.append(row[-1] if row and row[-1] in ends else token)
            if all(row[-1] in ends for row in rows) or len(rows[0]) >= limit:
                break
    return [upto(row, ends) for row in written]


def upto(row: list[int], ends: Collection[int]) -> list[int]:
    """`row` up to its first end token, this included; all of it where there is none."""
    return row[: next((index for index, token in enumerate(row, 1) if token in ends), len(row))]


def steps(
    model: Any, prompts: Sequence[Sequence[int]], rows: Sequence[Sequence[int]], device: str, pad: int, cached: bool
) -> Iterator[torch.Tensor]:
    """Logits of the token behind each prompt (prompts x vocabulary), then of each token that is appended to `rows`.

    Positions are those of each document without its padding. `cached`: the model keeps what it has read; else, and
    where it keeps nothing, it reads all of it at each step.
    """
    takes = inspect.signature(getattr(model, "get_base_model", lambda: model)().forward).parameters
    last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
    whole, mask = pad_left(prompts, pad, device)
    padding = (mask == 0).sum(dim=1).tolist()
    inner, given = begin(model, whole, padding)
    virtual = mask.new_ones(len(mask), virtual_tokens(model))
    # Virtual embeddings stand behind the padding, where all is 1 anyhow; keys and values before it.
    mask = torch.cat([virtual, mask] if "past_key_values" in given else [mask, virtual], dim=1)
    while True:
        if any(padding):
            given["attention_mask"] = mask
            if "position_ids" in takes:
                length = next(iter(given.values())).shape[1]
                given["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -length:]
        found = inner(**given, **last, use_cache=cached)
        yield found.logits[:, -1]
        new = torch.tensor([[row[-1]] for row in rows], device=device)
        whole, mask = torch.cat([whole, new], dim=1), torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        kept = {name: found[name] for name in CARRIED if cached and found.get(name) is not None}
        if kept:
            given = {"input_ids": new, **kept}
        else:
            inner, given = begin(model, whole, padding)


def pad_left(prompts: Sequence[Sequence[int]], pad: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """batch x length ids and mask (1: a token, 0: padding), padded on the left so that all rows end together."""
    length = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids.to(device), mask.to(device)
