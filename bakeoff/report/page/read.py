"""Results of earlier bake-offs, from files, folders and histories, checked as far as the page reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bakeoff.core.errors import UsageError, first_line
from bakeoff.core.validation import strict_json
from bakeoff.gate.baseline import Reader, parse
from bakeoff.report.page import details
from bakeoff.report.page.result import shown

REMEDY = "give a results.json that pytest bench/ wrote, a folder with such files, or a history (.jsonl)"
RESULTS = "results.json"
TEXTS = ("preset", "model", "task")


@dataclass(frozen=True)
class Found:
    """One result, and where it was found."""

    path: Path
    name: str
    """What the page calls it, different from the others."""
    content: dict[str, Any]
    """What results.json, or a line of a history, holds."""
    shown: dict[str, Any]
    """The page's data of it."""


def results(places: Sequence[Path]) -> list[Found]:
    """The results in `places`, in that order; those of a folder or a history by the time at which they were finished.

    In a folder of reports, results of something else than a bake-off (a study, a measurement of speed) are passed over.
    Raises UsageError, naming file and key, for what is no result.
    """
    found: list[tuple[Path, str, dict[str, Any]]] = []
    for place in places:
        searched = place.is_dir() and not (place / RESULTS).is_file()
        inside = [one for path in files(place) for one in contents(path) if not searched or bake_off(one[2])]
        if not inside:
            raise UsageError(f"{place}: no result is there; {REMEDY}")
        if len(inside) > 1 and all(content.get("finished") for _, _, content in inside):
            inside.sort(key=lambda one: one[2]["finished"])
        found += inside
    made: list[Found] = []
    for path, name, content in found:
        same = sum(other == name for _, other, _ in found[: len(made)])
        unique = f"{name} ({same + 1})" if same else name
        made.append(Found(path, unique, content, checked(path, content, unique)))
    return made


def files(place: Path) -> list[Path]:
    """The files of a place that may hold results: itself, a report's own, or those in a folder of reports."""
    if not place.is_dir():
        return [place]
    if (place / RESULTS).is_file():
        return [place / RESULTS]
    own = [path for path in sorted(place.glob("*.json")) if path.name != details.NAME]
    return own + sorted(place.glob(f"*/{RESULTS}")) + sorted(place.glob("*.jsonl"))


def bake_off(content: dict[str, Any]) -> bool:
    """Whether it looks like a bake-off's: other commands leave a results.json, too, in a folder of reports."""
    return all(isinstance(content.get(key), str) for key in TEXTS) and isinstance(content.get("methods"), dict)


def contents(path: Path) -> list[tuple[Path, str, dict[str, Any]]]:
    """Path, name and content of each result in a file. Raises UsageError."""
    if path.suffix == ".jsonl":
        return [(path, named(path, one), one) for one in history(path)]
    try:
        value = Reader(path, REMEDY).table(parse(path, REMEDY), "the file")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; {REMEDY}") from None
    return [(path, named(path, value), value)]


def named(path: Path, content: dict[str, Any]) -> str:
    """The file's name, or for the usual name its folder's; of a history the time at which the bake-off finished."""
    if path.suffix == ".jsonl":
        return str(content.get("finished") or content.get("preset"))[:16].replace("T", " ")
    return path.resolve().parent.name if path.name == RESULTS else path.stem


def history(path: Path) -> list[dict[str, Any]]:
    """The lines of a history without those that a killed process left unfinished. Raises UsageError."""
    try:
        lines = path.read_bytes().decode(errors="replace").split("\n")
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from None
    found = []
    for line in lines:
        try:
            found.append(Reader(path, REMEDY).table(strict_json(line), "a line"))
        except (ValueError, RecursionError):
            continue
    return found


def checked(path: Path, content: dict[str, Any], name: str) -> dict[str, Any]:
    """The page's data of one result. Raises UsageError, naming the file, where it is not one."""
    reader = Reader(path, REMEDY)
    for key in TEXTS:
        reader.text(content.get(key), key)
    reader.table(content.get("methods"), "methods")
    try:
        beside = read_details(path.with_name(details.NAME)) if path.name == RESULTS else None
        if beside and beside.get("gate"):  # results.json holds what was measured, and no verdict
            content["gate"] = reader.table(beside["gate"], "gate")
        return shown(content, beside, name)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(
            f"{path}: not as a bake-off leaves it ({type(error).__name__}: {first_line(error)[:100]}); {REMEDY}"
        ) from None


def read_details(path: Path) -> dict[str, Any] | None:
    """The details beside a result; None where there are none. Raises UsageError."""
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = strict_json(path.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: can't be read: {first_line(error)[:200]}; delete it, or make the report again"
        ) from None
