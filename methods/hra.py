"""HRA: reflect what a layer reads at a few trained hyperplanes (Yuan et al. 2024, arXiv:2405.17484)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class HRA(Adapter):
    """W H_1 ... H_rank x, with H_i = I - 2 u_i u_i' / |u_i|^2, a Householder reflection.

    The vectors start in equal pairs, whose reflections cancel, so `rank` should be even.
    """

    name: ClassVar[str] = "hra"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-2}

    rank: int = 8

    def config(self, targets):
        """PEFT's HRA, without the orthogonalisation of the vectors."""
        from peft import HRAConfig

        return HRAConfig(task_type="CAUSAL_LM", r=self.rank, target_modules=targets)

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x inputs: the vectors u."""
        return self.rank * inputs
