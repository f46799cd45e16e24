"""summarise: greedy, batched decoding on a schedule that the run fixes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from bakeoff.checkpoints import Chunk
from bakeoff.settings import GenerationSettings, MachineSettings
from bakeoff.training import products_in


def schedule(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Places of `prompts` by length, `size` at a time, longest first: what is decoded together, whatever is resumed."""
    places = sorted(range(len(prompts)), key=lambda place: (-len(prompts[place]), place))
    return [places[start : start + size] for start in range(0, len(places), size)]


def summarise(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    settings: GenerationSettings,
    machine: MachineSettings,
    *,
    batches: int | None = None,
    tell: Callable[[dict[str, Any]], None] = lambda news: None,
    done: Mapping[int, Chunk] | None = None,
    keep: Callable[[int, Chunk], None] = lambda number, chunk: None,
) -> tuple[dict[int, str], int]:
    """Summary by place in `prompts`, and the number of tokens written; the first `batches` of the schedule if given.

    `done` are chunks of the schedule that an interrupted run finished; `keep` is called with each that is new.
    """
    model.eval()
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    texts: dict[int, str] = {}
    written = 0
    for number, places in enumerate(schedule(prompts, settings.batch_size)[:batches]):
        if done and number in done:
            texts |= done[number].texts
            written += done[number].written
            continue
        ids, mask = pad_left([prompts[place] for place in places], tokenizer.pad_token_id, machine.device)
        with torch.inference_mode(), products_in(machine):
            output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        # PEFT's virtual tokens stand in the mask only, so new tokens follow the prompt's ids for every method.
        fresh, tokens = {}, 0
        for place, row in zip(places, output[:, ids.shape[1] :].tolist(), strict=True):
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            tokens += min(end + 1, len(row))
            fresh[place] = tokenizer.decode(row[:end], skip_special_tokens=True).strip()
        texts |= fresh
        written += tokens
        keep(number, Chunk(fresh, tokens))
        tell({"phase": "evaluation", "done": len(texts), "documents": len(prompts)})
    return texts, written


def pad_left(prompts: Sequence[Sequence[int]], pad: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """batch x length ids and mask (1: a token, 0: padding), padded on the left so that all rows end together."""
    length = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids.to(device), mask.to(device)
