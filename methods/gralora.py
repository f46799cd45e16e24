"""GraLoRA: the weight is cut into blocks, each with a LoRA of its own (Jung et al. 2025, arXiv:2505.20355)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class GraLoRA(Adapter):
    """W x + (alpha / rank) D x; D is a square of `blocks` x `blocks` matrices, each a B A of rank / blocks.

    `blocks` divides the rank and both sides of every layer. The count is LoRA's, the rank of D up to `blocks` times it.
    """

    name: ClassVar[str] = "gralora"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 4e-3}

    rank: int = 16
    alpha: float = 32.0
    blocks: int = 2

    def config(self, targets):
        """PEFT's GraLoRA, without the plain LoRA beside it."""
        from peft import GraloraConfig

        return GraloraConfig(
            task_type="CAUSAL_LM", r=self.rank, alpha=self.alpha, gralora_k=self.blocks, target_modules=targets
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """blocks^2 pairs of A and B, each (rank / blocks) x (inputs + outputs) / blocks: as many numbers as LoRA."""
        return self.rank * (inputs + outputs)
