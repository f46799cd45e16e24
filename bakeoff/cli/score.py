"""`bakeoff score`: saved predictions, scored again."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from bakeoff.cli.options import command
from bakeoff.config import project
from bakeoff.config.presets import parse_change
from bakeoff.config.schema import ScoringSettings
from bakeoff.core.errors import UsageError, nearest, one_line
from bakeoff.core.validation import build


def add(commands: Any) -> None:
    """Adds `score`."""
    found = command(commands, "score", "score saved predictions again, without a model")
    found.add_argument(
        "run",
        metavar="RUN|FILE",
        help="a run's fingerprint or its first digits, its folder, or a .jsonl file with reference and summary",
    )
    found.add_argument("--store", default="", metavar="FOLDER", help="finished runs; default .bakeoff beside bench/")
    found.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="KEY=VALUE",
        help="scoring.tokenizer=unicode or scoring.references=mean; a run's own if not given",
    )
    found.add_argument("--metric", action="append", default=[], metavar="NAME|FILE.py",
                       help="a metric beside ROUGE and those of the default settings; repeatable")  # fmt: skip
    found.add_argument("--json", action="store_true", help="per-document scores as JSON")
    found.set_defaults(command=score)


def score(options: argparse.Namespace) -> str:
    """ROUGE and other metrics of saved predictions, computed anew."""
    from bakeoff.metrics.rouge import Scorer
    from bakeoff.report import means
    from bakeoff.scoring.api import LSUM, ROUGE
    from bakeoff.scoring.compute import beside
    from bakeoff.scoring.registry import named
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
    settings = scoring_of(path.parent, options.changes)
    scorer = Scorer(settings)
    words = dict.fromkeys([*settings.metrics, *options.metric])
    others = [named(word, settings, f"--metric {word}") for word in words]
    covered = scorer.coverage((one.id, one.references) for one in predictions)
    if covered.refusal:
        raise UsageError(f"score {options.run!r}: {covered.refusal}")
    ids, scores = scorer.score(predictions)
    found = beside(others, {"": [predictions]}, ids)
    notes = [*([covered.note] if covered.note else []), *found.failures]
    values = {name: list(rows[0]) for name, rows in found.values[""].items()}
    if options.json:
        signatures = {name: facts.signature for name, facts in found.facts.items()}
        return json.dumps({"signature": scorer.signature(), "signatures": signatures, "document_ids": ids,
                           "scores": {**scores, **values}, "notes": notes})  # fmt: skip
    documents = f"{len(ids)} document{'s' * (len(ids) != 1)}"
    several = f", {len(predictions)} summaries" if len(predictions) > len(ids) else ""
    table = means.render({**ROUGE, LSUM.name: LSUM, **found.facts}, {**scores, **values})
    said = [f"note: {one_line(note)}" for note in notes]
    return "\n".join([*said, f"{documents}{several}", table, scorer.signature()])


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
    from bakeoff.session.store import matching

    found = matching(name, store)
    if len(found) != 1:
        kind = "several runs" if found else "no file, no folder and no run in " + str(store)
        raise UsageError(
            f"score {name!r}: {kind}; give a run's fingerprint as reports/PRESET/results.json lists them, "
            "or a .jsonl file"
        )
    return found[0] / "predictions.jsonl"
