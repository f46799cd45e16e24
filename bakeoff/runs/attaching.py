"""Whether a method fits a model, found before its first run: it attaches, and trains what its closed form says."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from bakeoff import engine
from bakeoff.core.errors import UsageError, first_line
from bakeoff.methods.parameters import ParameterCounts, count, shapes_of
from bakeoff.methods.registry import Entry
from bakeoff.runs import adapters

IN_CACHE = ("PREFIX_TUNING", "CARTRIDGE")
"""PEFT's kinds of virtual tokens that are keys and values of every layer."""
Build = Callable[[str], Any]
"""The base model on the device `meta` (shapes alone), or on `cpu` with random values."""


def fitted(entry: Entry, method: Any, build: Build, name: str) -> tuple[Any, ParameterCounts, Any]:
    """`method` as the model decides it, its counts, and the model (called `name`) with it attached.

    Raises UsageError with the reason where it can't attach, where its closed form is not what it trains, or where what
    it trains can't be loaded.
    """
    try:
        shapes = shapes_of(build("meta"))
        if hasattr(method, "for_model"):
            method = method.for_model(shapes)
        expected = method.expected_parameters(shapes)
        model = attached(method, build)
        found = count(model, shapes)
        why = unpruned(method, model) or disagreement(entry, expected, found)
        why = why or unread(method, model, build) or engine.unreadable(model)
    except Exception as error:  # a method's or PEFT's own complaint: its first line is the answer
        kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
        why = kind + first_line(error)
    if why:
        why = why.replace("methods.NAME.", f"methods.{entry.method}.")
        advice = (
            f"change --set methods.{entry.method}.KEY or leave it out" if dataclasses.fields(method) else "leave it out"
        )
        remedy = "" if "; " in why else f"; {advice}"
        raise UsageError(f"method {entry.name!r} can't attach to {name}: {why}{remedy}")
    return method, expected, model


def attached(method: Any, build: Build) -> Any:
    """The model with `method` attached: on the meta device, or with random values where the method needs values.

    Raises UsageError where what it freezes is drawn at random: nobody could load what it saves.
    """
    model = build("meta")
    before = {id(tensor): tensor._version for tensor in tensors(model).values()}
    try:
        found = method.attach(model, None)
        if all(before.get(id(tensor)) == tensor._version for tensor in frozen(found).values()):
            return found
    except UsageError:
        raise
    except Exception:  # perhaps for want of values; where not, the complaint comes again
        pass
    import torch

    digests = []
    for seed in (0, 1):
        model = build("cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found = method.attach(model, None)
        digests.append(adapters.digests(frozen(found)))
    if random := [name for name, digest in digests[0].items() if digest != digests[1].get(name)]:
        raise UsageError(
            f"it freezes {random[0]} at random numbers, which are others when its trained tensors are loaded; "
            "train it, or draw it from a generator with a seed of its own"
        )
    return found


def tensors(model: Any) -> dict[str, Any]:
    """Parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def frozen(model: Any) -> dict[str, Any]:
    """Parameters that are not trained, and buffers, by name."""
    return {name: tensor for name, tensor in tensors(model).items() if not tensor.requires_grad}


def disagreement(entry: Entry, expected: ParameterCounts, found: ParameterCounts) -> str:
    """In what the closed form and the attached method differ; empty where they agree."""
    if expected != found:
        names = ("total", "trainable", "frozen", "added", "tied", "tied_trainable")
        parts = [
            f"{name.replace('_', ' ')} {told:,} by expected_parameters, {real:,} attached"
            for name in names
            if (told := getattr(expected, name)) != (real := getattr(found, name))
        ]
        return f"its closed form is not what it attaches ({'; '.join(parts)}); mend {entry.shown}"
    if found.trainable == 0 and not entry.control:
        return "it leaves nothing to train"
    return ""


def unpruned(method: Any, model: Any) -> str:
    """Why a method needs more of the training loop than it asks for; empty where it doesn't."""
    for config in getattr(model, "peft_config", {}).values():
        if getattr(config.peft_type, "value", config.peft_type) == "ADALORA" and not hasattr(method, "after_step"):
            return (
                "AdaLoRA prunes after every optimizer step, and the method defines no after_step, so it would train as "
                "LoRA of its first rank; see methods/adalora.py"
            )
    return ""


def unread(method: Any, model: Any, build: Build) -> str:
    """Why a model can't read the virtual tokens that a method puts in front of its own; empty where it can.

    Keys and values are tried on a model with random values: no configuration tells what lies in a cache.
    """
    if not engine.virtual_tokens(model):
        return ""
    import torch

    takes = inspect.signature(model.get_base_model().forward).parameters
    kind = model.active_peft_config.peft_type.value.lower().replace("_", " ")
    keys = model.active_peft_config.peft_type.value in IN_CACHE
    if keys and "past_key_values" not in takes:
        return f"{kind} puts keys and values before the prompt's, and the model takes none; take the method soft-prompt"
    if not keys and "inputs_embeds" not in takes:
        return f"{kind} puts embeddings before the prompt's, and the model takes none; take the method lora"
    if not keys:
        width, found = (part.shape[-1] for part in (model.word_embeddings.weight, model.get_prompt(batch_size=1)))
        if width != found:
            return f"its virtual tokens are {found} wide, the input embedding {width}; set token_dim in its PEFT config"
        return ""
    tried = method.attach(build("cpu"), None).train()
    trained = [parameter for parameter in tried.parameters() if parameter.requires_grad]
    ids = torch.zeros(2, 3, dtype=torch.long)
    try:
        logits = engine.label_logits(tried, ids, torch.ones_like(ids, dtype=torch.bool))
        total = logits.square().sum()
        gradients = torch.autograd.grad(total, trained, allow_unused=True) if total.requires_grad else ()
    except Exception as error:  # the model's own complaint of a shape
        return f"the model can't read the keys and values of {kind} ({first_line(error)}); take the method soft-prompt"
    reached = any(gradient is not None and bool(gradient.any()) for gradient in gradients)
    return "" if reached else f"the model passes over the keys and values of {kind}; take the method soft-prompt"
