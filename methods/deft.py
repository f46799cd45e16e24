"""DEFT: remove a subspace of the weight and put something new in its place (Kumar et al. 2025, arXiv:2509.22793)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bakeoff import Adapter


@dataclass(frozen=True)
class DEFT(Adapter):
    """(W - Q K' W) x + Q R x; R starts at K' W, so that the model starts as it was.

    With `relu`, Q = P and K = relu(P); with `qr`, Q = K is an orthonormal basis of P's columns.
    """

    name: ClassVar[str] = "deft"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 3e-3}

    rank: int = 16
    decomposition: Literal["relu", "qr"] = "relu"

    def config(self, targets):
        """PEFT's DEFT."""
        from peft import DeftConfig

        return DeftConfig(
            task_type="CAUSAL_LM", r=self.rank, decomposition_method=self.decomposition, target_modules=targets
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x (inputs + outputs): P and R. There are no more directions to remove than outputs."""
        return min(self.rank, outputs) * (inputs + outputs)
