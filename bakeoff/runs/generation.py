"""summarise: greedy, batched decoding on a schedule that the run fixes."""

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from bakeoff.config.schema import GenerationSettings, MachineSettings
from bakeoff.engine import layout, plain
from bakeoff.engine.attention import forward, llama_like, row_logits, virtual_tokens
from bakeoff.engine.cache import Cache, Prefill, Step
from bakeoff.engine.cpu.layers import sharing
from bakeoff.engine.cpu.packed_weights import ordered
from bakeoff.runs.checkpoints import Chunk
from bakeoff.runs.training import products_in

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
    ends: Collection[int] = (),
    tell: Callable[[dict[str, Any]], None] = lambda news: None,
    done: Mapping[int, Chunk] | None = None,
    keep: Callable[[int, Chunk], None] = lambda number, chunk: None,
) -> tuple[dict[int, str], int]:
    """Summary by place in `prompts`, and the number of tokens written.

    A summary ends at the tokenizer's end token or at one of `ends`. Nothing but the logits and the two limits decides
    what is written: settings of generation that a model's files bring along are not read. `done` are chunks of the
    schedule that an interrupted run finished; `keep` is called with each that is new.
    """
    packed = machine.packing and layout.packable(model)
    ends = {tokenizer.eos_token_id, *ends}
    pick = functools.partial(highest, barred=unwritable(model, tokenizer))
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
                rows = decode(model, asked, max_new_tokens, settings.batch_size, ends, pick, machine)
            else:
                rows = unpacked(model, asked, max_new_tokens, ends, pick, tokenizer.pad_token_id, machine)
            fresh, tokens = {}, 0
            for place, row in zip(places, rows, strict=True):
                tokens += len(row)
                text = row[:-1] if row[-1] in ends else row
                fresh[place] = tokenizer.decode(text, skip_special_tokens=True).strip()
            texts |= fresh
            written += tokens
            keep(number, Chunk(fresh, tokens))
            tell({"phase": "evaluation", "done": len(texts), "documents": len(prompts)})
    return texts, written


Pick = Callable[[torch.Tensor], list[int]]
"""Chooses a token for each row of logits."""


def decode(
    model: Any, prompts: Sequence[Sequence[int]], limit: int, rows: int, ends: Collection[int], pick: Pick,
    machine: MachineSettings,
) -> list[list[int]]:  # fmt: skip
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
                fresh, pick(prefill(model, [prompts[p] for p in fresh], cache, free, machine)), strict=True
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
    model: Any, prompts: Sequence[Sequence[int]], cache: Cache, rows: Sequence[int], machine: MachineSettings
) -> torch.Tensor:
    """Logits of each prompt's first new token; its keys and values are in the cache's `rows` afterwards."""
    device, flash = machine.device, machine.attention == "sdpa"
    ids = torch.tensor([[token for prompt in prompts for token in prompt]], device=device)
    lengths = [len(prompt) for prompt in prompts]
    keep = torch.zeros(ids.shape, dtype=torch.bool, device=device)
    keep[0, torch.tensor(lengths, device=device).cumsum(0) - 1] = True
    share = sharing(model, machine)
    return row_logits(model, ids, lengths, keep, lambda longer: Prefill(longer, cache, rows, flash), share)


def highest(logits: torch.Tensor, barred: torch.Tensor | None = None) -> list[int]:
    """The first token with the highest logit of each row that is not `barred`.

    argmax finds the same in bf16, five times slower.
    """
    if barred is not None:
        logits = logits.index_fill(-1, barred, -torch.inf)
    found: list[int] = logits.max(dim=-1).indices.tolist()
    return found


def unwritable(model: Any, tokenizer: Any) -> torch.Tensor | None:
    """Rows of the output head that are no token: a vocabulary is often padded to a round number. None without any."""
    head = model.get_output_embeddings()
    known = set(tokenizer.get_vocab().values())
    barred = [] if head is None else [row for row in range(head.weight.shape[0]) if row not in known]
    return torch.tensor(barred, device=head.weight.device) if barred else None


@contextlib.contextmanager
def decoding(model: Any, machine: MachineSettings) -> Iterator[None]:
    """No gradients, no dropout, and every weight as decoding wants it; nothing more inside another such block."""
    model.eval()  # first: beside dropout a LoRA is no product of weights
    if READY in vars(model):
        yield
        return
    vars(model)[READY] = True
    try:
        if not (machine.packing and llama_like(model) and layout.packable(model)):
            with products_in(machine), torch.inference_mode():
                yield
            return
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


def unpacked(
    model: Any, prompts: Sequence[Sequence[int]], limit: int, ends: Collection[int], pick: Pick, pad: int,
    machine: MachineSettings,
) -> list[list[int]]:  # fmt: skip
    """The same by transformers' own forward, where prompts may not stand in one row.

    They are padded on the left where the model takes notice of it, else those of one length are read together, else
    each is read by itself.
    """

    def together(place: int) -> int:
        if not layout.written(model):
            return 0
        return place if layout.alike(model) else len(prompts[place])

    cached = not layout.cached(model)
    return plain.write(model, prompts, limit, ends, pick, machine.device, pad=pad, together=together, cached=cached)
