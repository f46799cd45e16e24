"""summarise: greedy, batched decoding on a schedule that the run fixes."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from bakeoff.attention import Cache, Prefill, Step, forward, packable, row_logits, virtual_tokens
from bakeoff.checkpoints import Chunk
from bakeoff.layers import sharing
from bakeoff.ordered import ordered
from bakeoff.settings import GenerationSettings, MachineSettings
from bakeoff.training import products_in

REFILL = 4
"""A chunk holds so many times the rows that are decoded together: a row that ends makes room for the next document."""

PREFILL = 2048
"""Tokens of prompts that are read at once, if there is more than one prompt: what is larger is no faster."""

TOGETHER = 4
"""Prompts wait until this part of the rows is free, a fourth: some are read together in little more time than one."""

READY = "_bakeoff_decoding"
"""The attribute of a model whose weights are as decoding wants them."""


def schedule(prompts: Sequence[Sequence[int]], size: int, refill: int = 1) -> list[list[int]]:
    """Places of `prompts` by length, longest first, in chunks; what is decoded together, whatever is resumed.

    Chunks hold `size * refill` prompts, of which `size` are decoded at a time.
    """
    places = sorted(range(len(prompts)), key=lambda place: (-len(prompts[place]), place))
    return [places[at : at + size * refill] for at in range(0, len(places), size * refill)]


def summarise(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    settings: GenerationSettings,
    machine: MachineSettings,
    *,
    tell: Callable[[dict[str, Any]], None] = lambda news: None,
    done: Mapping[int, Chunk] | None = None,
    keep: Callable[[int, Chunk], None] = lambda number, chunk: None,
) -> tuple[dict[int, str], int]:
    """Summary by place in `prompts`, and the number of tokens written.

    `done` are chunks of the schedule that an interrupted run finished; `keep` is called with each that is new.
    """
    packed = machine.packing and packable(model)
    texts: dict[int, str] = {}
    written = 0
    chunks = schedule(prompts, settings.batch_size, REFILL if packed else 1)
    with decoding(model, machine):
        for number, places in enumerate(chunks):
            if done and number in done:
                texts |= done[number].texts
                written += done[number].written
                continue
            asked = [prompts[place] for place in places]
            if packed:
                rows = decode(model, asked, max_new_tokens, settings.batch_size, tokenizer.eos_token_id, machine)
            else:
                rows = generate(model, tokenizer, asked, max_new_tokens, machine)
            fresh, tokens = {}, 0
            for place, row in zip(places, rows, strict=True):
                end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
                tokens += min(end + 1, len(row))
                fresh[place] = tokenizer.decode(row[:end], skip_special_tokens=True).strip()
            texts |= fresh
            written += tokens
            keep(number, Chunk(fresh, tokens))
            tell({"phase": "evaluation", "done": len(texts), "documents": len(prompts)})
    return texts, written


def decode(
    model: Any, prompts: Sequence[Sequence[int]], limit: int, rows: int, end: int, machine: MachineSettings
) -> list[list[int]]:
    """New tokens of each prompt, at most `limit`, the end token included; `rows` prompts are decoded at a time.

    Prompts are read without padding, keys and values are kept in place, and rows that end make room for the next
    prompts; meanwhile, and when none is waiting, the last row moves into the place of one that ended.
    """
    device, virtual = machine.device, virtual_tokens(model)
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
                fresh, prefill(model, [prompts[p] for p in fresh], cache, free, machine), strict=True
            ):
                written[prompt].append(token)
        else:
            lengths = [len(prompts[p]) + virtual + len(written[p]) - 1 for p in active]
            last = torch.tensor([[written[p][-1] for p in active]], device=device)
            places = torch.tensor([lengths], device=device)
            logits = forward(inner, Step(cache, lengths, device), lengths, 0, places, input_ids=last)
            for prompt, token in zip(active, highest(logits), strict=True):
                written[prompt].append(token)
        for row in reversed(range(len(active))):
            prompt = active[row]
            if written[prompt][-1] == end or len(written[prompt]) >= limit:
                mover = active.pop()
                if row < len(active):
                    active[row] = mover
                    cache.move(len(active), row, len(prompts[mover]) + virtual + len(written[mover]))
    return written


def prefill(
    model: Any, prompts: Sequence[Sequence[int]], cache: Cache, rows: Sequence[int], machine: MachineSettings
) -> list[int]:
    """The first new token of each prompt; its keys and values are in the cache's `rows` afterwards."""
    device, flash = machine.device, machine.attention == "sdpa"
    ids = torch.tensor([[token for prompt in prompts for token in prompt]], device=device)
    lengths = [len(prompt) for prompt in prompts]
    keep = torch.zeros(ids.shape, dtype=torch.bool, device=device)
    keep[0, torch.tensor(lengths, device=device).cumsum(0) - 1] = True
    share = sharing(model, machine)
    logits = row_logits(model, ids, lengths, keep, lambda longer: Prefill(longer, cache, rows, flash), share)
    return highest(logits)


def highest(logits: torch.Tensor) -> list[int]:
    """The first token with the highest logit of each row; argmax finds the same in bf16, five times slower."""
    found: list[int] = logits.max(dim=-1).indices.tolist()
    return found


@contextlib.contextmanager
def decoding(model: Any, machine: MachineSettings) -> Iterator[None]:
    """No gradients, no dropout, and every weight as decoding wants it; nothing more inside another such block."""
    model.eval()  # first: beside dropout a LoRA is no product of weights
    if READY in vars(model) or not (machine.packing and packable(model)):
        yield
        return
    vars(model)[READY] = True
    try:
        with in_precision(model, machine), ordered(model, machine), torch.inference_mode():
            yield
    finally:
        del vars(model)[READY]


@contextlib.contextmanager
def in_precision(model: Any, machine: MachineSettings) -> Iterator[None]:
    """Every weight in the run's precision, once, instead of a cast at each product; fp32 again afterwards."""
    lower = torch.bfloat16 if machine.precision == "bf16" else torch.float32
    changed = {parameter: parameter.data for parameter in model.parameters() if parameter.dtype != lower}
    try:
        for parameter, value in changed.items():
            parameter.data = value.to(lower)
        yield
    finally:
        for parameter, value in changed.items():
            parameter.data = value


def generate(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], limit: int, machine: MachineSettings
) -> list[list[int]]:
    """The same by transformers' own loop, for architectures that don't stand in one row."""
    config = GenerationConfig(
        max_new_tokens=limit,
        do_sample=False,
        num_beams=1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    ids, mask = pad_left(prompts, tokenizer.pad_token_id, machine.device)
    with torch.inference_mode(), products_in(machine):
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    # PEFT's virtual tokens stand in the mask only, so new tokens follow the prompt's ids for every method.
    found: list[list[int]] = output[:, ids.shape[1] :].tolist()
    return found


def pad_left(prompts: Sequence[Sequence[int]], pad: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """batch x length ids and mask (1: a token, 0: padding), padded on the left so that all rows end together."""
    length = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids.to(device), mask.to(device)
