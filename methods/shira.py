"""SHiRA: train a few entries of a weight, chosen at random (Bhardwaj et al. 2024, arXiv:2406.13175)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class SHiRA(Adapter):
    """(W + S) x: S has as many numbers as a LoRA of this `rank`, from 0, at places drawn by `seed`, and else 0.

    Its rank may be full; `rank` sets the budget alone.
    """

    name: ClassVar[str] = "shira"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 5e-3}

    rank: int = 8
    seed: int = 0

    def config(self, targets):
        """PEFT's SHiRA with a random mask."""
        from peft import ShiraConfig

        return ShiraConfig(task_type="CAUSAL_LM", r=self.rank, random_seed=self.seed, target_modules=targets)

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x (inputs + outputs)."""
        return self.rank * (inputs + outputs)
