"""Sequences on disk."""

import pytest

from bakeoff.core.disk_list import DiskList


def test_a_shelf_reads_as_a_sequence():
    items = [{"n": n, "text": "é" * n} for n in range(9)]
    shelf = DiskList(items)
    assert list(shelf) == items and len(shelf) == 9
    assert shelf[0] == items[0] and shelf[-1] == items[-1] and shelf[2:8:3] == items[2:8:3]
    assert list(DiskList()) == []


@pytest.mark.parametrize("place", [2, -3])
def test_a_place_that_is_not_there_is_an_index_error(place):
    with pytest.raises(IndexError):
        DiskList("ab")[place]


def test_a_shelf_grows_while_it_is_read():
    shelf = DiskList("a")
    assert shelf[0] == "a"
    shelf.append("b")
    assert shelf[0] == "a" and shelf[1] == "b"
