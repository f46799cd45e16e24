"""The metrics that `scoring.metrics` and `--metric` name: those of Bakeoff, and classes in files of one's own."""

import dataclasses
import hashlib
import importlib.util
import inspect
import json
import os
import re
import sys
import tomllib
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bakeoff.config.presets import blame
from bakeoff.config.schema import ScoringSettings, Settings
from bakeoff.core.errors import UsageError, first_line, nearest
from bakeoff.core.validation import build, show
from bakeoff.metrics.rouge import SCORED, Scorer
from bakeoff.scoring.api import ROUGE, Facts
from bakeoff.scoring.text import COUNTED, Chrf, Words

FILES = {"bertscore": Path(__file__).with_name("bertscore.py")}
"""Metrics that ship as files, because each needs something that only the user has."""
NAMES = ("chrf", *COUNTED)
MEMBERS = ("name", "better", "range", "score", "signature")


def load(settings: Settings, asked: Sequence[str] = ()) -> list[Any]:
    """The metrics beside ROUGE, in their order, ready to score; `asked` are those that `--metric` added.

    Raises UsageError for what can't be used.
    """
    found: dict[str, Any] = {}
    for word in settings.scoring.metrics:
        where = f"--metric {word}" if word in asked else blame(settings, "scoring.metrics")
        metric = named(word, settings.scoring, where)
        if metric.name in found:
            raise UsageError(f"{where}: two metrics are called {metric.name!r}; drop one")
        found[metric.name] = metric
    judged(settings, found)
    return list(found.values())


def judged(settings: Settings, metrics: dict[str, Any]) -> None:
    """Raises UsageError where a metric of `scoring.verdicts` can't carry a verdict."""
    where = blame(settings, "scoring.verdicts")
    verdicts = settings.scoring.verdicts
    if not verdicts or len(set(verdicts)) < len(verdicts):
        raise UsageError(f"{where}: scoring.verdicts = {show(list(verdicts))}: expected one metric or more, each once; "
                         'type --set \'scoring.verdicts=["rougeL"]\'')  # fmt: skip
    for name in verdicts:
        if name in ROUGE:
            continue
        if name not in metrics:
            raise UsageError(f"{where}: {name!r} is no metric of this bake-off; {nearest(name, [*ROUGE, *metrics])}")
        known = facts(metrics[name])
        if not known.better or not known.share:
            raise UsageError(
                f"{where}: {name!r} can't carry a verdict, which needs values from 0 to 1 and a better direction; "
                f"known: {', '.join([*ROUGE, *(one for one in metrics if carries(metrics[one]))])}"
            )


def carries(metric: Any) -> bool:
    """Whether a metric can carry verdicts."""
    known = facts(metric)
    return bool(known.better) and known.share


def named(word: str, scoring: ScoringSettings, where: str) -> Any:
    """One metric: a name or a .py file, each with settings as `bertscore:model=FOLDER`. Raises UsageError."""
    name, *changes = re.split(r":(?=[A-Za-z_]\w*=)", word)
    if name in COUNTED or name == "chrf":
        if changes:
            raise UsageError(f"{where}: {word!r}: {name} has no settings; type {name} alone")
        if name == "chrf":
            return Chrf("mean" if scoring.references == "mean" else "best")
        return COUNTED[name](words_of(scoring), tokenizer_of(scoring))
    if name not in FILES and not name.endswith(".py"):
        hint = nearest(name, [*NAMES, *FILES])
        raise UsageError(f"{where}: {name!r} is no metric; {hint}; or give a .py file")
    kind = in_file(FILES.get(name, Path(name)), where)
    options = dict(parse(change, where) for change in changes)
    if options and not dataclasses.is_dataclass(kind):
        raise UsageError(f"{where}: {word!r}: {kind.__name__} has no settings; put @dataclass above it, or drop them")
    try:
        metric = build(kind, options, where, f"{name}:") if dataclasses.is_dataclass(kind) else kind()
        if hasattr(metric, "prepare"):
            metric.prepare()
    except UsageError:
        raise
    except Exception as error:  # the author's class: whatever it raises, its first line helps most
        raise UsageError(f"{where}: {name}: {type(error).__name__}: {first_line(error)}; mend {name}") from None
    return metric


