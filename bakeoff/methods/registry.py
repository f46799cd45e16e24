"""Methods and controls by name, loaded from their files."""

import dataclasses
import hashlib
import importlib.util
import os
import re
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bakeoff.config import project
from bakeoff.config.schema import TrainingSettings
from bakeoff.core.errors import UsageError, first_line, nearest
from bakeoff.core.validation import show

ALL, EVERY = "all", "every"
"""What `--method` calls the methods that are compared by default, and all that there are."""
TRAINING_KEYS = tuple(f.name for f in dataclasses.fields(TrainingSettings))


@dataclass(frozen=True)
class Entry:
    """A row of a comparison: a method class with the file that it came from."""

    name: str
    kind: type
    file: Path
    base: str = ""
    """The method whose class this is, where the row has another name."""
    tables: tuple[str, ...] = ()
    """The names of the tables `[methods.NAME]` that the row has beside the method's."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Settings that the row's name gives, as `lora:rank=8`."""

    @property
    def method(self) -> str:
        """What the class calls itself."""
        return self.base or self.name

    @property
    def control(self) -> bool:
        """Whether it trains nothing and rides along."""
        return bool(getattr(self.kind, "control", False))

    @property
    def by_default(self) -> bool:
        """Whether `all` includes it."""
        return bool(getattr(self.kind, "by_default", True))

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of groups that include it."""
        own = tuple(getattr(self.kind, "groups", ()))
        return () if self.control else (*([ALL] if self.by_default else []), EVERY, *own)

    @property
    def needs_model(self) -> bool:
        """Whether it attaches to a model; a control that only picks sentences doesn't."""
        return hasattr(self.kind, "attach")

    @property
    def shown(self) -> str:
        """Its file with the folder around it, for a message."""
        return f"{self.file.parent.name}/{self.file.name}"

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


def find(file: Path, name: str) -> Entry:
    """The method called `name` in a file that holds it."""
    return next(entry for entry in load_file(file) if entry.name == name)


def contract(kind: type, path: Path) -> None:
    """Raises UsageError where a class is not what the harness calls."""
    where = f"--method {path}: class {kind.__name__}"
    name = kind.name  # type: ignore[attr-defined]
    groups = getattr(kind, "groups", ())
    if not isinstance(groups, tuple) or not all(isinstance(group, str) for group in groups):
        raise UsageError(f"{where}: groups = {show(groups)}: expected a tuple of names, as ('peft',)")
    for what, word in (("name", name), *(("group", group) for group in groups)):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", word) or word in (ALL, EVERY):
            raise UsageError(
                f"{where}: {what} = {word!r}: expected letters, digits, - and _, and neither {ALL} nor {EVERY}"
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
    fields = {f.name for f in dataclasses.fields(kind)}
    if "base" in fields:
        raise UsageError(f"{where}: 'base' makes a row of a preset of a method; give the hyperparameter another name")
    clash = fields & set(TRAINING_KEYS)
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
