"""DeLoRA: low-rank directions of length 1, and one trained strength a layer (Bini et al. 2025, arXiv:2503.18225)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class DeLoRA(Adapter):
    """W x + (bound / rank) sum over i of b_i a_i' / (|b_i| |a_i|) N x, where N holds the norms of W's columns.

    `bound` is where the strength starts: with N left out, no update is longer than it (Frobenius).
    """

    name: ClassVar[str] = "delora"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-3}

    rank: int = 16
    bound: float = 4.0

    def config(self, targets):
        """PEFT's DeLoRA."""
        from peft import DeloraConfig

        return DeloraConfig(task_type="CAUSAL_LM", r=self.rank, delora_lambda=self.bound, target_modules=targets)

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x (inputs + outputs) + 1: the a_i, the b_i and the strength."""
        return self.rank * (inputs + outputs) + 1
