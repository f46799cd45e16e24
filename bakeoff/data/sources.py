"""Rows of documents with a summary each, from a package, a file or a hub; each says where it stands."""

import hashlib
import importlib.util
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bakeoff.config.schema import TaskSettings
from bakeoff.core.errors import UsageError, nearest
from bakeoff.data.readers import expected, read_jsonl, reader

SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation", "valid": "validation",
               "val": "validation", "dev": "validation", "test": "test"}  # fmt: skip
ASPECTS = ("challenge", "approach", "outcome")
HUB = {  # short name: hub id, configuration, document column, summary column
    "cnn_dailymail": ("abisee/cnn_dailymail", "3.0.0", "article", "highlights"),
    "xsum": ("EdinburghNLP/xsum", "", "document", "summary"),
    "samsum": ("knkarthick/samsum", "", "dialogue", "summary"),
}
ACLSUM_SHA256 = {
    "train": "be8ee16765e0691745875e7e380382eaa5eb426d7c1bbe70270809729534e3eb",
    "val": "354ca637395a8597388f1751c288cb38a4697f7d7783722c1727135d3934ee60",
    "test": "491ee57a8bb2bc65af4c7c1cfe5a114dc140b093fc24c242a21785ea4ed9786f",
}


class Row(NamedTuple):
    """A document with one summary."""

    split: str
    id: str
    """Empty: none is given."""
    document: str
    summary: str
    place: str
    """Where it stands, for messages."""
    made_id: str
    """Of the document if none is given."""
    aspect: str = ""
    """What the summary is about, where a task has several."""
    sentences: tuple[str, ...] = ()
    """The document's, where the source marks them."""


class Source(NamedTuple):
    """Where documents come from."""

    rows: Iterator[Row]
    file: bool
    """Whether it is the user's own, so that what is wrong with it can be mended; else it is mended here and counted."""
    undivided: bool
    """Whether it has no splits, so that they must be drawn."""


def source(settings: TaskSettings, counts: Counter[str]) -> Source:
    """The source that `settings.name` names; `counts` takes what is dropped while it is read. Raises UsageError."""
    name = settings.name
    path = Path(os.path.expanduser(name))
    if is_aclsum(name):
        return Source(aclsum_rows(name), False, False)
    if name in HUB:
        return Source(hub_rows(name, settings, counts), False, False)
    if reader(name):
        return Source(file_rows(path, settings), True, not settings.split_column)
    if name and os.path.lexists(path):
        kind = "a folder" if os.path.isdir(path) else "a file of another kind"
        raise UsageError(f"--task {name}: this is {kind}; expected {expected()}")
    if "/" in name and not name.startswith((".", "/", "~")):
        return Source(hub_rows(name, settings, counts), False, False)
    known = [f"aclsum/{aspect}" for aspect in (*ASPECTS, "all")] + list(HUB)
    raise UsageError(f"--task {name!r} is not known; {nearest(name, known)}; or give {expected()}")


def is_aclsum(name: str) -> bool:
    """Whether `name` means the papers, or a slip of it."""
    return name == "aclsum" or (name.startswith("aclsum/") and not reader(name))


def remote(name: str) -> bool:
    """Whether documents of this name come over a network."""
    there = os.path.lexists(os.path.expanduser(name))
    return name in HUB or ("/" in name and not is_aclsum(name) and not reader(name) and not there)


def aclsum_rows(name: str) -> Iterator[Row]:
    """Abstracts of ACLSum (NAACL 2024) with their one-sentence summaries, from the PyPI package `aclsum`."""
    aspect = name.removeprefix("aclsum").removeprefix("/")
    if aspect not in (*ASPECTS, "all"):
        raise UsageError(f"--task {name!r} is not known; {nearest(name, [f'aclsum/{a}' for a in (*ASPECTS, 'all')])}")
    folder = package_folder("aclsum", "the ACLSum papers") / "aclsum" / "dataset"
    for stem, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        verify(folder / f"{stem}.jsonl", ACLSUM_SHA256[stem])
        for _, paper in read_jsonl(folder / f"{stem}.jsonl"):
            sentences = tuple(paper["sentences"]["abstract"])
            for one in ASPECTS if aspect == "all" else (aspect,):
                place, text = f"{stem}.jsonl {paper['id']}", " ".join(sentences)
                yield Row(split, paper["id"], text, paper["summary"][one], place, "", one.capitalize(), sentences)


