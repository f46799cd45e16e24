"""Whether a method fits a model, found before its first run: what it trains is what it says, and what is saved."""

from collections.abc import Callable
from typing import Any

from bakeoff import adapters
from bakeoff.catalogue import Entry
from bakeoff.errors import UsageError, first_line
from bakeoff.parameters import ParameterCounts, count, shapes_of

Build = Callable[[str], Any]
"""The base model on the device `meta` (shapes alone), or on `cpu` with random values."""


def fitted(entry: Entry, method: Any, build: Build, name: str) -> tuple[Any, ParameterCounts, Any]:
    """`method` as the model decides it, its counts, and the model (called `name`) with it attached.

    Raises UsageError with the reason where it can't attach, where its closed form is not what it trains, or where what
    it would save is not what it trains.
    """
    try:
        shapes = shapes_of(build("meta"))
        if hasattr(method, "for_model"):
            method = method.for_model(shapes)
        expected = method.expected_parameters(shapes)
        model = attached(method, build)
        found = count(model, shapes)
        why = disagreement(entry, expected, found) or unpruned(model) or ("" if entry.control else unsaved(model))
    except Exception as error:  # a method's or PEFT's own complaint: its first line is the answer
        kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
        why = kind + first_line(error)
    if why:
        raise UsageError(
            f"method {entry.name!r} can't attach to {name}: {why}; "
            f"change --set methods.{entry.name}.KEY or leave it out"
        )
    return method, expected, model


def attached(method: Any, build: Build) -> Any:
    """The model with `method` attached: on the meta device, or with random values where the method needs values.

    Raises UsageError where it changes frozen weights in another way each time: nobody could load what it saves.
    """
    model = build("meta")
    before = {id(tensor): tensor._version for tensor in model.parameters()}
    try:
        found = method.attach(model, None)
        changed = any(
            not tensor.requires_grad and before.get(id(tensor), tensor._version) != tensor._version
            for tensor in found.parameters()
        )
        if not changed:
            return found
    except UsageError:
        raise
    except Exception:  # perhaps for want of values; where not, the complaint comes again
        pass
    import torch

    state, digests = torch.random.get_rng_state(), []
    try:
        for seed in (0, 1):
            model = build("cpu")
            torch.manual_seed(seed)
            found = method.attach(model, None)
            digests.append(adapters.frozen_digests(found))
    finally:
        torch.random.set_rng_state(state)
    if digests[0] != digests[1]:
        [changed_name, *_] = [name for name in digests[0] if digests[0][name] != digests[1].get(name)]
        raise UsageError(
            f"attach changes the frozen weight {changed_name} at random, and another time otherwise, so that what is "
            "saved could not be loaded"
        )
    return found


def disagreement(entry: Entry, expected: ParameterCounts, found: ParameterCounts) -> str:
    """In what the closed form and the attached method differ; empty where they agree."""
    if expected != found:
        names = ("total", "trainable", "frozen", "added", "tied", "tied_trainable")
        parts = [
            f"{name.replace('_', ' ')} {told:,} by expected_parameters, {real:,} attached"
            for name in names
            if (told := getattr(expected, name)) != (real := getattr(found, name))
        ]
        return f"its closed form is not what it attaches ({'; '.join(parts)}); mend {entry.file}"
    if found.trainable == 0 and not entry.control:
        return "it leaves nothing to train"
    return ""


def unpruned(model: Any) -> str:
    """Why a method needs more of the training loop than it gets; empty where it doesn't."""
    for config in getattr(model, "peft_config", {}).values():
        if getattr(config.peft_type, "value", config.peft_type) == "ADALORA":
            return (
                "AdaLoRA prunes in update_and_allocate after every optimizer step, which Bakeoff does not call, so it "
                "would train as LoRA of its first rank; take LoRA"
            )
    return ""


def unsaved(model: Any) -> str:
    """In what the saved tensors differ from the trained ones; empty where they are the same."""
    trained = {id(tensor): name for name, tensor in model.named_parameters() if tensor.requires_grad}
    saved = adapters.contents(model)
    if set(map(id, saved.values())) == set(trained) and len(saved) == len(trained):
        return ""
    ids = {id(tensor) for tensor in saved.values()}
    lost = [name for tensor, name in trained.items() if tensor not in ids]
    more = [name for name, tensor in saved.items() if id(tensor) not in trained]
    sizes = [sum(t.numel() for t in saved.values()), sum(t.numel() for t in model.parameters() if t.requires_grad)]
    if sizes[0] == sizes[1] and lost and more:  # computed from what is trained, as PEFT's prompts are
        return ""
    parts = [f"it trains {lost[0]} and would not save it"] * bool(lost)
    parts += [f"it would save {more[0]}, which it doesn't train"] * bool(more)
    parts = parts or ["it would save a tensor at two names"]
    return f"what it saves is not what it trains ({sizes[0]:,} numbers, {sizes[1]:,} trained): {'; '.join(parts)}"


def tokens_before(model: Any) -> int:
    """Virtual tokens that an attached method puts before every prompt."""
    config = getattr(model, "active_peft_config", None)
    return int(getattr(config, "num_virtual_tokens", 0)) if getattr(config, "is_prompt_learning", False) else 0
