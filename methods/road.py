"""RoAd: turn and stretch pairs of a layer's outputs (Liao and Monz 2024, arXiv:2409.00119)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bakeoff import Adapter

PAIR = 2


@dataclass(frozen=True)
class RoAd(Adapter):
    """R W x, with R made of 2 x 2 blocks alpha (cos t, -sin t; sin t, cos t), one for each pair of outputs.

    `variant` is 1 where a block has one angle t and one scale alpha, 2 where each of its rows has its own, 4 where each
    of its four numbers has.
    """

    name: ClassVar[str] = "road"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 2e-2}

    variant: Literal[1, 2, 4] = 1

    def config(self, targets):
        """PEFT's RoAd, with neighbours as pairs."""
        from peft import RoadConfig

        return RoadConfig(
            task_type="CAUSAL_LM", variant=f"road_{self.variant}", group_size=PAIR, target_modules=targets
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """variant angles and as many scales for each pair."""
        return 2 * self.variant * (outputs // PAIR)
