"""`bakeoff parameters`: the counts of methods on an architecture, without weights."""

import argparse
import warnings
from typing import Any

from bakeoff.cli.options import choosing, command
from bakeoff.core.errors import UsageError


def add(commands: Any) -> None:
    """Adds `parameters`."""
    found = command(commands, "parameters", "count the parameters of methods on an architecture, without weights")
    choosing(found)
    found.set_defaults(command=parameters, task="", seeds="")


def parameters(options: argparse.Namespace) -> str:
    """The parameter table of the selected methods, counted from the configuration alone."""
    from transformers.utils import logging

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
    found = {}
    for entry in (entry for entry in entries if not entry.control):
        method, _ = configure(entry, chosen)
        _, found[entry.name], _ = fitted(entry, method, base, chosen.model.name)
    if not found:
        raise UsageError(f"--method {','.join(options.method)}: only controls, which train nothing; add --method lora")
    from bakeoff.report.table import parameter_table

    return f"{chosen.model.name}, preset {chosen.preset}\n\n{parameter_table(found)}"
