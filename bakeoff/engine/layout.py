"""How documents may stand together in a forward pass of a model: found by a test on it, with its method attached.

What is allowed is what changes nothing: logits of two short documents together are those of each by itself. Whoever
asks gets a reason in words, empty where the answer is yes.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

import torch

from bakeoff.core.errors import first_line
from bakeoff.engine.attention import CAUSAL, Documents, Segments, Variant, forward, replaceable, row_logits
from bakeoff.engine.cache import Cache, Prefill, Step
from bakeoff.engine.linear import passed_by, plain_head
from bakeoff.engine.padded import begin, label_logits, steps
from bakeoff.engine.virtual import virtual_tokens

FOUND = "_bakeoff_layout"
"""The attribute of a model that remembers the answers."""
LENGTHS = (11, 6)
"""Tokens of the two documents. The second must not see the first, nor its own padding."""
NOISE = 0.1
"""Standard deviation of what is added, during the test, to what a method added: LoRA's B is 0 at first, and a method
that mixes neighbours by a weight of 0 would look as if it didn't."""
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""Largest difference of logits that counts as equal, in standard deviations of the logits; by the weights' type."""


def packed(model: Any) -> str:
    """Why documents may not stand in one row without padding, each seeing itself alone."""
    return answer(model, "packed", packs)


def padded(model: Any) -> str:
    """Why documents may not be padded on the right where their loss is computed."""
    return answer(model, "padded", pads_right)


def written(model: Any) -> str:
    """Why prompts may not be padded on the left where summaries are written."""
    return answer(model, "written", pads_left)


def alike(model: Any) -> str:
    """Why prompts of one length may not be read together."""
    return answer(model, "alike", batches)


def cached(model: Any) -> str:
    """Why a model may not keep what it has read while it writes."""
    return answer(model, "cached", keeps)


def head_last(model: Any) -> str:
    """Why logits are not the output head's product with the last hidden states."""
    return answer(model, "head", ends_in_head)


def steady(model: Any) -> str:
    """Why what a model says of a document is not the same each time it trains."""
    return answer(model, "steady", repeats)


def packable(model: Any) -> bool:
    """Whether documents may stand in one row."""
    return not packed(model)


def settle(
    model: Any, added: Iterable[torch.nn.Parameter], packing: bool, known: Mapping[str, str] | None = None
) -> None:
    """Finds every answer that a run needs, `added` being the parameters that the base model does not have.

    `known` are the answers of a model that was made in the same way.
    """
    vars(model)[FOUND] = dict(known or {})
    with noisy(added):
        if not packing or packed(model):
            padded(model), cached(model)
            if written(model):
                alike(model)
        head_last(model)
    steady(model)


def answer(model: Any, question: str, test: Callable[[Any], str]) -> str:
    """The answer of `test`, asked once. A test that can't be computed answers no, with the error as the reason."""
    known = vars(model).setdefault(FOUND, {})
    if question not in known:
        was, draws = model.training, torch.random.get_rng_state()
        model.eval()
        try:
            with torch.no_grad():
                known[question] = test(model)
        except Exception as error:  # an architecture's own complaint about a call that others understand
            known[question] = f"{type(error).__name__}: {first_line(error)}"
        finally:
            model.train(was)
            torch.random.set_rng_state(draws)
    found: str = known[question]
    return found


def answers(model: Any) -> dict[str, str]:
    """What was found for `model`, by question: a reason why not, or empty."""
    return dict(vars(model).get(FOUND, {}))


def summary(found: Mapping[str, str], packing: bool) -> str:
    """How documents stand together by the answers `found`, and why not closer, for the report."""
    if packing and not found["packed"]:
        return "in one row"
    reason = found["packed"] if packing else "engine.packing is off"
    read = "each by itself" if found["padded"] else "padded"
    asked = "padded" if not found["written"] else "each by itself" if found["alike"] else "of one length together"
    return f"{read} while training, {asked} while writing: {reason}"


