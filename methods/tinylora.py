"""TinyLoRA: a few numbers a layer steer its greatest singular directions (Morris et al. 2026, arXiv:2602.04118)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter, ParameterCounts, Shapes


@dataclass(frozen=True)
class TinyLoRA(Adapter):
    """W x + U sqrt(S) (sum over i of v_i P_i) sqrt(S) V' x; U, S and V are the `rank` greatest parts of W.

    They are frozen; so are the P_i, rank x rank, drawn from `seed`. `numbers` is the length of v. `tying` is the share
    of layers that have no v of their own: at 0 each has one, at 1 they all share one.
    """

    name: ClassVar[str] = "tinylora"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 3e-3}

    rank: int = 2
    numbers: int = 64
    tying: float = 0.0
    seed: int = 0

    def config(self, targets):
        """PEFT's TinyLoRA. What is frozen are buffers, not parameters."""
        from peft import TinyLoraConfig

        return TinyLoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            u=self.numbers,
            weight_tying=self.tying,
            projection_seed=self.seed,
            target_modules=targets,
        )

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """`numbers` for every group of layers that share a v."""
        groups = max(1, round(len(self.sizes(shapes)) * (1 - self.tying)))
        return ParameterCounts.beside(shapes, groups * self.numbers)
