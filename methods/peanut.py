"""PEANuT: a small network reads a weight and writes its change (Zhong et al. 2024, arXiv:2410.01870)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class PEANuT(Adapter):
    """(W + scale f(W)) x; f reads each column of W: B g(relu(A w)), with A rank x outputs and B, from 0, its reverse.

    g has `depth` hidden layers of rank x rank on its way in and as many on its way out, with residual connections;
    with a depth of 0 there is none.
    """

    name: ClassVar[str] = "peanut"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 3e-3}

    rank: int = 16
    depth: int = 0
    scale: float = 1.0

    def config(self, targets):
        """PEFT's PEANuT with relu."""
        from peft import PeanutConfig

        return PeanutConfig(
            task_type="CAUSAL_LM", r=self.rank, depth=self.depth, scaling=self.scale, target_modules=targets
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """A and B, and the hidden layers."""
        return 2 * self.rank * outputs + 2 * self.depth * self.rank**2
