"""What a tuning tries: values of settings for each method, from `--grid` or around the method's own learning rate."""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bakeoff.config.presets import parse_change
from bakeoff.config.schema import Settings, plain
from bakeoff.core.errors import UsageError, nearest
from bakeoff.core.validation import show
from bakeoff.methods.registry import TRAINING_KEYS, Entry
from bakeoff.methods.selection import configure
from bakeoff.report.tuning.record import numeric

Axes = dict[str, list[Any]]
"""The values to try, by setting of one method; numbers by size."""
FACTORS = (1 / 9, 1 / 3, 1, 3, 9)
"""What is tried of a method's own learning rate where no grid is given."""
EXAMPLE = "for example --grid learning_rate=1e-4,3e-4,1e-3"


def read(texts: Sequence[str], entries: Sequence[Entry], settings: Settings) -> dict[str, Axes]:
    """The axes of each method from the texts of `--grid`. Raises UsageError.

    `KEY=V1,V2` is tried with every method, `methods.NAME.KEY=V1,V2` with that method alone, and it wins over the other.
    """
    found: dict[str, Axes] = {entry.name: {} for entry in entries}
    given = [parts(text, entries) for text in texts]
    for number, (names, key, _) in enumerate(given):
        if any(key == other and names == theirs for theirs, other, _ in given[:number]):
            raise UsageError(f"--grid {texts[number]}: {key!r} stands there twice; put all its values into one --grid")
    for names, key, values in sorted(given, key=lambda one: -len(one[0])):  # the narrower later, so that it wins
        for entry in entries:
            if entry.name in names:
                found[entry.name][key] = checked(entry, key, values, settings)
    for entry in entries:
        if not texts:
            found[entry.name] = usual(entry, settings)
        elif not found[entry.name]:
            raise UsageError(
                f"--grid: method {entry.name!r} has nothing to try; leave it out, or add a setting of its own or of "
                f"all, {EXAMPLE}"
            )
    return found


def parts(text: str, entries: Sequence[Entry]) -> tuple[tuple[str, ...], str, list[Any]]:
    """The methods that a `--grid` names, its setting, and the values as they were typed. Raises UsageError."""
    for name in {name for entry in entries for name in (entry.name, entry.method)}:
        if text.startswith(prefix := f"methods.{name}."):
            key, values = split(text, text.removeprefix(prefix))
            return tuple(entry.name for entry in entries if name in (entry.name, entry.method)), key, values
    key, values = split(text, text)
    key = key.removeprefix("training.")
    if key in TRAINING_KEYS:
        return tuple(entry.name for entry in entries), key, values
    if key.startswith("methods."):
        known = [f"methods.{entry.name}" for entry in entries]
        name = key.rpartition(".")[0]
        raise UsageError(f"--grid {key}: no selected method reads it; {nearest(name, known)}; or add it to --method")
    owners = [entry.name for entry in entries if key in {f.name for f in dataclasses.fields(entry.kind)}]
    hint = f"type --grid methods.{owners[0]}.{key}=..." if owners else nearest(key, TRAINING_KEYS)
    raise UsageError(f"--grid {key}: not a training setting; {hint}")


def split(text: str, rest: str) -> tuple[str, list[Any]]:
    """Key and values of `KEY=V1,V2`, the values read as TOML, else as texts. Raises UsageError."""
    key, equals, raw = rest.partition("=")
    if not equals or not key.strip() or not raw.strip():
        raise UsageError(f"--grid {text!r}: expected KEY=VALUE,VALUE, {EXAMPLE}")
    try:
        [values] = tomllib.loads(f"values = [{raw}]").values()
    except (ValueError, RecursionError):
        values = [parse_change(f"value={part}")[1] for part in raw.split(",")]
    return key.strip(), values


def changed(entry: Entry, settings: Settings, values: Mapping[str, Any]) -> Settings:
    """`settings` in which one method has other values, as `--set methods.NAME.KEY=VALUE` would give it."""
    typed = {f"methods.{entry.name}.{key}": value for key, value in values.items()}
    return dataclasses.replace(settings, changes=MappingProxyType({**settings.changes, **typed}))


def checked(entry: Entry, key: str, values: Sequence[Any], settings: Settings) -> list[Any]:
    """The values as the method's setting takes them, each once, numbers by size. Raises UsageError."""
    found: list[Any] = []
    for value in values:
        try:
            method, recipe = configure(entry, changed(entry, settings, {key: value}))
        except UsageError as error:
            raise UsageError(str(error).replace("--set", "--grid", 1)) from None
        taken = plain(getattr(recipe if key in TRAINING_KEYS else method, key))
        if taken in found:
            raise UsageError(f"--grid {key}: {show(value)} stands there twice; remove one")
        found.append(taken)
    return sorted(found) if all(map(numeric, found)) else found


def usual(entry: Entry, settings: Settings) -> Axes:
    """Learning rates around the method's own. Raises UsageError where that is 0."""
    _, recipe = configure(entry, settings)
    rate = recipe.learning_rate
    if rate <= 0:
        raise UsageError(
            f"--method {entry.name}: its learning_rate is {rate:g}, so there are no values around it; leave the method "
            f"out, or type --grid methods.{entry.name}.learning_rate=1e-4,1e-3"
        )
    around = [rate if factor == 1 else tidy(rate * factor) for factor in FACTORS]
    return {"learning_rate": checked(entry, "learning_rate", around, settings)}


def tidy(value: float) -> float:
    """A number with three significant digits."""
    return float(f"{value:.3g}")
