"""Lily: layers share what reads, and mix what writes by a trained router (Zhong et al. 2024, arXiv:2407.09946)."""

from collections import Counter
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from bakeoff import Adapter, ParameterCounts, Shapes, target_layers, target_names


@dataclass(frozen=True)
class Lily(Adapter):
    """W x + (sum over k of p_k B_k) A x; p is the softmax of R A x, averaged over all tokens that are read at once.

    `stride` neighbouring layers share an A, and all layers share the `writers` B_k, but only among layers of one target
    and one shape; every layer has its own R. Because p is an average, a document is read alone, and anew for every
    token that is written: writing takes much longer than with other methods.
    """

    name: ClassVar[str] = "lily"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 4e-3}

    rank: int = 32
    stride: int = 2
    writers: int = 2

    def config(self, targets):
        """PEFT's Lily."""
        from peft import LilyConfig

        return LilyConfig(
            task_type="CAUSAL_LM", r=self.rank, stride_A=self.stride, num_B=self.writers, target_modules=targets
        )

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """Per target and shape: an A for each `stride` layers, the B_k once, an R for each layer."""
        groups = Counter(
            (target, size)
            for target in target_names(self.targets, shapes)
            for size in target_layers([target], shapes).values()
        )
        trained = 0
        for (_, (inputs, outputs)), layers in groups.items():
            readers = ceil(layers / self.stride)
            trained += self.rank * (readers * inputs + self.writers * outputs + layers * self.writers)
        return ParameterCounts.beside(shapes, trained)
