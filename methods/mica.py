"""MiCA: LoRA within the directions that the weight uses least (Rüdiger and Raschka 2026, arXiv:2604.01694)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class MiCA(Adapter):
    """W x + (alpha / rank) U A x; U holds W's left singular vectors of the `rank` smallest singular values, frozen.

    A starts at 0. The decomposition is exact, so that attaching again freezes the same U.
    """

    name: ClassVar[str] = "mica"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 2e-3}

    rank: int = 16
    alpha: float = 32.0

    def config(self, targets):
        """PEFT's LoRA, its B frozen at U."""
        from peft import LoraConfig

        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,
            init_lora_weights="mica",
            target_modules=targets,
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x inputs: A."""
        return self.rank * inputs

    def constants(self, inputs: int, outputs: int) -> int:
        """rank x outputs: U."""
        return self.rank * outputs
