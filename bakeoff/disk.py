"""Files that are there completely or not at all, and their checksums."""

import errno
import hashlib
import mmap
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PART = 2**23
"""Bytes of a file that are summed one after another; several processors sum several parts at once."""
CHUNK = 2 * PART
"""Bytes that are written at a time past the system's cache."""
SECTOR = 4096
"""What such a write is a multiple of."""


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


def write_past_cache(path: Path, pieces: Iterable[bytes | memoryview]) -> str:
    """Writes `pieces` one after another as a new file that is on the disk afterwards; returns its `parts_digest`.

    Gigabytes that nobody will read soon go past the system's cache of files, where Linux has a way: new pages for them
    can take several times as long as the disk. Elsewhere, and where a file system has no such way, as ever. Raises
    OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    direct = getattr(os, "O_DIRECT", 0)
    try:
        file = os.open(path, flags | direct, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        file = os.open(path, flags, 0o666)
    sums: list[bytes] = []
    total = 0
    try:
        room = memoryview(mmap.mmap(-1, CHUNK))  # at the start of a page, as such writes want it
        with ThreadPoolExecutor(CHUNK // PART) as beside:
            for size in filled(room, pieces):
                summed = beside.map(sha256, [room[at : min(at + PART, size)] for at in range(0, size, PART)])
                put(file, room[: -(-size // SECTOR) * SECTOR])
                sums += summed
                total += size
        os.ftruncate(file, total)
        os.fsync(file)
    finally:
        os.close(file)
    return sha256(b"".join(sums)).hex()


def filled(room: memoryview, pieces: Iterable[bytes | memoryview]) -> Iterator[int]:
    """How much of `room` holds the next bytes of `pieces`: all of it, but for the last time."""
    size = 0
    for piece in pieces:
        rest = memoryview(piece).cast("B")
        while rest:
            part = rest[: len(room) - size]
            room[size : size + len(part)] = part
            size, rest = size + len(part), rest[len(part) :]
            if size == len(room):
                yield size
                size = 0
    if size:
        yield size


def put(file: int, data: memoryview) -> None:
    """Writes all of `data`; by the system's cache from here on where the file system takes nothing past it."""
    while data:
        try:
            data = data[os.write(file, data) :]
        except OSError as error:
            direct = getattr(os, "O_DIRECT", 0)
            if error.errno != errno.EINVAL or not direct:
                raise
            import fcntl

            flags = fcntl.fcntl(file, fcntl.F_GETFL)
            if not flags & direct:
                raise
            fcntl.fcntl(file, fcntl.F_SETFL, flags & ~direct)


def digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parts_digest(path: Path) -> str:
    """sha256 of the sha256s of a file's parts."""

    def part(at: int) -> bytes:
        with path.open("rb") as file:
            file.seek(at)
            return sha256(file.read(PART))

    with ThreadPoolExecutor(2) as beside:
        return sha256(b"".join(beside.map(part, range(0, path.stat().st_size, PART)))).hex()


def sha256(data: bytes | memoryview) -> bytes:
    """Of some bytes; other threads go on meanwhile."""
    return hashlib.sha256(data).digest()


def flush(path: Path) -> None:
    """Makes sure that a file, or a folder's list of names, has reached the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
