"""Uni-LoRA: every number of every A and B is taken from one trained vector (Li et al. 2025, arXiv:2506.00799)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter, ParameterCounts, Shapes


@dataclass(frozen=True)
class UniLoRA(Adapter):
    """W x + B A x; each entry of A and B is a number of the vector, divided by the root of how often it is taken.

    Which number is taken where is random and frozen, drawn from `seed`; all are taken equally often.
    """

    name: ClassVar[str] = "unilora"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 5e-2}

    rank: int = 4
    length: int = 16_384
    seed: int = 0

    def config(self, targets):
        """PEFT's Uni-LoRA. The places are buffers, not parameters."""
        from peft import UniLoraConfig

        return UniLoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            theta_d_length=self.length,
            proj_seed=self.seed,
            target_modules=targets,
        )

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """`length`, whatever the layers. Raises UsageError for a target that names none."""
        self.sizes(shapes)
        return ParameterCounts.beside(shapes, self.length)
