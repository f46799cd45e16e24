"""Rows held by column are the rows that they were made from."""

import math
import sys

import numpy as np
import pytest

from bakeoff.core.columns import Columns, by_column, numbers

ROWS = [{"step": n, "epoch": 1 + n // 3, "loss": 3 / (n + 1), "rate": 1e-3} for n in range(7)]


def test_rows_by_column_read_slice_and_compare_as_before():
    held = by_column(ROWS)
    assert isinstance(held, Columns) and held == ROWS and held == ROWS and held == by_column(ROWS)
    assert list(held) == ROWS and held[2] == ROWS[2] and held[-1] == ROWS[-1] and held[2:6:2] == ROWS[2:6:2]
    assert [type(value) for value in held[0].values()] == [int, int, float, float]
    assert held != ROWS[:-1] and len(held) == 7 and by_column([]) == []
    with pytest.raises(IndexError):
        held[7]


@pytest.mark.parametrize("rows", [[{"a": 1}, {"b": 1}], [{"a": 1}, {}], [{"a": 2**70}], [{"a": None}]])
def test_what_has_no_columns_stays_as_it_is(rows):
    assert by_column(rows) is rows


def test_a_column_of_whole_and_other_numbers_keeps_their_values():
    assert list(by_column([{"a": 1}, {"a": 0.5}, {"a": math.inf}])) == [{"a": 1}, {"a": 0.5}, {"a": math.inf}]


def test_a_number_takes_eight_bytes():
    columns = by_column(ROWS * 100).columns
    assert sum(map(sys.getsizeof, columns.values())) < 9 * 4 * 700 + 1000


def test_numbers_are_the_list_that_they_were_made_from_in_eight_bytes_each():
    values = [0.1, 1 / 3, 0.0, 1.0] * 25
    held = numbers(values)
    assert held == values and values == held and list(held) == values and held == numbers(values)
    assert held != values[:-1] and held != [*values[:-1], 0.5] and bool(numbers([])) is False
    assert np.array_equal(np.asarray([held, held]), [values, values])
    assert sys.getsizeof(held) < 8 * len(values) + 100


@pytest.mark.parametrize("values", [[0.1, None], ["a"]])
def test_what_holds_more_than_numbers_stays_a_list(values):
    assert numbers(values) is values
