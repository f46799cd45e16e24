"""How many positions a model has: a table of positions ends somewhere, and some rotary ones change with the length."""

from collections.abc import Iterator, Mapping
from typing import Any

from bakeoff.core.errors import UsageError

SHORTEST = 8
"""The least task.max_input_tokens."""
MOVING = ("dynamic", "longrope")
"""Kinds of RoPE whose frequencies depend on the longest document of a batch once it leaves the original context."""


def table_size(model: Any) -> int:
    """Tokens after which the model's table of positions ends, 0 where it has none; `model` may be on the meta device.

    A table is an embedding other than the tokens', or a buffer of fixed angles; OPT and its kin skip its first rows.
    """
    from torch import nn

    tokens = model.get_input_embeddings()
    sizes = [
        module.num_embeddings - getattr(module, "offset", 0)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module is not tokens and "pos" in _last(name, "wpe")
    ]
    sizes += [len(buffer) for name, buffer in model.named_buffers() if "pos" in _last(name) and buffer.dim() == 2]
    config = model.config.get_text_config()
    if config.model_type == "mpt":  # its ALiBi is a table, too
        sizes.append(config.max_seq_len)
    return min(sizes, default=0)


def original_context(model: Any) -> int:
    """Tokens up to which rotary frequencies are those of the configuration, 0 where they never change."""
    config = model.config.get_text_config()
    sizes = []
    for rope in _ropes(getattr(config, "rope_parameters", None) or {}):
        if rope.get("rope_type") in MOVING:
            known = rope.get("original_max_position_embeddings") if rope["rope_type"] == "longrope" else None
            known = known or getattr(config, "original_max_position_embeddings", None)
            sizes.append(known or config.max_position_embeddings)
    return min(sizes, default=0)


def limited(model: Any) -> bool:
    """Whether some length is refused."""
    return bool(table_size(model) or original_context(model))


def check(model: Any, who: str, name: str, prompt: int, virtual: int, target: int) -> str:
    """What must be said of a run whose longest text has so many tokens of prompt, virtual and target ones; or "".

    `who` runs, the model is called `name`. Raises UsageError where the model has no such positions, or where a document
    would be read with the rotary frequencies of another.
    """
    tokens = prompt + virtual + target
    parts = f"{prompt} tokens of prompt, {f'{virtual} virtual, ' if virtual else ''}{target} of summary make {tokens}"
    table, context = table_size(model), original_context(model)
    for limit, why in (
        (table, f"{name} has {table} positions"),
        (context, f"beyond {context} the rotary positions of {name} depend on the longest document beside a document"),
    ):
        if limit and tokens > limit:
            room = limit - virtual - target
            advice = f"--set task.max_input_tokens={room}" if room >= SHORTEST else "a lower task.max_target_tokens"
            raise UsageError(f"{who}: {parts}, and {why}; type {advice}")
    known = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
    if not table and 0 < known < tokens:
        return f"{who}: {parts}; {name} computes them, though it was made for {known}"
    return ""


def _ropes(found: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The RoPE of the model, or of each kind of its layers."""
    yield found
    yield from (value for value in found.values() if isinstance(value, Mapping))


def _last(name: str, alias: str = "") -> str:
    """The last part of a name in lower case; `alias` is a word for positions."""
    last = name.rpartition(".")[2].lower()
    return "pos" if last == alias else last
