"""Hashes of a model's files, computed once a store: a base model of 14 GB takes a minute to read."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from bakeoff.core.files import write_whole

KEPT = "hashes.json"
"""The file in a store's folder of models."""
FRESH = 2.0
"""Seconds. A file that was written so shortly before it was hashed is hashed again next time: some file systems
would give a second change the same time."""


def sha256_of(path: Path) -> str:
    """Of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered(path: Path, cache: Path | None) -> str:
    """Of the file's bytes, as kept in `cache` while its size, its time of change and its inode are what they were."""
    if cache is None:
        return sha256_of(path)
    name, before = str(path.resolve()), state(path)
    if (kept := known(cache).get(name)) and kept.get("state") == before and isinstance(kept.get("sha256"), str):
        return str(kept["sha256"])
    found = sha256_of(path)
    if state(path) == before and time.time() - before[1] / 1e9 > FRESH:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{KEPT}.lock"):
            both = {**known(cache), name: {"state": before, "sha256": found}}
            write_whole(cache / KEPT, (json.dumps(both, indent=1) + "\n").encode())
    return found


def state(path: Path) -> list[int]:
    """What changes when a file is written or replaced: bytes, nanoseconds, inode."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def known(cache: Path) -> dict[str, Any]:
    """What is kept, by path; nothing where the file is not what `remembered` writes."""
    try:
        found = json.loads((cache / KEPT).read_text(encoding="utf-8"))
        return {str(name): dict(entry) for name, entry in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
