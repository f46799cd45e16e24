"""PSOFT: rotate the leading singular directions of a weight (Wu et al. 2025, arXiv:2505.11235)."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from bakeoff import Adapter, Shapes


@dataclass(frozen=True)
class PSOFT(Adapter):
    """W x + U S (diag(b) R diag(a) - I) V' x, with U S V' the `rank` leading singular parts of W, frozen.

    R is orthogonal, the Cayley transform of a skew-symmetric matrix that starts at 0; the vectors a and b start at 1.
    "auto" is a rank of 128, or the narrowest side of the target layers where that is less.
    """

    name: ClassVar[str] = "psoft"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-3}

    rank: int | Literal["auto"] = "auto"

    def for_model(self, shapes: Shapes):
        """With the rank that "auto" stands for."""
        method = super().for_model(shapes)
        if method.rank != "auto":
            return method
        return replace(method, rank=min(128, *(side for size in method.sizes(shapes) for side in size)))

    def config(self, targets):
        """PEFT's PSOFT; its alpha cancels, and stands at a value that scales by 1."""
        from peft import PsoftConfig

        return PsoftConfig(task_type="CAUSAL_LM", r=self.rank, psoft_alpha=self.rank, target_modules=targets)

    def layer(self, inputs: int, outputs: int) -> int:
        """What R is made from, rank (rank - 1) / 2, and the two vectors."""
        return self.rank * (self.rank - 1) // 2 + 2 * self.rank
