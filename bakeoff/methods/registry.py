"""Methods and controls by name, loaded from their files, with the hyperparameters that settings give them."""

import dataclasses
import hashlib
import importlib.util
import os
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bakeoff.config import project
from bakeoff.config.schema import Settings, TrainingSettings, plain
from bakeoff.core.errors import UsageError, first_line, nearest
from bakeoff.core.validation import at, build, show

GROUPS = {"reference": ("last-layer", "lora", "soft-prompt")}
TRAINING_KEYS = tuple(f.name for f in dataclasses.fields(TrainingSettings))


@dataclass(frozen=True)
class Entry:
    """A method class with the file that it came from."""

    name: str
    kind: type
    file: Path

    @property
    def control(self) -> bool:
        """Whether it trains nothing and rides along."""
        return bool(getattr(self.kind, "control", False))

    @property
    def by_default(self) -> bool:
        """Whether `all` includes it."""
        return bool(getattr(self.kind, "by_default", True))

    @property
    def needs_model(self) -> bool:
        """Whether it attaches to a model; a control that only picks sentences doesn't."""
        return hasattr(self.kind, "attach")

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest()


def load_file(path: Path) -> list[Entry]:
    """The methods in one Python file: its dataclasses with a `name` and `attach` or `summarise`. Raises UsageError."""
    if not os.path.isfile(path):
        raise UsageError(f"--method {path}: no such file")
    key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]
    module_name = f"bakeoff_method_{path.stem}_{key}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--method {path}: expected a Python file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the author's file: whatever it raises, its first line helps most
        line = getattr(error, "lineno", None) or _line_in(error, path)
        raise UsageError(f"--method {path}:{line}: {type(error).__name__}: {first_line(error)}") from None
    kinds: dict[str, type] = {}
    for kind in vars(module).values():
        if (
            not isinstance(kind, type)
            or kind.__module__ != module_name
            or not isinstance(getattr(kind, "name", None), str)
        ):
            continue
        contract(kind, path)
        name = kind.name  # type: ignore[attr-defined]
        twin = kinds.setdefault(name, kind)
        if twin is not kind:
            raise UsageError(
                f"--method {path}: {twin.__name__} and {kind.__name__} have one name, {name!r}; rename one"
            )
    if not kinds:
        raise UsageError(
            f"--method {path}: holds no method; expected a dataclass with `name` and `attach`; "
            "give a file of helpers in methods/ a name that begins with _"
        )
    return [Entry(name, kind, path.resolve()) for name, kind in kinds.items()]


def contract(kind: type, path: Path) -> None:
    """Raises UsageError where a class is not what the harness calls."""
    where = f"--method {path}: class {kind.__name__}"
    name = kind.name  # type: ignore[attr-defined]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name in (*GROUPS, "all"):
        raise UsageError(
            f"{where}: name = {name!r}: expected letters, digits, - and _, and not {', '.join(GROUPS)} or all"
        )
    if not dataclasses.is_dataclass(kind):
        raise UsageError(
            f"{where}: expected a dataclass, its fields are its hyperparameters; put @dataclass(frozen=True) above it"
        )
    try:
        typing.get_type_hints(kind)
        kind()
    except Exception as error:
        raise UsageError(f"{where}: {first_line(error)}; every field needs a type and a default") from None
    if not hasattr(kind, "attach") and not hasattr(kind, "summarise"):
        raise UsageError(f"{where}: expected attach(model, tokenizer), or summarise(examples) for a control")
    if hasattr(kind, "attach") and not hasattr(kind, "expected_parameters"):
        raise UsageError(f"{where}: expected expected_parameters(shapes) beside attach")
    training = getattr(kind, "training", {})
    if not isinstance(training, Mapping):
        raise UsageError(f"{where}: training = {show(training)}: expected a table of training settings")
    unknown = [key for key in training if key not in TRAINING_KEYS]
    if unknown:
        raise UsageError(f"{where}: training[{unknown[0]!r}] is not a setting; {nearest(unknown[0], TRAINING_KEYS)}")
    clash = {f.name for f in dataclasses.fields(kind)} & set(TRAINING_KEYS)
    if clash:
        raise UsageError(
            f"{where}: {clash.pop()!r} names a training setting; put it in the class's `training` table instead"
        )


def _line_in(error: BaseException, path: Path) -> int:
    """The last line of `path` in the error's traceback, 1 where it never ran."""
    line, step = 1, error.__traceback__
    while step:
        if step.tb_frame.f_code.co_filename == str(path):
            line = step.tb_lineno
        step = step.tb_next
    return line


def known_methods() -> dict[str, Entry]:
    """Every method and control by name: those that ship, then the project's, which replace those of the same name.

    Each in the order of the files in methods/; a file whose name begins with _ holds none. Raises UsageError.
    """
    return {name: entry for folder in reversed(project.places("methods")) for name, entry in in_folder(folder).items()}


