"""LoHa: the elementwise product of two low-rank matrices (FedPara, Hyeon-Woo et al. 2021, arXiv:2108.06098)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class LoHa(Adapter):
    """W x + (alpha / rank) ((B1 A1) * (B2 A2)) x: an update of a rank of up to rank^2."""

    name: ClassVar[str] = "loha"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 2e-2}

    rank: int = 8
    alpha: float = 16.0

    def config(self, targets):
        """PEFT's LoHa."""
        from peft import LoHaConfig

        return LoHaConfig(task_type="CAUSAL_LM", r=self.rank, alpha=self.alpha, target_modules=targets)

    def layer(self, inputs: int, outputs: int) -> int:
        """2 x rank x (inputs + outputs): two pairs of A and B."""
        return 2 * self.rank * (inputs + outputs)