def verify(path: Path, sha256: str) -> None:
    """Raises UsageError where an installed asset is not, byte for byte, what the project was measured with."""
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
    if found != sha256:
        raise UsageError(
            f"{path}: its sha256 is {found}, expected {sha256}; "
            "type python -m bakeoff assets --install --force-reinstall"
        )


def package_folder(package: str, what: str) -> Path:
    """The site folder in which `package` is installed, found without importing it. Raises UsageError."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UsageError(f"{what} are not installed; type python -m bakeoff assets --install")
    return Path(next(iter(found.submodule_search_locations))).parent


def file_rows(path: Path, settings: TaskSettings) -> Iterator[Row]:
    """Rows of one's own file. Raises UsageError with the row's number."""
    read = reader(path.name)
    if read is None or not os.path.isfile(path):
        raise UsageError(f"--task {path}: {'this is a folder' if os.path.isdir(path) else 'no such file'}")
    if path.stat().st_size == 0:
        raise UsageError(f"--task {path}: the file is empty")
    columns = Columns(settings, "document", "summary")
    number = 0
    for number, row in read(path):
        place = f"{path}:{number}"
        split, column = "train", settings.split_column
        for name in (*columns.needed, *([column] if column else [])):
            if name not in row:
                raise UsageError(
                    f"{place}: no column {name!r} (there: {', '.join(map(str, row)) or 'none'}); "
                    f"name it with --set task.{columns.setting(name)}=NAME"
                )
        document, references = columns.content(row, place)
        empty = [name for name, texts in zip(columns.needed[:1] + columns.needed[-1:], ([document], references),
                 strict=True) if not all(text.strip() for text in texts)]  # fmt: skip
        if empty:
            raise UsageError(f"{place}: {empty[0]!r} is empty or not a text; every row needs one")
        if column:
            split = SPLIT_NAMES.get(str(row[column]).lower(), "")
            if not split:
                raise UsageError(f"{place}: split {row[column]!r}: expected train, validation or test")
        for reference in references:
            yield Row(split, columns.id(row, place), document.strip(), reference.strip(), place, f"row-{number}")
    if not number:
        raise UsageError(f"--task {path}: the file has no rows")


def hub_rows(name: str, settings: TaskSettings, counts: Counter[str]) -> Iterator[Row]:
    """Rows of a hub data set; the only place where documents come over a network."""
    hub_id, subset, document, summary = HUB.get(name, (name, "", "", ""))
    columns = Columns(settings, document, summary)
    if not all(columns.needed):
        raise UsageError(
            f"--task {name}: name its columns with --set task.document_column=NAME --set task.summary_column=NAME"
        )
    import datasets

    try:
        data = datasets.load_dataset(hub_id, settings.subset or subset or None)
    except Exception as error:  # datasets raises a dozen kinds; all mean that there is nothing to read
        raise UsageError(
            f"--task {name}: {hub_id} can't be loaded from the hub ({type(error).__name__}); "
            "check the name and the network, or give a file"
        ) from None
    for label, part in data.items():
        split = SPLIT_NAMES.get(str(label).lower(), "")
        missing = [column for column in columns.needed if column not in part.column_names]
        if missing:
            raise UsageError(f"--task {name}: no column {missing[0]!r} (there: {', '.join(part.column_names)})")
        if not split:
            counts["rows"] += len(part)
            counts["other_splits"] += len(part)
            continue
        for number, row in enumerate(part):
            place = f"--task {name}: {label} row {number}"
            text, references = columns.content(row, place)
            kept = [reference.strip() for reference in references if reference.strip()] if text.strip() else []
            if not kept:
                counts["rows"] += 1
                counts["empty"] += 1
            for reference in kept:
                yield Row(split, columns.id(row, place), text.strip(), reference, place, f"{split}-{number}")


class Columns:
    """Where the document, its references and its id stand in a record."""

    def __init__(self, settings: TaskSettings, document: str, summary: str) -> None:
        """`document` and `summary` are the columns where the settings name none."""
        self.names = {
            "document_column": settings.document_column or document,
            "summary_column": settings.summary_column or summary,
        }
        if settings.messages_column:
            self.names = {"messages_column": settings.messages_column}
        self.needed = list(self.names.values())
        self.named = settings.id_column

    def setting(self, column: str) -> str:
        """The setting that names `column`."""
        return next((setting for setting, name in self.names.items() if name == column), "split_column")

    def content(self, row: dict[str, Any], place: str) -> tuple[str, list[str]]:
        """Document and references of a record, which may be empty. Raises UsageError for what is no text."""
        if "messages_column" in self.names:
            [column] = self.needed
            try:
                document, summary = chat(row[column])
            except ValueError as error:
                raise UsageError(f"{place}: {column!r}: {error}") from None
            references = [summary]
        else:
            document, found = (row[column] for column in self.needed)
            references = found if isinstance(found, list) and found else [found]
        for column, texts in zip((self.needed[0], self.needed[-1]), ([document], references), strict=True):
            if not all(isinstance(text, str) for text in texts):
                raise UsageError(f"{place}: {column!r} is empty or not a text; every row needs one")
            if not all(map(encodable, texts)):
                raise UsageError(f"{place}: {column!r} holds half a character (a lone surrogate); remove it")
        return document, references

    def id(self, row: dict[str, Any], place: str) -> str:
        """The document's id, empty where the record has none. Raises UsageError for one that is no text or number."""
        given = row.get(self.named) if self.named else None
        if isinstance(given, (dict, list)) or not encodable(str(given)):
            raise UsageError(
                f"{place}: {self.named!r} is no text and no number; type --set task.id_column= to have ids made"
            )
        return "" if given is None else str(given).strip()


