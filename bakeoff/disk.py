"""Files that are there completely or not at all, and their checksums."""

import hashlib
import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Writes `content` beside `path`, brings it to the disk, and renames it into place."""
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_bytes(content)
        arrive(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)  # on a full disk half a file would keep the next from being written
        raise


def arrive(aside: Path, path: Path) -> None:
    """Brings the finished file `aside` to the disk and gives it its name."""
    flush(aside)
    os.replace(aside, path)
    flush(path.parent)


def digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Makes sure that a file, or a folder's list of names, has reached the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