@contextlib.contextmanager
def noisy(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """Inside, `parameters` that are trained have noise on them; afterwards they are what they were."""
    draw = torch.Generator().manual_seed(0)
    kept = [(one, one.data) for one in parameters if one.requires_grad and one.is_floating_point()]
    try:
        for one, value in kept:
            one.data = value + NOISE * torch.randn(value.shape, generator=draw).to(value)
        yield
    finally:
        for one, value in kept:
            one.data = value


def packs(model: Any) -> str:
    """Two documents in one row, then read into a cache, then one token on: each as by itself."""
    if not replaceable(model):
        return "its attention can't be replaced by one that keeps documents apart"
    if virtual_tokens(model) and not isinstance(model.get_prompt(batch_size=1), torch.Tensor):
        return "the method's virtual tokens are keys and values"
    windows: dict[int, int] = {}
    cache = Cache(len(LENGTHS), max(LENGTHS) + virtual_tokens(model))
    if reason := together(
        model,
        lambda longer: Listening(longer, windows),
        lambda longer: Prefill(longer, cache, range(len(longer))),
        lambda before: Step(cache, before, device_of(model)),
    ):
        return reason
    return windows_missing(model, windows)


def together(
    model: Any,
    rows: Callable[[Sequence[int]], Segments],
    prefill: Callable[[Sequence[int]], Segments],
    step: Callable[[Sequence[int]], Segments],
) -> str:
    """Two documents by `rows`, then into a cache by `prefill`, then one token on by `step`: each as by itself.

    All are given tokens of each document; `step` those that are in the cache.
    """
    device, two = device_of(model), documents(model)
    texts, ids = [text[:-1] for text in two], torch.tensor([[t for text in two for t in text[:-1]]])
    ids, lengths = ids.to(device), [len(text) for text in texts]
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    alone = [whole_logits(model, text) for text in two]
    row = row_logits(model, ids, lengths, everywhere, rows)
    if not same(row, torch.cat([one[:-1] for one in alone])):
        return "documents in one row do not give the logits of each by itself"
    virtual, ends = virtual_tokens(model), torch.zeros_like(everywhere)
    ends[0, torch.tensor(lengths).cumsum(0) - 1] = True
    first = row_logits(model, ids, lengths, ends, prefill)
    before = [length + virtual for length in lengths]
    last, positions = torch.tensor([[text[-1] for text in two]], device=device), torch.tensor([before], device=device)
    inner = model.base_model if virtual else model
    second = forward(inner, step(before), before, 0, positions, input_ids=last)
    expected = [torch.stack([one[index] for one in alone]) for index in (-2, -1)]
    if not same(first, expected[0]) or not same(second, expected[1]):
        return "a token written with kept keys and values is not the one written without"
    return ""


def pads_right(model: Any) -> str:
    """Two documents, the shorter padded on the right."""
    two = documents(model)
    ids = torch.full((2, max(LENGTHS)), 0)
    keep = torch.zeros(ids.shape, dtype=torch.bool)
    for row, text in enumerate(two):
        ids[row, : len(text)], keep[row, : len(text)] = torch.tensor(text), True
    device = device_of(model)
    found = label_logits(model, ids.to(device), keep.to(device))
    alone = torch.cat([whole_logits(model, text) for text in two])
    return "" if same(found, alone) else "padding on the right changes the logits of what stands before it"


def pads_left(model: Any) -> str:
    """Two prompts, the shorter padded on the left, and one token more."""
    if virtual_tokens(model) and not isinstance(model.get_prompt(batch_size=1), torch.Tensor):
        return "padding would stand between the method's keys and values and the prompt"
    return "" if writes(model, documents(model), True) else "padding on the left changes the logits of what follows it"


def batches(model: Any) -> str:
    """Two prompts of one length, and one token more."""
    texts = [text[-min(LENGTHS) :] for text in documents(model)]
    return "" if writes(model, texts, True) else "prompts that are read together change each other's logits"


def keeps(model: Any) -> str:
    """A prompt, and one token more."""
    found = all(writes(model, [text], True) for text in documents(model))
    return "" if found else "a token written with what the model keeps is not the one written without"


def writes(model: Any, texts: Sequence[Sequence[int]], cached: bool) -> bool:
    """Whether the last two tokens' logits are those of each text read whole, when the last token is given alone."""
    alone = [whole_logits(model, text) for text in texts]
    rows = [[text[-1]] for text in texts]
    found = steps(model, [text[:-1] for text in texts], rows, device_of(model), 0, cached)
    return all(same(next(found), torch.stack([one[index] for one in alone])) for index in (-2, -1))


def unreadable(model: Any) -> str:
    """Why `model`, which may stand on the meta device, can't be given a document; empty where it can, or isn't known.

    On the meta device shapes are followed without values; what needs values is left to the run.
    """
    try:
        with torch.no_grad():
            inner, given = begin(model, torch.zeros(1, min(LENGTHS), dtype=torch.long, device=device_of(model)), [0])
            if "past_key_values" in given and "past_key_values" not in signature(inner.forward).parameters:
                return "the method's virtual tokens are keys and values, and the model takes none"
            inner(**given, use_cache=False)
    except Exception as error:  # an architecture's own complaint: its first line is the answer
        # Some kernels (grouped products of experts) take other types on the meta device than on a processor.
        unknown = isinstance(error, NotImplementedError) or any(
            word in str(error).lower() for word in ("meta", "dtype")
        )
        return "" if unknown else f"{type(error).__name__}: {first_line(error)}"
    return ""


def repeats(model: Any) -> str:
    """Two passes over one document as it is read in training: dropout stands in an architecture in many ways."""
    [text, _] = documents(model)
    model.train()
    return "" if torch.equal(whole_logits(model, text), whole_logits(model, text)) else "dropout changes its logits"


def ends_in_head(model: Any) -> str:
    """Logits against the output head's product with what it is given."""
    head = plain_head(model)
    if head is None:
        return "its output head is not one matrix"
    [text, _] = documents(model)
    with passed_by(head):
        hidden = whole_logits(model, text)
    return "" if same(head(hidden), whole_logits(model, text)) else "its logits are changed behind the output head"


def whole_logits(model: Any, text: Sequence[int]) -> torch.Tensor:
    """tokens x vocabulary: what `model` says of one document by itself."""
    ids = torch.tensor([list(text)], device=device_of(model))
    return label_logits(model, ids, torch.ones_like(ids, dtype=torch.bool))


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two tensors of logits are equal but for rounding."""
    if found.shape != expected.shape or not bool(torch.isfinite(expected).all()):
        return False
    difference = (found.float() - expected.float()).abs().max().item()
    return difference <= CLOSE.get(found.dtype, CLOSE[torch.bfloat16]) * max(expected.float().std().item(), 1e-6)


def documents(model: Any) -> list[list[int]]:
    """Two documents of LENGTHS tokens, drawn from the vocabulary."""
    words = model.get_input_embeddings().weight.shape[0]
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(words, (length,), generator=draw).tolist() for length in LENGTHS]


def device_of(model: Any) -> Any:
    """Where `model` computes."""
    return next(model.parameters()).device


def windows_missing(model: Any, windows: dict[int, int]) -> str:
    """Why the windows that a configuration speaks of are not those that its attention layers were told, by layer.

    A window is longer than the test's documents, so their logits can't show that it is missing.
    """
    config: Any = (model.get_base_model() if hasattr(model, "get_base_model") else model).config.get_text_config()
    kinds = list(getattr(config, "layer_types", None) or [])
    if unknown := sorted(set(kinds) - {"full_attention", "sliding_attention"}):
        return f"it has layers of the kind {unknown[0]}"
    if getattr(config, "attention_chunk_size", None):
        return "its attention works in chunks"
    window = getattr(config, "sliding_window", None)
    if not window or getattr(config, "use_sliding_window", True) is False:
        return ""
    expected = {index for index, kind in enumerate(kinds) if kind == "sliding_attention"} if kinds else set(windows)
    found = {index for index, width in windows.items() if width}
    return "" if found == expected and (found or kinds) else "its attention layers are not told of their windows"


class Listening(Documents):
    """Documents that note which window each layer asks for."""

    def __init__(self, lengths: Sequence[int], windows: dict[int, int]) -> None:
        super().__init__(lengths)
        self.windows = windows

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float,
        variant: Variant = CAUSAL,
    ) -> torch.Tensor:  # fmt: skip
        self.windows[layer] = variant.window
        return super().__call__(layer, query, key, value, scaling, variant)
