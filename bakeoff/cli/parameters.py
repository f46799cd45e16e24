"""`bakeoff parameters`: the counts of methods on an architecture, without weights."""

import argparse
import warnings
from typing import Any

from bakeoff.cli.options import choosing, command
from bakeoff.config.schema import Settings, TrainingSettings
from bakeoff.core.errors import UsageError


def add(commands: Any) -> None:
    """Adds `parameters`."""
    found = command(commands, "parameters", "count the parameters of methods on an architecture, without weights")
    choosing(found)
    found.add_argument("--memory", action="store_true", help="estimate the memory of training and writing, too")
    found.set_defaults(command=parameters, task="", seeds="")


def parameters(options: argparse.Namespace) -> str:
    """The parameter table of the selected methods, counted from the configuration alone."""
    from transformers.utils import logging

    from bakeoff.methods.parameters import shapes_of
    from bakeoff.methods.selection import configure, refuse_unread, select
    from bakeoff.models import blueprint, loading
    from bakeoff.models.safety import check_folder
    from bakeoff.runs.attaching import fitted
    from bakeoff.session.start import load_settings

    warnings.filterwarnings(
        "ignore", category=FutureWarning, module="transformers"
    )  # its own old names, in its own code
    logging.disable_progress_bar()
    chosen = load_settings(options)
    entries = select(options.method or ["all"], chosen)
    refuse_unread(chosen, entries)
    folder = loading.named_folder(chosen.model)
    if folder:
        check_folder(folder, chosen.model.name)
    base = blueprint.builder(chosen.model, folder, blueprint.vocabulary(chosen.model, folder))
    found, needed, tokens = {}, {}, set()
    for entry in (entry for entry in entries if not entry.control):
        method, recipe = configure(entry, chosen)
        _, found[entry.name], attached = fitted(entry, method, base, chosen.model.name)
        if options.memory:
            needed[entry.name] = estimated(chosen, recipe, attached, shapes_of(base("meta")))
            tokens.add(tokens_of(chosen, recipe))
    if not found:
        raise UsageError(f"--method {','.join(options.method)}: only controls, which train nothing; add --method lora")
    from bakeoff.report.figures import listing
    from bakeoff.report.table import memory_table, parameter_table

    text = f"{chosen.model.name}, preset {chosen.preset}\n\n{parameter_table(found)}"
    if not needed:
        return text
    said = listing([f"{count:,}" for count in sorted(tokens)])
    more = " After training, measure.forgetting loads the base model beside the trained one."
    taken = f"A micro-batch was taken to have {said} tokens.{more if chosen.measure.forgetting else ''}"
    return f"{text}\n\n{memory_table(needed)}\n\n{taken}"


def estimated(settings: Settings, recipe: TrainingSettings, attached: Any, shapes: Any) -> Any:
    """The memory of a run of `attached`: in bf16 unless the settings say fp32, every document as long as it may be."""
    from bakeoff.models import memory

    longest, tokens = longest_of(settings), tokens_of(settings, recipe)
    work = memory.Work(
        tokens=tokens, labels=tokens * settings.task.max_target_tokens // longest,
        rows=settings.generation.batch_size, capacity=longest,
    )  # fmt: skip
    return memory.estimate(
        attached, shapes, work, precision="fp32" if settings.machine.precision == "fp32" else "bf16",
        quantisation=settings.model.quantisation, again=settings.machine.checkpoint_activations,
        optimizer=recipe.optimizer,
    )  # fmt: skip


def longest_of(settings: Settings) -> int:
    """Tokens of the longest document with its summary."""
    return settings.task.max_input_tokens + settings.task.max_target_tokens


def tokens_of(settings: Settings, recipe: TrainingSettings) -> int:
    """Tokens of a micro-batch: those that the settings name, or of a row on a GPU, or of its documents."""
    from bakeoff.config import hardware

    longest = longest_of(settings)
    packed = settings.engine.packing and settings.machine.engine != "plain" and not settings.machine.sharded
    if packed and hardware.expects_card(settings.machine.device):
        most = settings.engine.micro_batch_tokens or hardware.ROW
        return max(longest, min(most, recipe.batch_size * longest))
    return settings.engine.micro_batch_tokens or min(recipe.micro_batch_size, recipe.batch_size) * longest
