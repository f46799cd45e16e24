"""The commands that need no pytest, one file a command, as tune, export or merge"""

import argparse
import os
import sys

import bakeoff
from bakeoff.cli import card, compare, export, history, merge, page, parameters, score, start, study, tune
from bakeoff.cli.options import Parser
from bakeoff.config import project
from bakeoff.core.errors import UsageError, lacking

COMMANDS = (start, parameters, tune, study, score, compare, page, export, history, merge, card)
"""In the order of --help; each adds itself by `add`."""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns 0, 1 where `compare` turns red, 130 where `tune` was stopped, or 4 with one line on
    stderr for what can be mended."""
    try:
        project.use(project.around())
        options = parser().parse_args(arguments)
        said, code = options.command(options), 0
        if isinstance(said, tuple):
            said, code = said
        print(said)
        return code
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    except ModuleNotFoundError as error:
        print(f"error: {lacking(error)}", file=sys.stderr)
        return 4
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


DESCRIPTION = """\
Bakeoff compares fine-tuning methods. Bake-offs are run by pytest: pytest bench/ --preset smoke --method all.
These commands need no pytest; python -m bakeoff is the same as bakeoff."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = Parser(prog="bakeoff", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="version", version=f"bakeoff {bakeoff.__version__}")
    commands = top.add_subparsers(required=True, metavar="command")
    for module in COMMANDS:
        module.add(commands)
    return top
