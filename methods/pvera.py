"""PVeRA: VeRA whose inner vector is drawn from a trained distribution (Fillioux et al. 2025, arXiv:2512.07703)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class PVeRA(Adapter):
    """W x + diag(b) B z; z is normal with mean diag(d1) A1 x and log variance diag(d2) A2 x, and its mean when writing.

    A1, A2 and B are random and frozen, drawn from `seed`, and shared by all layers.
    """

    name: ClassVar[str] = "pvera"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 2e-2}

    rank: int = 256
    seed: int = 0

    def config(self, targets):
        """PEFT's PVeRA. The random matrices are buffers, not parameters."""
        from peft import PveraConfig

        return PveraConfig(task_type="CAUSAL_LM", r=self.rank, projection_prng_key=self.seed, target_modules=targets)

    def layer(self, inputs: int, outputs: int) -> int:
        """2 x rank + outputs: d1, d2 and b."""
        return 2 * self.rank + outputs
