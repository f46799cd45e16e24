"""FRoD: train a weight in a basis that its layers share (Wan et al. 2025, arXiv:2512.23485)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class FRoD(Adapter):
    """U (L + S) V' x in place of W x: L is diagonal, S sparse, both trained; U and V are frozen.

    V is one basis for all layers of a kind (all q_proj, say), decomposed from their weights together; W = U L V' at the
    start. S has a `share` of the numbers beside the diagonal, from 0, at places drawn by `seed`.
    """

    name: ClassVar[str] = "frod"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-3}

    share: float = 0.01
    seed: int = 0

    def config(self, targets):
        """PEFT's FRoD. The bases come from the base model's weights again, so they need not be saved."""
        from peft import FrodConfig

        return FrodConfig(
            task_type="CAUSAL_LM",
            sparse_rate=self.share,
            projection_prng_key=self.seed,
            save_projection=False,
            progressbar=False,
            target_modules=targets,
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """L, and the share of inputs x inputs in S: at least one, at most all beside the diagonal."""
        beside = inputs * (inputs - 1)
        sparse = min(int(inputs * inputs * self.share), beside)
        return inputs + (max(1, sparse) if self.share > 0 and beside else sparse)
