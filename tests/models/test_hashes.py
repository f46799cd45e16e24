"""The files of a base model are hashed once a store, and again when they change."""

import hashlib
import os

import pytest

from bakeoff.models import hashes


@pytest.fixture
def read(monkeypatch):
    """The files that were read to the end, in order."""
    found, plain = [], hashes.sha256_of
    monkeypatch.setattr(hashes, "sha256_of", lambda path: found.append(path.name) or plain(path))
    return found


def written(path, text, age=60.0):
    path.write_text(text)
    long_ago = path.stat().st_mtime - age
    os.utime(path, (long_ago, long_ago))
    return path


def test_a_file_is_read_once_until_it_changes(tmp_path, read):
    weights, cache = written(tmp_path / "a.safetensors", "one"), tmp_path / "store"
    first = hashes.remembered(weights, cache)
    assert first == hashes.remembered(weights, cache) == hashlib.sha256(b"one").hexdigest() and len(read) == 1
    for change in (
        lambda: written(weights, "other"),  # another size
        lambda: written(weights, "again", age=30.0),  # another time
        lambda: os.replace(written(tmp_path / "b", "third", age=30.0), weights),  # another inode
    ):
        before = len(read)
        change()
        assert hashes.remembered(weights, cache) == hashlib.sha256(weights.read_bytes()).hexdigest()
        assert hashes.remembered(weights, cache) and len(read) == before + 1


def test_a_file_that_was_just_written_is_read_again(tmp_path, read):
    weights = written(tmp_path / "a.safetensors", "one", age=0.0)
    for _ in range(2):
        hashes.remembered(weights, tmp_path / "store")
    assert len(read) == 2


@pytest.mark.parametrize("text", ["", "[1]", '{"x": 3}', "\xff"])
def test_a_damaged_list_of_hashes_is_made_anew(tmp_path, read, text):
    weights, cache = written(tmp_path / "a.safetensors", "one"), tmp_path / "store"
    cache.mkdir()
    (cache / hashes.KEPT).write_bytes(text.encode("latin-1"))
    found = {hashes.remembered(weights, cache) for _ in range(2)}
    assert found == {hashlib.sha256(b"one").hexdigest()} and len(read) == 1


def test_without_a_store_nothing_is_kept(tmp_path, read):
    weights = written(tmp_path / "a.safetensors", "one")
    assert hashes.remembered(weights, None) == hashes.remembered(weights, None) and len(read) == 2
