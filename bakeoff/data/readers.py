"""Rows of a file of JSON, JSON Lines, CSV, TSV or Parquet, plain or gzipped; a complaint names the row."""

import codecs
import contextlib
import csv
import gzip
import itertools
import json
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from bakeoff.core.errors import UsageError
from bakeoff.core.validation import once

Rows = Iterator[tuple[int, dict[str, Any]]]
"""Number (of a line, in JSON and Parquet of a row, from 1) and cells by column."""
PIECE = 2**20
"""Characters of a JSON file that are read at once."""
BROKEN = (gzip.BadGzipFile, EOFError, zlib.error)


def reader(name: str) -> Callable[[Path], Rows] | None:
    """What reads a file of this name, by its suffix in any case, of which .gz may be the last; None for another."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return READERS.get(suffixes[-1]) if suffixes else None


def expected() -> str:
    """The suffixes that are read, for a message."""
    return f"a {', '.join(list(READERS)[:-1])} or {list(READERS)[-1]} file, or one of these as .gz"


def read_jsonl(path: Path) -> Rows:
    """Line number and object of each line that is not blank."""
    with opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, record(path, number, line)


def record(path: Path, number: int, text: str) -> dict[str, Any]:
    """The JSON object of a line. Raises UsageError."""
    try:
        row = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:  # beside syntax: numbers of thousands of digits, a key twice
        raise UsageError(f"{path}:{number}: not valid JSON: {error}") from None
    return an_object(path, number, row)


def an_object(path: Path, number: int, row: Any) -> dict[str, Any]:
    """`row`. Raises UsageError where it is no JSON object."""
    if not isinstance(row, dict):
        raise UsageError(f"{path}:{number}: expected an object in braces")
    return row


def read_json(path: Path) -> Rows:
    """Row number and record of an array of objects, which is read piece by piece, or of an object.

    An object holds columns (`{"document": [...], ...}`), splits (`{"train": [records], ...}`; a record's own `split`
    wins), one list of records under any name, or records by id. It is read as a whole.
    """
    with contextlib.closing(pieces(path)) as found:
        buffer = Buffer(found)
        if buffer.next_mark() == "[":
            yield from elements(path, buffer)
            return
        text = buffer.text[buffer.offset :] + "".join(found)
    try:
        value = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid JSON: {str(error).splitlines()[0]}") from None
    yield from enumerate(itertools.chain.from_iterable(records(path, value)), 1)


def pieces(path: Path) -> Generator[str]:
    """A UTF-8 text file in pieces of about PIECE bytes, whatever its lines are."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    before = 0
    with binary(path) as file:
        try:
            while piece := file.read(PIECE):
                yield decoder.decode(piece)
                before += len(piece)
            yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: not UTF-8 near byte {before + error.start}; save the file as UTF-8") from None
        except BROKEN as error:
            raise torn_gzip(path, error) from None


class Buffer:
    """The part of a text that was read and not yet taken."""

    def __init__(self, found: Iterator[str]) -> None:
        self.found, self.text, self.offset = found, "", 0

    def more(self, wanted: int = 1) -> bool:
        """Reads about `wanted` characters more; false at the end of the file."""
        taken: list[str] = []
        while sum(map(len, taken)) < wanted and (piece := next(self.found, "")):
            taken.append(piece)
        self.text, self.offset = self.text[self.offset :] + "".join(taken), 0
        return bool(taken)

    def next_mark(self) -> str:
        """The next character that is no space, not taken; empty at the end of the file."""
        while True:
            while self.offset < len(self.text) and self.text[self.offset] in " \t\r\n":
                self.offset += 1
            if self.offset < len(self.text) or not self.more():
                return self.text[self.offset : self.offset + 1]

    def value(self) -> Any:
        """The JSON value that begins here. Raises ValueError, RecursionError."""
        decoder = json.JSONDecoder(object_pairs_hook=once)
        while True:
            try:
                value, self.offset = decoder.raw_decode(self.text, self.offset)
                return value
            except json.JSONDecodeError:
                if not self.more(len(self.text) - self.offset):  # as much again: what is cut is not parsed too often
                    raise