def in_folder(folder: Path) -> dict[str, Entry]:
    """The methods of a folder's files, by name. Raises UsageError for two of one name."""
    found: dict[str, Entry] = {}
    for entry in (one for path in sorted(folder.glob("[!_]*.py")) for one in load_file(path)):
        twin = found.setdefault(entry.name, entry)
        if twin is not entry:
            raise UsageError(f"{entry.file}: {twin.file} has a method named {entry.name!r}, too; rename one")
    return found


def select(asked: Sequence[str]) -> list[Entry]:
    """What `--method` names (a name, a group, a file, several with commas), each once, then all controls.

    Raises UsageError for an unknown name, with the nearest, and for two methods of one name.
    """
    known = known_methods()
    chosen: dict[str, Entry] = {}
    for word in (part.strip() for text in asked for part in text.split(",")):
        if word == "all":
            found = [entry for entry in known.values() if not entry.control and entry.by_default]
        elif word in GROUPS:
            found = [known[name] for name in GROUPS[word]]
        elif word.endswith(".py"):
            found = load_file(Path(word))
        elif word in known:
            found = [known[word]]
        else:
            raise UsageError(
                f"--method {word!r} is not known; {nearest(word, [*known, *GROUPS, 'all'])}; or give a .py file"
            )
        for entry in found:
            twin = chosen.get(entry.name) or known.get(entry.name)
            if twin is not None and twin.file.resolve() != entry.file:
                raise UsageError(
                    f"--method {entry.file}: the name {entry.name!r} is taken by {twin.file}; rename the class's `name`"
                )
            chosen[entry.name] = entry
    controls = {entry.name: entry for entry in known.values() if entry.control}
    return [
        *(entry for entry in chosen.values() if not entry.control),
        *{**controls, **{n: e for n, e in chosen.items() if e.control}}.values(),
    ]


def configure(entry: Entry, settings: Settings) -> tuple[Any, TrainingSettings]:
    """The method with its hyperparameters, and its training recipe.

    Later wins: [training], the method's own `training`, [methods.NAME], --set training.*, --set methods.NAME.*.
    Raises UsageError for keys and values that the method doesn't have.
    """
    own = {f.name for f in dataclasses.fields(entry.kind)}
    known = own if entry.control else own | set(TRAINING_KEYS)
    prefix = f"methods.{entry.name}."
    table = settings.methods.get(entry.name, {})
    typed = {key.removeprefix(prefix): value for key, value in settings.changes.items() if key.startswith(prefix)}
    for values, where in ((table, settings.source), (typed, "--set")):
        for key in values:
            if key not in known:
                place = f"--set {prefix}{key}" if values is typed else at(where, prefix + key)
                raise UsageError(f"{place}: {key!r} is not a setting of method {entry.name!r}; {nearest(key, known)}")
    everyone = {
        key.removeprefix("training."): value for key, value in settings.changes.items() if key.startswith("training.")
    }
    defaults = getattr(entry.kind, "training", {})
    recipe = settings.training
    for source, values, start in (
        (str(entry.file), defaults, "training."),
        (settings.source, table, prefix),
        ("--set", everyone, "training."),
        ("--set", typed, prefix),
    ):
        training = {k: v for k, v in values.items() if k in TRAINING_KEYS}
        checked = build(TrainingSettings, training, source, start)
        recipe = dataclasses.replace(recipe, **{key: getattr(checked, key) for key in training})
    hyperparameters = {k: v for k, v in table.items() if k in own}
    method = build(entry.kind, hyperparameters, settings.source, prefix)
    if own_typed := {k: v for k, v in typed.items() if k in own}:
        method = build(entry.kind, {**hyperparameters, **own_typed}, "--set", prefix)
    if recipe.micro_batch_size > recipe.batch_size:
        raise UsageError(
            f"method {entry.name!r}: micro_batch_size = {recipe.micro_batch_size} is above "
            f"batch_size = {recipe.batch_size}; type --set training.micro_batch_size={recipe.batch_size}"
        )
    return method, recipe


def refuse_unread(settings: Settings, entries: Sequence[Entry]) -> None:
    """Raises UsageError for a `--set` that no selected method reads, and for a `[methods.NAME]` that nobody is."""
    selected = {entry.name for entry in entries}
    known = selected | set(known_methods())
    for name in settings.methods:
        if name not in known:
            raise UsageError(
                f"{at(settings.source, 'methods.' + name)}: [methods.{name}] is no method; {nearest(name, known)}"
            )
    for key in settings.changes:
        head, _, rest = key.partition(".")
        name = rest.rpartition(".")[0]
        if head == "methods" and name not in selected:
            hint = f"add --method {name}" if name in known else nearest(name, known)
            raise UsageError(f"--set {key}: no selected method reads it; {hint}")
        if head == "training" and all(entry.control for entry in entries):
            raise UsageError(f"--set {key}: only controls are selected and they train nothing; add --method lora")


def plain_hyperparameters(method: Any) -> Mapping[str, Any]:
    """The hyperparameters of a configured method as JSON holds them."""
    return plain(method)
