"""What commands share: how one is added, and the options that choose methods and their settings."""

import argparse
from typing import Any, NoReturn

from bakeoff.core.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse, with its complaints as UsageErrors: one line, exit code 4."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(f"{message}; type {self.prog} --help")


def command(commands: Any, name: str, line: str, description: str = "") -> argparse.ArgumentParser:
    """A new command; `line` is its help in the list of all, and its description if there is no longer one."""
    found: argparse.ArgumentParser = commands.add_parser(
        name, help=line, description=description or f"{line[0].upper()}{line[1:]}."
    )
    return found


def choosing(command: argparse.ArgumentParser) -> None:
    """Adds the options that choose methods and their settings, as a bake-off has them."""
    add = command.add_argument
    add("--preset", default="quick", metavar="NAME|FILE.toml", help="named settings; default quick")
    add("--model", default="", metavar="NAME|HUB-ID|FOLDER|FILE.gguf", help="instead of the preset's")
    add(
        "--method", action="append", default=[], metavar="NAME|FILE.py|GROUP",
        help="with commas or repeated; NAME:KEY=VALUE is one row; groups: all (default), peft, every, reference",
    )  # fmt: skip
    add("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE",
        help="change a setting, e.g. methods.lora.rank=8; repeatable")  # fmt: skip
    add("--trust-remote-code", action="store_true", help="let a hub model run Python code of its own")


def several(text: str) -> int:
    """A number of something."""
    if not text.isdecimal() or not 0 < len(text) < 6 or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 on")
    return int(text)


def executing(command: argparse.ArgumentParser) -> None:
    """Adds the options that say where runs are made, as a bake-off has them."""
    add = command.add_argument
    add("--executor", default="local", metavar="NAME", help="where runs are made: local (default), ray, "
        "ray://HOST:PORT or slurm")  # fmt: skip
    add("--parallel", type=several, default=0, metavar="N", help="runs at a time; default: one on each visible GPU, "
        "one on a CPU, where N share its processors")  # fmt: skip
