"""Bytes above a level, and null where there is no counter."""

import mmap
import sys

import pytest
import torch

from bakeoff.runs import resources
from bakeoff.runs.resources import Memory

CUDA = ("allocated", "max_allocated", "reserved", "max_reserved")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_counts_what_was_held_and_let_go_since_the_start():
    memory = Memory("cpu")
    held = mmap.mmap(-1, 2**26)  # malloc may have as much left of another test's
    held.write(b"1" * 2**26)
    held.close()
    found = memory.read()
    assert found["max_resident"] > 0.9 * 2**26
    assert found["max_resident"] >= found["resident"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_was_held_before_the_start_does_not_count():
    held = torch.ones(2**26 // 4)
    assert Memory("cpu").read()["max_resident"] < 2**25
    assert len(held)


def test_a_cpu_has_no_cuda_counters():
    assert [Memory("cpu").read()[counter] for counter in CUDA] == [None] * 4


def test_a_system_without_counters_gives_null_and_never_0(monkeypatch):
    monkeypatch.setattr(resources, "_status", lambda counter: None)
    assert set(Memory("cpu").read().values()) == {None}


def test_a_gpus_peaks_start_when_what_loading_took_is_given_back(monkeypatch):
    order = []
    for name in ("reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: order.append(name))
    monkeypatch.setattr(resources.gc, "collect", lambda: order.append("collect"))
    memory = Memory("cuda")
    assert order == []
    memory.placed()
    assert order == ["collect", "empty_cache", "reset_peak_memory_stats"]


def test_a_cpus_level_stays_that_before_the_model_was_loaded(monkeypatch):
    memory = Memory("cpu")
    monkeypatch.setattr(resources, "_status", lambda counter: memory.base + 2**20)
    memory.placed()
    assert memory.read()["resident"] == 2**20


def test_a_gpu_gives_its_four_counters(monkeypatch):
    names = ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved")
    for number, name in enumerate(names, 1):
        monkeypatch.setattr(torch.cuda, name, lambda number=number: number)
    found = Memory("cuda").read()
    assert [found[counter] for counter in CUDA] == [1, 2, 3, 4]
    assert found["resident"] is found["max_resident"] is None
