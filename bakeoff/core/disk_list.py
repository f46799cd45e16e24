"""A sequence on disk: a hundred thousand documents take as much memory as a thousand."""

import pickle
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar, overload

T = TypeVar("T")


class DiskList(Sequence[T], Generic[T]):
    """Items in a temporary file that has no name and goes with its last reader; in memory 8 bytes an item.

    An item is read anew each time that it is asked for. It is read, not mapped: pages of a mapped file would count as
    resident memory. Slices are lists.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the shelf is there)
        self._ends = array("q", [0])
        for item in items:
            self.append(item)

    def append(self, item: T) -> None:
        """Puts `item` at the end."""
        self._file.seek(self._ends[-1])
        self._ends.append(self._ends[-1] + self._file.write(pickle.dumps(item)))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._read(number) for number in range(*index.indices(len(self)))]
        return self._read(range(len(self))[index])

    def __iter__(self) -> Iterator[T]:
        return (self._read(number) for number in range(len(self)))

    def _read(self, number: int) -> T:
        self._file.seek(self._ends[number])
        # Nothing but append wrote to the file, and nobody else can open it.
        item: T = pickle.loads(self._file.read(self._ends[number + 1] - self._ends[number]))
        return item
