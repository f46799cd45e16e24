"""How many processors a run takes where something limits them."""

import math
import os

import pytest

from bakeoff.config import hardware


@pytest.fixture
def container(tmp_path):
    """A function that writes the limits of nested groups: `root, own = container({"": "max 100000", "a": ...})`."""

    def write(limits, line="0::/a/b\n"):
        for folder, limit in limits.items():
            (tmp_path / "cgroup" / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / "cgroup" / folder / "cpu.max").write_text(limit)
        (tmp_path / "own").write_text(line)
        return tmp_path / "cgroup", tmp_path / "own"

    return write


@pytest.mark.parametrize("limits, share", [
    ({"a/b": "200000 100000"}, 2),
    ({"a/b": "150000 100000"}, 2),  # one and a half
    ({"a": "100000 100000", "a/b": "400000 100000"}, 1),  # the narrowest holds
    ({"": "300000 100000"}, 3),
    ({"a/b": "max 100000"}, math.inf),
    ({"a/b": "rubbish"}, math.inf),
    ({}, math.inf),
])  # fmt: skip
def test_a_container_has_its_share_of_the_processors(container, limits, share):
    assert hardware.container_share(*container(limits)) == share


def test_without_groups_of_the_second_version_there_is_no_share(container, tmp_path):
    assert hardware.container_share(*container({}, "4:cpu:/\n")) == math.inf
    assert hardware.container_share(tmp_path, tmp_path / "none") == math.inf


@pytest.mark.parametrize("asked, count", [("", 8), ("3", 3), ("2,4", 2), ("99", 8), ("0", 8), ("many", 8)])
def test_no_more_threads_than_the_user_says(monkeypatch, asked, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(hardware, "container_share", lambda: math.inf)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert hardware.available_threads() == count


def test_a_container_s_share_counts(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(hardware, "container_share", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert hardware.available_threads() == 2
