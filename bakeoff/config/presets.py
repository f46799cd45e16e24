"""Presets and command line become frozen, checked settings here and nowhere else."""

import dataclasses
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bakeoff.config import project
from bakeoff.config.schema import SECTIONS, Settings
from bakeoff.core.errors import UsageError, nearest
from bakeoff.core.validation import at, build, check, show


def blame(settings: "Settings", key: str) -> str:
    """Where `key` got its value, for messages: `--set`, or the preset's file and line."""
    return f"--set {key}" if key in settings.changes else at(settings.source, key)


def preset_path(name: str) -> Path:
    """The file of a preset, by name or by path. Raises UsageError when there is none."""
    if name.endswith(".toml"):
        path = Path(name)
        if not os.path.isfile(path):
            raise UsageError(
                f"--preset {name}: no such file; give a name ({', '.join(preset_names())}) or a .toml file"
            )
        if not path.stem.strip("."):  # it would name the report's folder
            raise UsageError(f"--preset {name}: the file needs a name before .toml")
        return path
    found = project.find("bench", "presets", f"{name}.toml") if name in preset_names() else None
    if found is None:
        raise UsageError(f"--preset {name!r} is not known; {nearest(name, preset_names())}")
    return found


def preset_names() -> list[str]:
    """The project's presets and those that ship."""
    return sorted({path.stem for folder in project.places("bench", "presets") for path in folder.glob("*.toml")})


def find_beside(settings: Settings, *parts: str) -> Path | None:
    """A file that says something of one preset: the project's, else the one that ships if the preset ships, too.

    What ships was measured under the presets that ship; it is not held against the project's preset of the same name.
    """
    mine = project.own(*parts)
    preset = settings.source or project.find("bench", "presets", f"{settings.preset}.toml")
    if mine.is_file() or not preset or not project.ships(preset):
        return mine if mine.is_file() else None
    return project.find(*parts)


def load(preset: str, *, model: str = "", task: str = "", seeds: str = "", changes: Sequence[str] = ()) -> Settings:
    """Settings of `preset`, changed by the command line; every value is checked here.

    `changes` are `key=value` texts with TOML values (a bare word counts as text). Raises UsageError.
    """
    path = preset_path(preset)
    where = str(path)
    values = read_toml(path)
    methods = values.pop("methods", {})
    if not isinstance(methods, dict) or not all(isinstance(table, dict) for table in methods.values()):
        raise UsageError(f"{at(where, 'methods')}: expected [methods.NAME] tables under 'methods'")
    for name, kind in SECTIONS.items():
        for key in set(section(values, name, where)) - {f.name for f in dataclasses.fields(kind)}:
            if home := home_of(key):
                raise UsageError(f"{at(where, f'{name}.{key}')}: {key!r} is a setting of [{home}]; put it there")
    if section(values, "model", where).get("trust_remote_code") is True:
        raise UsageError(
            f"{at(where, 'model.trust_remote_code')}: no file can allow that a model runs code of its own; "
            "take it out and type --trust-remote-code"
        )
    changed = dict(parse_change(text) for text in changes)
    if model:
        values["model"] = command_line_model(values.get("model", {}), model)
    if task:
        values["task"] = {**values.get("task", {}), "name": task, "prompt": "", "instruction": ""}
    if seeds:
        values["seeds"] = parse_seeds(seeds)
    for key, value in changed.items():
        apply(values, key, value, where)
    top = {key: value for key, value in values.items() if key not in SECTIONS}
    for reserved in ("changes", "source", "preset"):
        if reserved in top:
            raise UsageError(f"{at(where, reserved)}: {reserved!r} can't be set in a preset")
    sections = {name: build(kind, section(values, name, where), where, f"{name}.") for name, kind in SECTIONS.items()}
    settings = build(Settings, top, where)
    settings = dataclasses.replace(settings, **sections, preset=path.stem, source=where,
                                   methods=freeze(methods), changes=types.MappingProxyType(changed))  # fmt: skip
    contradictions(settings)
    return settings


