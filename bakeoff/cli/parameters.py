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
    found, needed = {}, {}
    for entry in (entry for entry in entries if not entry.control):
        method, recipe = configure(entry, chosen)
        _, found[entry.name], attached = fitted(entry, method, base, chosen.model.name)
        needed[entry.name] = estimated(chosen, recipe, attached, shapes_of(base("meta"))) if options.memory else None
    if not found:
        raise UsageError(f"--method {','.join(options.method)}: only controls, which train nothing; add --method lora")
    from bakeoff.report.table import memory_table, parameter_table

    text = f"{chosen.model.name}, preset {chosen.preset}\n\n{parameter_table(found)}"
    estimates = {name: memory for name, memory in needed.items() if memory}
    return f"{text}\n\n{memory_table(estimates)}" if estimates else text


def estimated(settings: Settings, recipe: TrainingSettings, attached: Any, shapes: Any) -> Any:
    """The memory of a run of `attached`: in bf16 unless the settings say fp32, every document as long as it may be.

    A micro-batch has the tokens that the settings name, or those of its documents.
    """
    from bakeoff.models import memory

    longest = settings.task.max_input_tokens + settings.task.max_target_tokens
    tokens = settings.engine.micro_batch_tokens or min(recipe.micro_batch_size, recipe.batch_size) * longest
    work = memory.Work(
        tokens=tokens, labels=tokens * settings.task.max_target_tokens // longest,
        rows=settings.generation.batch_size, capacity=longest,
    )  # fmt: skip
    return memory.estimate(
        attached, shapes, work, precision="fp32" if settings.machine.precision == "fp32" else "bf16",
        quantisation=settings.model.quantisation, again=settings.machine.checkpoint_activations,
        optimizer=recipe.optimizer,
    )  # fmt: skip
