"""Files that are there completely or not at all, and their checksums."""

import errno
import mmap
import os
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

from xxhash import xxh3_128

CHUNK = 2**22
"""Bytes that are written at a time past the system's cache, and that are read at a time for a checksum."""
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
    """Writes `pieces` one after another as a new file that is on the disk afterwards; returns its `checksum`.

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
    summed = xxh3_128()
    total = 0
    try:
        with ThreadPoolExecutor(1) as beside:
            writing: Future[None] | None = None
            for part in filled(pieces):
                summed.update(part)
                total += len(part)
                if writing:
                    writing.result()
                writing = beside.submit(put, file, memoryview(part.obj)[: -(-len(part) // SECTOR) * SECTOR])
            if writing:
                writing.result()
        os.ftruncate(file, total)
        os.fsync(file)
    finally:
        os.close(file)
    return summed.hexdigest()


def filled(pieces: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    """The bytes of `pieces`, CHUNK at a time, at the start of a page, as such writes want it.

    What was yielded holds until the next but one is asked for.
    """
    rooms = cycle([memoryview(mmap.mmap(-1, CHUNK)) for _ in range(2)])
    room, size = next(rooms), 0
    for piece in pieces:
        rest = memoryview(piece).cast("B")
        while rest:
            part = rest[: len(room) - size]
            room[size : size + len(part)] = part
            size, rest = size + len(part), rest[len(part) :]
            if size == len(room):
                yield room
                room, size = next(rooms), 0
    if size:
        yield room[:size]


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


def checksum(path: Path) -> str:
    """XXH3 of a file, 128 bits: it notices every accident, at the speed of memory. Not for what somebody may forge."""
    summed, room = xxh3_128(), memoryview(bytearray(CHUNK))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(room):
            summed.update(room[:size])
    return summed.hexdigest()


def flush(path: Path) -> None:
    """Makes sure that a file, or a folder's list of names, has reached the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Writes `content`, at once or piece by piece, under a temporary name beside `path`, then renames it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # containers that share a folder share numbers
    try:
        with temporary.open("wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
