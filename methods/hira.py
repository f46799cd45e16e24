"""HiRA: a low-rank matrix times the weight itself, element by element (Huang et al., ICLR 2025)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class HiRA(Adapter):
    """(W + W * (B A)) x, * being elementwise: the update has a high rank because W has one.

    https://openreview.net/forum?id=TwJrTz9cRS
    """

    name: ClassVar[str] = "hira"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 2e-2}

    rank: int = 32

    def config(self, targets):
        """PEFT's HiRA."""
        from peft import HiraConfig

        return HiraConfig(task_type="CAUSAL_LM", r=self.rank, target_modules=targets)

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x (inputs + outputs): A and B."""
        return self.rank * (inputs + outputs)
