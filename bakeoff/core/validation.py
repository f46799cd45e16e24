"""Values against the types and ranges of a dataclass, and the line of a file to blame when they don't fit."""

import dataclasses
import json
import math
import os
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bakeoff.core.errors import UsageError, nearest


def build(kind: type, values: Mapping[str, Any], where: str, prefix: str = "") -> Any:
    """An instance of the dataclass `kind` from `values`, every key known, every value of its type and range.

    `where` and `prefix` say where the values stand. Raises UsageError with the nearest valid key.
    """
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    hints = typing.get_type_hints(kind)
    checked = {}
    for key, value in values.items():
        name = prefix + key
        if key not in fields:
            raise UsageError(f"{at(where, name)}: {name!r} is not a setting; {nearest(key, fields)}")
        checked[key] = check(value, hints[key], fields[key].metadata, f"{at(where, name)}: {name}")
    try:
        return kind(**checked)
    except (ValueError, TypeError) as error:  # a method's own __post_init__
        raise UsageError(f"{where}: {prefix.rstrip('.')}: {(str(error).splitlines() or ['refused'])[0]}") from None


def at(where: str, key: str) -> str:
    """`where`, with the line that sets the dotted `key` (or the table around it) when `where` is a TOML file."""
    path = Path(where)
    if path.suffix != ".toml" or not os.path.isfile(path):
        return where
    table, best, found = "", "", 0
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        header = re.match(r"\s*\[+([^\[\]]+)\]+\s*(#.*)?$", line)
        pair = re.match(r"\s*([\w\s\"'.-]+?)\s*=", line)
        if not header and not pair:
            continue
        name = re.sub(r"[\s\"']", "", (header or pair)[1])  # type: ignore[index]
        if header:
            table = name
        elif table:
            name = f"{table}.{name}"
        if f"{key}.".startswith(f"{name}.") and len(name) > len(best):
            best, found = name, number
    return f"{where}:{found}" if best else where


def check(value: Any, hint: Any, limits: Mapping[str, Any], name: str) -> Any:
    """`value` as `hint` wants it, or a UsageError that says what was expected."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    wrong = f"{name} = {show(value)}: expected"
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return one_of(value, parts, limits, name)
    if origin is typing.Literal:
        if value not in parts or isinstance(value, bool):
            raise UsageError(f"{wrong} one of {', '.join(map(str, parts))}")
        return value
    if origin in (tuple, list):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise UsageError(f"{wrong} a list")
        return origin(check(item, parts[0], limits, name) for item in value)
    if origin in (Mapping, dict) or hint is dict:
        if not isinstance(value, Mapping):
            raise UsageError(f"{wrong} a table")
        return types.MappingProxyType(dict(value))
    return scalar(value, hint, limits, name)


def one_of(value: Any, hints: Sequence[Any], limits: Mapping[str, Any], name: str) -> Any:
    """`value` as the first of several types that takes it. Raises UsageError."""
    for hint in hints:
        try:
            return check(value, hint, limits, name)
        except UsageError:
            continue
    expected = " or ".join(words(hint) for hint in hints if hint is not type(None))
    raise UsageError(f"{name} = {show(value)}: expected {expected}")


def scalar(value: Any, hint: Any, limits: Mapping[str, Any], name: str) -> Any:
    """A number, text or truth value of the type `hint`, within its limits. Raises UsageError."""
    wrong = f"{name} = {show(value)}: expected"
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UsageError(f"{name}: expected a number of at most 64 bits")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UsageError(f"{wrong} {words(hint)}")
    choices, low, high, above = (limits.get(k) for k in ("choices", "minimum", "maximum", "above"))
    if choices and value not in choices:
        raise UsageError(f"{wrong} one of {', '.join(choices)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{wrong} a finite number")
    if low is not None and value < low:
        raise UsageError(f"{wrong} at least {low}")
    if above is not None and value <= above:
        raise UsageError(f"{wrong} more than {above}")
    if high is not None and value > high:
        raise UsageError(f"{wrong} at most {high}")
    return value


def words(hint: Any) -> str:
    """A type as a user calls it."""
    known = {int: "a whole number", float: "a number", str: "a text in quotes", bool: "true or false"}
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(json.dumps(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) in (tuple, list):
        return "a list"
    return known.get(hint) or str(getattr(hint, "__name__", hint))


def show(value: Any) -> str:
    """A value for a message, on one line and not too long."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print whole numbers of more than 4,300 digits
        return "a very long number"
    return text if len(text) <= 80 else f"{text[:77]}..."


def strict_json(text: str | bytes) -> Any:
    """JSON whose objects hold each key once and whose numbers are numbers. Raises ValueError, RecursionError."""
    return json.loads(text, object_pairs_hook=once, parse_constant=refuse_constant)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys stand there once; equal keys of all objects are one text. Raises ValueError."""
    row = {sys.intern(key): value for key, value in pairs}
    if len(row) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {show(twice)} stands there twice")
    return row


def refuse_constant(name: str) -> float:
    """Raises ValueError: NaN and Infinity are no JSON."""
    raise ValueError(f"{name} is not a number")


def misfit(value: Any, hint: Any, name: str) -> str:
    """Which part of a JSON `value` is not of the type `hint`, called `name` and what is below it; empty if all fits."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        found = [misfit(value, part, name) for part in parts]
        return "" if "" in found else found[0]
    if origin is dict and isinstance(value, dict):
        return next(filter(None, (misfit(item, parts[1], f"{name}.{key}") for key, item in value.items())), "")
    if origin is list and isinstance(value, list):
        return next(filter(None, (misfit(item, parts[0], f"{name}[{n}]") for n, item in enumerate(value))), "")
    if typing.is_typeddict(hint):
        known = typing.get_type_hints(hint)
        if not isinstance(value, dict):
            return name
        return next(
            filter(None, (misfit(value[key], known[key], f"{name}.{key}") for key in value if key in known)), ""
        )
    if hint is Any or (hint is types.NoneType and value is None):
        return ""
    kinds = (int, float) if hint is float else hint
    fits = origin is None and isinstance(value, kinds) and isinstance(value, bool) == (hint is bool)
    return "" if fits and (not isinstance(value, float) or math.isfinite(value)) else name
