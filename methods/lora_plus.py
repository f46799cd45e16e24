"""LoRA+: LoRA whose B learns faster than its A (Hayou et al. 2024, arXiv:2402.12354)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter, ParameterGroup


@dataclass(frozen=True)
class LoRAPlus(Adapter):
    """LoRA; B's learning rate is `ratio` times that of A."""

    name: ClassVar[str] = "lora-plus"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-3}

    rank: int = 16
    alpha: float = 32.0
    ratio: float = 16.0

    def config(self, targets):
        """PEFT's LoRA."""
        from peft import LoraConfig

        return LoraConfig(task_type="CAUSAL_LM", r=self.rank, lora_alpha=self.alpha, target_modules=targets)

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x (inputs + outputs): A and B."""
        return self.rank * (inputs + outputs)

    def parameter_group(self, name: str) -> ParameterGroup:
        """`ratio` for B."""
        return ParameterGroup(learning_rate=self.ratio if "lora_B" in name else 1.0)
