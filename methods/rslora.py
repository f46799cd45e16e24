"""rsLoRA: LoRA whose scale falls with the root of the rank (Kalajdzievski 2023, arXiv:2312.03732)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class RSLoRA(Adapter):
    """W x + (alpha / sqrt(rank)) B A x: the update neither fades nor explodes as the rank grows.

    At rank 16 and alpha 8 it is LoRA with alpha 32.
    """

    name: ClassVar[str] = "rslora"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-3}

    rank: int = 16
    alpha: float = 32.0

    def config(self, targets):
        """PEFT's LoRA, scaled by the root."""
        from peft import LoraConfig

        return LoraConfig(
            task_type="CAUSAL_LM", r=self.rank, lora_alpha=self.alpha, use_rslora=True, target_modules=targets
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x (inputs + outputs): A and B."""
        return self.rank * (inputs + outputs)
