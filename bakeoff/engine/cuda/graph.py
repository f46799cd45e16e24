"""A computation on fixed tensors that is captured once as a CUDA graph, and replayed without Python."""

from collections.abc import Callable

import torch

WARM = 3
"""Calls before a capture, in which libraries choose their kernels and allocate what they keep."""


class Captured:
    """`compute`, called again and again on the same tensors: as a graph on a GPU, else as it is.

    It may read and write only tensors that outlive it, in place, and may ask nothing of their values.
    """

    def __init__(self, compute: Callable[[], None], device: str, undo: Callable[[], None]) -> None:
        """Captures `compute`, which is called some times for that; `undo` takes back what these calls have done."""
        self.compute = compute
        self.graph: torch.cuda.CUDAGraph | None = None
        if device == "cuda":
            self.graph = captured(compute, undo)

    def __call__(self) -> None:
        """Computes once."""
        if self.graph is None:
            self.compute()
        else:
            self.graph.replay()


def captured(compute: Callable[[], None], undo: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """`compute` as a graph. Raises RuntimeError where it asks for a value, which a graph can't wait for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            compute()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compute()
    undo()
    return graph
