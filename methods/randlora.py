"""RandLoRA: a full-rank update, mixed from random bases that layers share (Albert et al. 2025, arXiv:2502.00987)."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class RandLoRA(Adapter):
    """W x + (alpha / rank) sum over j of B_j diag(l_j) A diag(g_j) x.

    A and the B_j are random and frozen, drawn from `seed`; as many bases are mixed as make the sum full-rank.
    Where a layer has fewer outputs than inputs, the sum is transposed.
    """

    name: ClassVar[str] = "randlora"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-3}

    rank: int = 32
    alpha: float = 640.0
    seed: int = 0

    def config(self, targets):
        """PEFT's RandLoRA. The bases are buffers, not parameters."""
        from peft import RandLoraConfig

        return RandLoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            randlora_alpha=self.alpha,
            projection_prng_key=self.seed,
            target_modules=targets,
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """An l of `rank` and a g of the shorter side, for each of shorter side / rank bases."""
        short = min(inputs, outputs)
        return ceil(short / self.rank) * (self.rank + short)
