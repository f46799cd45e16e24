"""The library of the page's charts, as it is kept in a store."""

import pytest

from bakeoff.report.page import library


@pytest.fixture
def made(monkeypatch):
    """How often the library was put together."""
    count = []
    monkeypatch.setattr(library, "bundle", lambda: count.append(1) or "one\r\n\u2028two")
    return count


def test_it_is_put_together_once_and_kept(tmp_path, made):
    assert library.vega(tmp_path) == library.vega(tmp_path) == "one\r\n\u2028two" and len(made) == 1


@pytest.mark.parametrize("left", [b"", b"// No library.", b"one\r\n", b"\xff\xfe", b"// " + b"0" * 64 + b"\none"])
def test_another_file_than_was_kept_is_not_believed(tmp_path, made, left):
    library.vega(tmp_path)
    (tmp_path / library.kept()).write_bytes(left)
    assert library.vega(tmp_path) == "one\r\n\u2028two" and len(made) == 2
    assert library.vega(tmp_path) == "one\r\n\u2028two" and len(made) == 2


def test_a_folder_that_can_not_be_written_is_no_obstacle(tmp_path, made):
    (tmp_path / "file").touch()
    assert library.vega(tmp_path / "file") == library.vega() == "one\r\n\u2028two"