@lru_cache(maxsize=4)
def words_of(scoring: ScoringSettings) -> Words:
    """The words of a text, as ROUGE compares them; a document is split once for all metrics and methods."""
    return lru_cache(maxsize=2**13)(Scorer(scoring).tokens)


def tokenizer_of(scoring: ScoringSettings) -> str:
    """The part of ROUGE's signature that says how words are split."""
    said = dict(part.partition(":")[::2] for part in Scorer(scoring).signature().split("|"))
    versions = [f"{name}:{said[name]}" for name in ("stemmer", "rouge-score", "nltk", "unicode") if name in said]
    return "|".join([said["tokenizer"], *versions])


def parse(change: str, where: str) -> tuple[str, Any]:
    """`key=value`, the value read as TOML, else as text."""
    key, _, raw = change.partition("=")
    try:
        return key, tomllib.loads(f"value = {raw}")["value"]
    except (ValueError, RecursionError):
        return key, raw


def in_file(path: Path, where: str) -> type:
    """The one metric of a Python file. Raises UsageError."""
    if not os.path.isfile(path):
        raise UsageError(f"{where}: {path}: no such file; give a .py file with a metric")
    name = f"bakeoff_metric_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # its name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise UsageError(f"{where}: {path}{line}: {type(error).__name__}: {first_line(error)}") from None
    kinds = [kind for kind in vars(module).values()
             if isinstance(kind, type) and kind.__module__ == name and hasattr(kind, "score")]  # fmt: skip
    if len(kinds) != 1:
        raise UsageError(
            f"{where}: {path}: expected one class with score(predictions, references, documents), found {len(kinds)}"
        )
    contract(kinds[0], f"{where}: {path}: class {kinds[0].__name__}")
    return kinds[0]


def contract(kind: type, where: str) -> None:
    """Raises UsageError where a class is not what the report calls."""
    if missing := [name for name in MEMBERS if not hasattr(kind, name)]:
        raise UsageError(f"{where}: {missing[0]} is missing; a metric has {', '.join(MEMBERS)}")
    name, better, bounds = (getattr(kind, key) for key in ("name", "better", "range"))
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise UsageError(f"{where}: name = {show(name)}: expected letters, digits, - and _")
    if name in SCORED:
        raise UsageError(f"{where}: name = {name!r} is ROUGE's; rename it")
    if better not in ("higher", "lower", ""):
        raise UsageError(f"{where}: better = {show(better)}: expected 'higher', 'lower', or '' for neither")
    numbers = isinstance(bounds, tuple) and len(bounds) == 2 and all(type(one) in (int, float) for one in bounds)
    if not numbers or not bounds[0] < bounds[1]:
        raise UsageError(f"{where}: range = {show(bounds)}: expected two numbers, as (0.0, 1.0)")
    taken = list(inspect.signature(kind.score).parameters)  # type: ignore[attr-defined]
    if len(taken) != 4:
        raise UsageError(f"{where}: score takes {', '.join(taken)}; expected self, predictions, references, documents")


def facts(metric: Any, signature: str = "") -> Facts:
    """What the report knows of a metric."""
    low, high = metric.range
    return Facts(
        name=metric.name,
        label=str(getattr(metric, "label", metric.name)),
        better=metric.better,
        range=(float(low), float(high)),
        signature=signature,
        binary=bool(getattr(metric, "binary", False)),
    )


def identity(metric: Any) -> str:
    """Digest of what decides a metric's values beside the texts: its file, its settings, how words are split."""
    parts = {
        "name": metric.name,
        "source": Path(inspect.getfile(type(metric))).read_text(encoding="utf-8"),
        "settings": repr(metric) if dataclasses.is_dataclass(metric) else "",
        "setting": [str(getattr(metric, name, "")) for name in ("tokenizer", "several", "identity")],
        "versions": [f"{name} {version(name)}" for name in ("sacrebleu", "rouge-score", "nltk", "transformers")],
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def add(settings: Settings, words: Sequence[str]) -> Settings:
    """`settings` with the metrics of `--metric` behind its own, each once."""
    if not words:
        return settings
    every = tuple(dict.fromkeys((*settings.scoring.metrics, *words)))
    return dataclasses.replace(settings, scoring=dataclasses.replace(settings.scoring, metrics=every))
