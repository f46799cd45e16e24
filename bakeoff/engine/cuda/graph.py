"""A computation on fixed tensors that is captured once as a CUDA graph, and replayed without Python."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

WARM = 3
"""Calls before a capture, in which libraries choose their kernels and allocate what they keep."""


@functools.cache
def side() -> torch.cuda.Stream:
    """The stream of every capture: cuBLAS keeps a workspace of megabytes for each stream that it has seen."""
    return torch.cuda.Stream()


@contextmanager
def unasked() -> Iterator[None]:
    """Inside, torch refuses what would wait for the GPU: a capture that fails leaves more behind than an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def captured(compute: Callable[[], None], undo: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """`compute`, which is called some times for that, as a graph; `undo` takes back what these calls have done.

    It may read and write only tensors that outlive it, in place. Raises RuntimeError where it asks for a value, which
    a graph can't wait for.
    """
    before = torch.cuda.current_stream()
    side().wait_stream(before)
    with torch.cuda.stream(side()):
        for _ in range(WARM - 1):
            compute()
        with unasked():
            compute()
    before.wait_stream(side())
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=side()):
            compute()
    except BaseException:
        torch.cuda.set_stream(before)  # torch leaves the stream of a failed capture in its place
        raise
    undo()
    return graph
