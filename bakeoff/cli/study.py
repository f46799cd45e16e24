"""`bakeoff study`: an experiment of several bake-offs, from the folder `lab/studies/` of a clone."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from bakeoff.cli.options import command, executing
from bakeoff.config import project
from bakeoff.core.errors import UsageError, nearest

FOLDER = ("lab", "studies")
"""Where studies are in a project: a preset NAME.toml beside a module NAME.py, whose name has _ for each -."""


def add(commands: Any) -> None:
    """Adds `study`."""
    found = command(
        commands,
        "study",
        "make an experiment of several bake-offs: rank, soft-prompts, generalisation or scale",
        "Makes the runs of a study in lab/studies/, and writes reports/studies/NAME/report.md with plots and tests. "
        "Finished runs are kept and not repeated, so the same command goes on after Ctrl-C.",
    )
    found.add_argument("name", metavar="NAME", help="a study: the name of a preset in lab/studies/")
    found.add_argument("--preset", default="", metavar="FILE.toml", help="settings instead of lab/studies/NAME.toml")
    found.add_argument("--seeds", default="", metavar="42,43,44", help="instead of the preset's")
    found.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE",
                        help="change a setting, e.g. task.test=50; repeatable")  # fmt: skip
    found.add_argument("--fresh", action="store_true", help="make finished runs again")
    found.add_argument("--store", default="", metavar="FOLDER", help="finished runs; default .bakeoff beside bench/")
    found.add_argument("--report-dir", default="", metavar="FOLDER", help="the report; default reports/studies/NAME")
    executing(found)
    found.set_defaults(command=study, run_timeout=0.0, model="", task="", method=[])


def study(options: argparse.Namespace) -> tuple[str, int]:
    """The report of a study in short; 130 where it was stopped. Raises UsageError for a name that is no study."""
    folder = project.own(*FOLDER)
    known = studies(folder)
    if not known:
        raise UsageError(
            f"study {options.name}: there is no folder {'/'.join(FOLDER)} with a study in {project.root()}; studies "
            "are part of Bakeoff's repository and not of its package: type the command in a clone"
        )
    if options.name not in known:
        raise UsageError(
            f"study {options.name!r} is not known; {nearest(options.name, known)}; known: {', '.join(known)}"
        )
    options.preset = options.preset or str(folder / f"{options.name}.toml")
    options.store = options.store or str(project.own(".bakeoff"))
    if (root := str(project.root())) not in sys.path:  # the command `bakeoff` does not look for modules here
        sys.path.insert(0, root)
    running = importlib.import_module(".".join((*FOLDER, "running")))
    said: tuple[str, int] = running.main(options)
    return said


def studies(folder: Path) -> list[str]:
    """The names of the studies in a folder: each preset that has a module beside it."""
    return sorted(path.stem for path in folder.glob("*.toml") if (folder / f"{module(path.stem)}.py").is_file())


def module(name: str) -> str:
    """The name of a study's module."""
    return name.replace("-", "_")
