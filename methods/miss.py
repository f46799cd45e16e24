"""MiSS: one small matrix is the update of every shard of a weight (Kang and Yin 2024, arXiv:2409.15371)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class MiSS(Adapter):
    """W x + D' (x_1 + x_2 + ...), where the x_i are the parts of x, `rank` numbers each; D is rank x outputs.

    The last part is filled up with zeros where `rank` does not divide the inputs. D starts at 0.
    """

    name: ClassVar[str] = "miss"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-3}

    rank: int = 32

    def config(self, targets):
        """PEFT's MiSS."""
        from peft import MissConfig

        return MissConfig(task_type="CAUSAL_LM", r=self.rank, target_modules=targets)

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x outputs: D."""
        return self.rank * outputs
