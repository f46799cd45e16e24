"""`bakeoff tune`: settings of methods, tried on the validation split."""

import argparse
from typing import Any

from bakeoff.cli.options import choosing, command, executing, several
from bakeoff.config import project


def add(commands: Any) -> None:
    """Adds `tune`."""
    found = command(
        commands,
        "tune",
        "try learning rates or other settings on the validation split",
        "Trains each method with each value, and says which has the lowest validation loss of any epoch. Finished "
        "trials are kept in reports/tune/ and not repeated.",
    )
    choosing(found)
    found.add_argument("--task", default="", metavar="NAME|FILE", help="documents instead of the preset's")
    found.add_argument("--seeds", default="", metavar="42,43", help="a trial's loss is the mean over these seeds")
    found.add_argument("--grid", action="append", default=[], metavar="KEY=VALUE,VALUE",
                        help="values of a training setting, or of methods.NAME.KEY; several make every combination; "
                        "default: learning rates around each method's own")  # fmt: skip
    found.add_argument("--trials", type=several, default=0, metavar="N",
                        help="let Optuna choose N settings of each method within the grid")  # fmt: skip
    found.add_argument("--fresh", action="store_true", help="make finished trials again")
    found.add_argument("--store", default="", metavar="FOLDER", help="finished runs; default .bakeoff beside bench/")
    executing(found)
    found.set_defaults(command=tune, run_timeout=0.0)


def tune(options: argparse.Namespace) -> tuple[str, int]:
    """The trials of a tuning, and what they advise; 130 where it was stopped."""
    from bakeoff.session.tuning import tune

    options.store = options.store or str(project.own(".bakeoff"))
    return tune(options)
