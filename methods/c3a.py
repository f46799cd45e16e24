"""C3A: add a matrix of circulant blocks to a weight (Chen et al. 2024, arXiv:2407.19342)."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from bakeoff import Adapter, Shapes


@dataclass(frozen=True)
class C3A(Adapter):
    """W x + C x / inputs, with C made of circulant blocks of `block` x `block`, each given by one trained row.

    "auto" is the greatest common divisor of all sides of the target layers, the fewest numbers that fit all of them.
    """

    name: ClassVar[str] = "c3a"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 3e-1}

    block: int | Literal["auto"] = "auto"

    def for_model(self, shapes: Shapes):
        """With the block that "auto" stands for."""
        method = super().for_model(shapes)
        if method.block != "auto":
            return method
        return replace(method, block=math.gcd(*(side for size in method.sizes(shapes) for side in size)))

    def config(self, targets):
        """PEFT's C3A; the rows start from small random numbers (Xavier), as in the paper."""
        from peft import C3AConfig

        return C3AConfig(task_type="CAUSAL_LM", block_size=self.block, target_modules=targets)

    def layer(self, inputs: int, outputs: int) -> int:
        """inputs x outputs / block."""
        return inputs * outputs // self.block
