"""`bakeoff card`: the model card of a finished run."""

import argparse
from pathlib import Path
from typing import Any

from bakeoff.cli.options import command
from bakeoff.config import project
from bakeoff.core.errors import UsageError


def add(commands: Any) -> None:
    """Adds `card`."""
    found = command(
        commands,
        "card",
        "write the model card of a finished run beside its adapter",
        "Writes README.md with the run's scores and settings into the adapter's folder, which "
        "PeftModel.from_pretrained loads and a hub takes as it is.",
    )
    found.add_argument("run", metavar="RUN", help="a run's fingerprint or its first digits, or its folder")
    found.add_argument(
        "--output", default="", metavar="FOLDER", help="a new folder: a copy of the adapter, and the card"
    )
    found.add_argument("--store", default="", metavar="FOLDER", help="finished runs; default .bakeoff beside bench/")
    found.set_defaults(command=card)


def card(options: argparse.Namespace) -> str:
    """Where the card is."""
    from bakeoff.sharing import card, stored

    run = stored.find("card", options.run, Path(options.store or project.own(".bakeoff")))
    try:
        return f"written: {card.write(run, Path(options.output) if options.output else None)}"
    except OSError as error:
        raise UsageError(f"card: {error.filename}: can't be written: {error.strerror}; type --output FOLDER") from None
