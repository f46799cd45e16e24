"""`bakeoff compare`: the gate's verdicts on two saved results."""

import argparse
from pathlib import Path
from typing import Any

from bakeoff.cli.options import command
from bakeoff.core.errors import UsageError


def add(commands: Any) -> None:
    """Adds `compare`."""
    found = command(
        commands,
        "compare",
        "the gate's verdicts on two results.json, without a model",
        "Says of each method in B whether it is worse than in A; exit code 1 where one is.",
    )
    found.add_argument("baseline", metavar="A.json", help="the accepted side")
    found.add_argument("measured", metavar="B.json", help="the side that must not be worse")
    found.add_argument("--strict", action="store_true", help="inconclusive is red, too")
    found.set_defaults(command=compare)


def compare(options: argparse.Namespace) -> tuple[str, int]:
    """Verdicts on B against A with A's tolerance and alpha; 1 where one of them is red."""
    from bakeoff.gate import saved

    accepted, measured = saved.read(Path(options.baseline)), saved.read(Path(options.measured))
    tasks = [side.settings.task.name for side in (accepted, measured)]
    if tasks[0] != tasks[1]:
        raise UsageError(f"compare: the tasks are {tasks[0]!r} and {tasks[1]!r}; give two files of one task")
    if not measured.record.methods and not measured.dead:
        raise UsageError(f"compare: {options.measured} has no trained method; give a file with one")
    found = saved.judged(measured, accepted, options.baseline)
    from bakeoff.report.gate import text

    red = [verdict for verdict in found.failures(options.strict) if verdict.word]
    return text(found), int(bool(red or found.refusals))
