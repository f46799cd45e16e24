"""summarise: greedy, batched decoding on a schedule that the run fixes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from bakeoff.config.schema import GenerationSettings
from bakeoff.core.events import Emit, silent
from bakeoff.engine import Engine
from bakeoff.runs.checkpoints import Chunk


def schedule(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Indices of `prompts` by length, longest first, in chunks of `size`: fixed, whatever is resumed."""
    indices = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    return [indices[at : at + size] for at in range(0, len(indices), size)]


def summarise(
    engine: Engine,
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    settings: GenerationSettings,
    *,
    ends: Collection[int] = (),
    emit: Emit = silent,
    done: Mapping[int, Chunk] | None = None,
    keep: Callable[[int, Chunk], None] = lambda number, chunk: None,
    cut: set[int] | None = None,
) -> tuple[dict[int, str], int]:
    """Summary by index in `prompts`, and the number of tokens written.

    A summary ends at the tokenizer's end token or at one of `ends`. Nothing but the logits and the two limits decides
    what is written: settings of generation that a model's files bring along are not read. `done` are chunks of the
    schedule that an interrupted run finished; `keep` is called with each that is new. The indices of summaries that
    `max_new_tokens` ended are added to `cut`.
    """
    ends = {tokenizer.eos_token_id, *ends}
    vocabulary = set(tokenizer.get_vocab().values())
    texts: dict[int, str] = {}
    written = 0
    with engine.writing(model):
        for number, indices in enumerate(schedule(prompts, engine.chunk(model, settings.batch_size))):
            chunk = (done or {}).get(number)
            if chunk is None:
                rows = engine.generate(
                    model, [prompts[index] for index in indices], max_new_tokens, rows=settings.batch_size, ends=ends,
                    vocabulary=vocabulary,
                )  # fmt: skip
                chunk = Chunk(
                    {index: text_of(row, ends, tokenizer) for index, row in zip(indices, rows, strict=True)},
                    sum(map(len, rows)),
                    tuple(index for index, row in zip(indices, rows, strict=True) if row[-1] not in ends),
                )
                keep(number, chunk)
                emit({"phase": "evaluation", "done": len(texts) + len(chunk.texts), "documents": len(prompts)})
            texts |= chunk.texts
            written += chunk.written
            if cut is not None:
                cut.update(chunk.cut)
    return texts, written


def text_of(row: Sequence[int], ends: Collection[int], tokenizer: Any) -> str:
    """The summary that the new tokens `row` are, without the token that ends it."""
    text: str = tokenizer.decode(row[:-1] if row[-1] in ends else row, skip_special_tokens=True)
    return text.strip()
