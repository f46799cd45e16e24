"""Values against types."""

import pytest

from bakeoff.core.validation import misfit
from bakeoff.runs.records import Evidence


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({}, ""),
        ({"frozen_changed": ["a"], "layout": {"packed": ""}, "of a later version": 1}, ""),
        ({"frozen_changed": 3}, "evidence.frozen_changed"),
        ({"frozen_changed": [3]}, "evidence.frozen_changed[0]"),
        ({"reloaded": [{"id": "a", "summary": 1}]}, "evidence.reloaded[0].summary"),
        ([], "evidence"),
    ],
)
def test_a_typed_table_is_checked_key_by_key(value, where):
    assert misfit(value, Evidence, "evidence") == where
