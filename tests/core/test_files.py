"""Files that go to the disk past the system's cache: the same bytes, wherever they go."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file

from bakeoff.core import files
from bakeoff.runs.tensor_files import KINDS, save_tensors


@pytest.fixture(params=["direct", "no such way", "refused at the first write"])
def way(request, monkeypatch, tmp_path):
    """Each of the ways that a file system may take."""
    if request.param == "no such way":
        monkeypatch.delattr(os, "O_DIRECT", raising=False)
    if request.param == "refused at the first write":
        try:
            os.close(os.open(tmp_path / "probe", os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
        except (AttributeError, OSError):
            pytest.skip("the file system has no way past the cache, so it can't refuse it later")
        written = []

        def write(file, data, real=os.write):
            written.append(len(data))
            if len(written) == 1:
                raise OSError(errno.EINVAL, "Invalid argument")
            return real(file, data)

        monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(files, "CHUNK", 2 * files.SECTOR)


@pytest.mark.parametrize("sizes", [[], [0], [1], [8192], [8193, 0, 5], [100, 20000, 3, 4096]])
@pytest.mark.usefixtures("way")
def test_what_is_written_is_what_was_given(tmp_path, sizes):
    pieces = [os.urandom(size) for size in sizes]
    path = tmp_path / "file"
    path.write_bytes(b"old" * 50000)
    found = files.write_past_cache(path, pieces)
    assert path.read_bytes() == b"".join(pieces)
    assert found == files.checksum(path)


@pytest.mark.parametrize("place", [0, 4095, 4096, 9999])
def test_no_byte_can_change_unnoticed(tmp_path, monkeypatch, place):
    monkeypatch.setattr(files, "CHUNK", files.SECTOR)
    path = tmp_path / "file"
    path.write_bytes(bytes(10000))
    before = files.checksum(path)
    path.write_bytes(bytes(place) + b"1" + bytes(9999 - place))
    assert files.checksum(path) != before


@pytest.mark.usefixtures("way")
def test_a_full_disk_is_an_oserror(tmp_path, monkeypatch):
    def write(file, data, real=os.write):
        if os.lseek(file, 0, os.SEEK_CUR) >= files.SECTOR:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[: files.SECTOR])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space left on device"):
        files.write_past_cache(tmp_path / "file", [bytes(100000)])


def test_of_several_writers_each_leaves_a_whole_file(tmp_path):
    """Threads have one process's number, as processes of two containers may have."""
    path, together = tmp_path / "file", threading.Barrier(8)

    def write(number):
        together.wait(10)
        for _ in range(20):
            files.replace(path, bytes([number]) * 10_000)
            assert len(set(path.read_bytes())) == 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.write_past_cache(tmp_path / "none" / "file", [b"x"])


def test_safetensors_reads_what_is_saved(tmp_path):
    tensors = {f"{kind}.{place}": torch.randn(shape).mul(9).to(kind)
               for kind in KINDS for place, shape in enumerate([(), (0, 3), (5,), (2, 3, 7)])}  # fmt: skip
    save_tensors(tensors, tmp_path / "file")
    found = load_file(tmp_path / "file")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(value, found[name]) and value.dtype == found[name].dtype for name, value in tensors.items())
