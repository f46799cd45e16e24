"""VeRA: two trained vectors a layer, random matrices that layers share (Kopiczko et al. 2023, arXiv:2310.11454)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class VeRA(Adapter):
    """W x + diag(b) B diag(d) A x.

    A and B are random and frozen, drawn from `seed`, and shared by all layers; a smaller layer takes a part of them.
    """

    name: ClassVar[str] = "vera"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 5e-2}

    rank: int = 256
    seed: int = 0

    def config(self, targets):
        """PEFT's VeRA. A and B are buffers, not parameters."""
        from peft import VeraConfig

        return VeraConfig(task_type="CAUSAL_LM", r=self.rank, projection_prng_key=self.seed, target_modules=targets)

    def layer(self, inputs: int, outputs: int) -> int:
        """rank + outputs: d and b."""
        return self.rank + outputs
