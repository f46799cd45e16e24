"""Text that is not the task's, on which a run measures what training made a model forget."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from bakeoff.config.schema import MeasureSettings
from bakeoff.core.errors import UsageError
from bakeoff.data.readers import expected, read_jsonl, reader
from bakeoff.data.sources import ACLSUM_SHA256, package_folder, verify

COLUMN = "text"


def load(settings: MeasureSettings) -> list[str]:
    """The first `settings.forgetting` texts; none where forgetting is not measured.

    Raises UsageError for a file that is not there, is no table with a column `text`, or has fewer texts.
    """
    if not settings.forgetting:
        return []
    found: list[str] = []
    for text in file_texts(settings.text) if settings.text else introductions():
        found.append(text)
        if len(found) == settings.forgetting:
            return found
    what = settings.text or "the embedded papers"
    raise UsageError(
        f"measure.forgetting = {settings.forgetting}: {what} holds {len(found)} texts; "
        f"type --set measure.forgetting={len(found)}"
    )


def sha256(texts: list[str]) -> str:
    """Of the texts in order; empty without any."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest() if texts else ""


def introductions() -> Iterator[str]:
    """Of the papers of ACLSum's test split: no method is trained on any part of them."""
    path = package_folder("aclsum", "the ACLSum papers") / "aclsum" / "dataset" / "test.jsonl"
    verify(path, ACLSUM_SHA256["test"])
    for _, paper in read_jsonl(path):
        yield " ".join(paper["sentences"]["introduction"])


def file_texts(name: str) -> Iterator[str]:
    """One's own: a table with a column `text`, or a .txt whose texts are parted by blank lines. Raises UsageError."""
    path = Path(os.path.expanduser(name))
    where = f"measure.text = {name!r}"
    if not path.is_file():
        raise UsageError(f"{where}: no such file")
    if path.suffix.lower() == ".txt":
        try:
            whole = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UsageError(f"{where}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
        yield from (part.strip() for part in whole.split("\n\n") if part.strip())
        return
    read = reader(path.name)
    if read is None:
        raise UsageError(f"{where}: expected a .txt file, {expected()}")
    for number, row in read(path):
        text = row.get(COLUMN)
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"{path}:{number}: {COLUMN!r} is missing or not a text; every row needs one")
        yield text.strip()
