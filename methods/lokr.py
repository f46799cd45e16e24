"""LoKr: the Kronecker product of a small matrix and a larger one of low rank (Yeh et al. 2023, arXiv:2309.14859)."""

from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class LoKr(Adapter):
    """W x + (alpha / rank) (C kron (B A)) x.

    Outputs and inputs are split in two by `factor`: C is factor x factor, B A is outputs / factor x inputs / factor.
    One plain matrix stands for B A where half its longer side is no more than the rank.
    """

    name: ClassVar[str] = "lokr"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 2e-2}

    rank: int = 16
    alpha: float = 16.0
    factor: int = 4

    def config(self, targets):
        """PEFT's LoKr."""
        from peft import LoKrConfig

        return LoKrConfig(
            task_type="CAUSAL_LM", r=self.rank, alpha=self.alpha, decompose_factor=self.factor, target_modules=targets
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """C, and A and B or the matrix that they stand for."""
        (small_in, large_in), (small_out, large_out) = split(inputs, self.factor), split(outputs, self.factor)
        plain = 2 * self.rank >= max(large_in, large_out)
        large = large_in * large_out if plain else self.rank * (large_in + large_out)
        return small_in * small_out + large


def split(size: int, factor: int) -> tuple[int, int]:
    """`size` as a product of two: `factor` first if it divides, else the next smaller number that does."""
    if size % factor == 0:
        return factor, size // factor
    small = next(number for number in range(min(factor, isqrt(size)), 0, -1) if size % number == 0)
    return small, size // small