def chat(turns: Any) -> tuple[str, str]:
    """Document and summary of a chat: what stands before the last turn of the assistant, and this. Raises ValueError.

    Turns stand apart by an empty line; where the assistant speaks among them, each after its role.
    """
    if isinstance(turns, str):  # a cell of a CSV file
        try:
            turns = json.loads(turns)
        except (ValueError, RecursionError):
            turns = None
    if isinstance(turns, dict) and all(isinstance(values, list) for values in turns.values()):
        turns = [dict(zip(turns, values, strict=False)) for values in zip(*turns.values(), strict=False)]
    if not isinstance(turns, list) or not all(
        isinstance(one, dict) and {"role", "content"} <= set(one) for one in turns
    ):
        raise ValueError("expected a list of turns with role and content")
    said = [(str(one["role"]), spoken(one["content"])) for one in turns]
    last = max((place for place, (role, _) in enumerate(said) if role == "assistant"), default=-1)
    before = [(role, text) for role, text in said[:last] if text.strip()]
    if last < 0 or not before:
        raise ValueError("expected a turn of the assistant with a text before it")
    several = any(role == "assistant" for role, _ in before)
    return "\n\n".join(f"{role}: {text}" if several else text for role, text in before), said[last][1]


def spoken(content: Any) -> str:
    """The text of a turn, whose content is a text or a list of parts with a text each. Raises ValueError."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(parts):
            return "".join(texts)
    if content is None or isinstance(content, str):
        return content or ""
    raise ValueError("a turn's content is no text")


def encodable(text: str) -> bool:
    """Whether `text` can be written as UTF-8; JSON lets half of a surrogate pair in."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