def elements(path: Path, buffer: Buffer) -> Rows:
    """The objects of an array; in memory is one of them and a piece of the file."""
    buffer.offset += 1
    number = 0
    mark = buffer.next_mark()
    while mark != "]":
        number += 1
        if mark != "{":
            raise UsageError(f"{path}:{number}: expected an object in braces")
        try:
            row = buffer.value()
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error).splitlines()[0]
            raise UsageError(f"{path}:{number}: not valid JSON: {reason}") from None
        yield number, row
        mark = buffer.next_mark()
        if mark == ",":
            buffer.offset += 1
            mark = buffer.next_mark()
            mark = "" if mark == "]" else mark
        elif mark != "]":
            raise UsageError(f"{path}:{number}: not valid JSON: expected a comma or a bracket after the object")
    buffer.offset += 1
    if buffer.next_mark():
        raise UsageError(f"{path}:{number}: not valid JSON: something follows the array")


def records(path: Path, value: Any) -> Iterator[Iterable[dict[str, Any]]]:
    """The records of a JSON object, list by list."""
    shape = f"{path}: expected an array of records, columns as lists of one length, splits as lists of records, or "
    if not isinstance(value, dict):
        raise UsageError(f"{shape}records by id")
    cells = list(value.values())
    of_lists = bool(cells) and all(isinstance(cell, list) for cell in cells)
    if of_lists and all(isinstance(row, dict) for cell in cells for row in cell):
        for name, rows in value.items():
            yield (rows if len(cells) == 1 else [{"split": name, **row} for row in rows])
    elif of_lists and len({len(cell) for cell in cells}) == 1:
        yield (dict(zip(value, row, strict=True)) for row in zip(*cells, strict=True))
    elif cells and all(isinstance(cell, dict) for cell in cells):
        yield [{"id": name, **row} for name, row in value.items()]
    else:
        raise UsageError(f"{shape}records by id")


def read_csv(path: Path) -> Rows:
    """Line number (of the row's last line) and cells by column."""
    return separated(path, ",")


def read_tsv(path: Path) -> Rows:
    """The same with tabs between cells; quoted as in CSV, since a cell may hold tabs and line ends."""
    return separated(path, "\t")


def separated(path: Path, delimiter: str) -> Rows:
    """Rows of cells between delimiters."""
    csv.field_size_limit(2**31 - 1)
    with opened(path) as lines:
        reader = csv.DictReader(lines, strict=True, delimiter=delimiter)
        try:
            columns = list(reader.fieldnames or [])
            if twice := [column for column, count in Counter(columns).items() if column and count > 1]:
                raise UsageError(f"{path}:1: the column {twice[0]!r} stands there twice")
            for row in reader:
                if None in row:
                    raise UsageError(f"{path}:{reader.line_num}: more cells than the header has columns")
                yield reader.line_num, row
        except csv.Error as error:
            line = reader.reader.line_num  # DictReader's own number moves only after a row
            kind = "CSV" if delimiter == "," else "TSV"
            raise UsageError(f"{path}:{line}: not valid {kind}: {error}") from None


def read_parquet(path: Path) -> Rows:
    """Row number, from 1, and cells by column."""
    import pyarrow.parquet
    from pyarrow.lib import ArrowException

    with contextlib.ExitStack() as stack:
        source: Path | IO[bytes] = path
        if path.suffix.lower() == ".gz":  # Parquet is read from its end, so it is unpacked first
            source = stack.enter_context(tempfile.TemporaryFile())
            try:
                with gzip.open(path) as packed:
                    shutil.copyfileobj(packed, source)
            except BROKEN as error:
                raise torn_gzip(path, error) from None
            source.seek(0)
        try:
            batches = pyarrow.parquet.ParquetFile(source).iter_batches(batch_size=1024)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
        except (ArrowException, OSError) as error:
            raise UsageError(f"{path}: not a valid Parquet file: {str(error).splitlines()[0]}") from None


def torn_gzip(path: Path, error: BaseException) -> UsageError:
    """The complaint about a .gz file that can't be unpacked."""
    return UsageError(f"{path}: not a valid gzip file: {(str(error).splitlines() or ['it is torn'])[0]}")


def binary(path: Path) -> IO[bytes]:
    """The file, unpacked if its name ends in .gz."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


class opened:
    """A UTF-8 text file (a leading byte-order mark is dropped), unpacked if it is a .gz, whose decoding errors name the
    line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Iterator[str]:
        self.file = binary(self.path)
        return self._lines()

    def _lines(self) -> Iterator[str]:
        number = 0
        try:
            for number, raw in enumerate(self.file, 1):
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise UsageError(f"{self.path}:{number}: not UTF-8; save the file as UTF-8") from None
        except BROKEN as error:
            raise torn_gzip(self.path, error) from None

    def __exit__(self, *error: object) -> None:
        self.file.close()


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}
