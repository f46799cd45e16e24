"""DoRA: LoRA for the direction of a weight, and a trained length beside it (Liu et al. 2024, arXiv:2402.09353)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class DoRA(Adapter):
    """m * (W + (alpha / rank) B A) / |W + (alpha / rank) B A| x; m starts at |W|.

    The length |.| is taken of every row, the weights of one output; no gradient flows through it (their section 4.3).
    """

    name: ClassVar[str] = "dora"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 4e-3}

    rank: int = 16
    alpha: float = 32.0

    def config(self, targets):
        """PEFT's LoRA with a magnitude."""
        from peft import LoraConfig

        return LoraConfig(
            task_type="CAUSAL_LM", r=self.rank, lora_alpha=self.alpha, use_dora=True, target_modules=targets
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x (inputs + outputs) + outputs: A, B and m."""
        return self.rank * (inputs + outputs) + outputs