def command_line_model(preset: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The model table when `--model` replaces the preset's: what described the old model goes with it."""
    if preset.get("name") == name:
        return dict(preset)
    return {"name": name}


def section(values: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """The table `[name]` of a preset, empty where it is missing."""
    table = values.get(name, {})
    if not isinstance(table, Mapping):
        raise UsageError(f"{at(where, name)}: {name} = {table!r}: expected a table [{name}]")
    return table


def freeze(methods: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """A read-only copy of the `[methods.*]` tables."""
    return types.MappingProxyType({name: types.MappingProxyType(dict(table)) for name, table in methods.items()})


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises UsageError with file and line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # beside syntax: a number of thousands of digits, tables too deep
        raise UsageError(f"{path}: not valid TOML: {str(error).splitlines()[0]}") from None
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from None


def parse_change(text: str) -> tuple[str, Any]:
    """`key=value` of `--set`, the value read as TOML, else as text."""
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UsageError(f"--set {text!r}: expected key=value, for example --set training.learning_rate=1e-3")
    try:
        [value] = tomllib.loads(f"value = {raw.strip()}").values()
        return key, value
    except (ValueError, RecursionError):
        return key, raw.strip()


def parse_seeds(text: str) -> list[int]:
    """`42,43` as numbers, each once. Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d{1,9}", part) for part in parts):
        raise UsageError(f"--seeds {text!r}: expected whole numbers from 0 on, for example --seeds 42,43,44")
    seeds = [int(part) for part in parts]
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds {text!r}: a seed stands there twice")
    return seeds


def apply(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Writes a `--set` into the preset's tables; `methods.*` waits until the methods are known."""
    head, _, rest = key.partition(".")
    if head == "methods" and rest.count(".") == 1:
        return
    if key in ("seeds", "description"):
        values[key] = check(value, typing.get_type_hints(Settings)[key], {}, f"--set {key}")
        return
    if head not in SECTIONS or not rest:
        known = [f"{name}.{f.name}" for name, kind in SECTIONS.items() for f in dataclasses.fields(kind)]
        raise UsageError(
            f"--set {key}: not a setting; {nearest(key, [*known, 'seeds', 'description', 'methods.NAME.KEY'])}"
        )
    name, _, deeper = rest.partition(".")
    fields = {f.name: f for f in dataclasses.fields(SECTIONS[head])}
    hint = typing.get_type_hints(SECTIONS[head]).get(name)
    if hint is None and (home := home_of(name)):
        raise UsageError(f"--set {key}: {name!r} is a setting of [{home}]; type --set {home}.{name}=...")
    if hint is None or (deeper and typing.get_origin(hint) is not Mapping):
        raise UsageError(f"--set {key}: {rest!r} is not a setting of [{head}]; {nearest(rest, fields)}")
    table = dict(values.get(head, {}))
    if deeper:
        before = check(table.get(name, {}), hint, {}, f"{at(where, f'{head}.{name}')}: {head}.{name}")
        value = {**before, deeper: value}
    table[name] = check(value, hint, fields[name].metadata, f"--set {key}")
    values[head] = table


def home_of(name: str) -> str:
    """The section that has a setting called `name`; empty where none has."""
    return next(
        (section for section, kind in SECTIONS.items() if name in {f.name for f in dataclasses.fields(kind)}), ""
    )


def contradictions(settings: Settings) -> None:
    """Settings that are valid alone and not together."""
    if not settings.seeds:
        raise UsageError(f"{blame(settings, 'seeds')}: seeds is empty; give at least one, for example seeds = [42]")
    if any(not 0 <= seed < 2**32 for seed in settings.seeds) or len(set(settings.seeds)) < len(settings.seeds):
        raise UsageError(
            f"{blame(settings, 'seeds')}: seeds = {show(list(settings.seeds))}: "
            f"expected different whole numbers from 0 to {2**32 - 1}"
        )
    training, task = settings.training, settings.task
    if training.micro_batch_size > training.batch_size:
        raise UsageError(
            f"{blame(settings, 'training.micro_batch_size')}: training.micro_batch_size = {training.micro_batch_size} "
            f"is above training.batch_size = {training.batch_size}; "
            f"type --set training.micro_batch_size={training.batch_size}"
        )
    if task.prompt and task.prompt.count("{document}") != 1:
        raise UsageError(f"{blame(settings, 'task.prompt')}: task.prompt must hold {{document}} exactly once")
    if task.instruction and task.instruction.count("{document}") != 1:
        raise UsageError(f"{blame(settings, 'task.instruction')}: task.instruction must hold {{document}} exactly once")
    for key in ("prompt", "instruction"):
        if escape := re.search(r"\\[nrt]", getattr(task, key)):
            quoted = getattr(task, key).replace('"', '\\"')
            raise UsageError(
                f"{blame(settings, f'task.{key}')}: task.{key} holds {escape[0]} as two characters, not as one; put "
                f"the value in double quotes: --set 'task.{key}=\"{quoted}\"'"
            )
    added = settings.model.special_tokens
    if len(set(added)) < len(added) or any(not token for token in added):
        raise UsageError(
            f"{blame(settings, 'model.special_tokens')}: model.special_tokens must be different and not empty"
        )
    if settings.model.name == "random" and not settings.model.architecture:
        raise UsageError(
            f"{settings.source}: model.name = 'random' needs a table [model.architecture] with a model_type"
        )
