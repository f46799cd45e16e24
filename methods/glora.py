"""GLoRA: scale and shift a weight, and a bias, by low-rank matrices (Chavan et al. 2023, arXiv:2306.07967)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter, ParameterCounts, Shapes, target_layers


@dataclass(frozen=True)
class GLoRA(Adapter):
    """(W + W * A + B) x + b + D b + E + W C, with * by element; A to E start at 0.

    A and B are products of two matrices of this `rank`, C of a matrix and a vector; D and E are numbers. C, D and E
    exist where the layer has a bias b.
    """

    name: ClassVar[str] = "glora"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 3e-3}

    rank: int = 8

    def config(self, targets):
        """PEFT's GLoRA."""
        from peft import GloraConfig

        return GloraConfig(task_type="CAUSAL_LM", r=self.rank, target_modules=targets)

    def layer(self, inputs: int, outputs: int) -> int:
        """A and B."""
        return 2 * self.rank * (inputs + outputs)

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """A and B of every layer; C, rank x (inputs + 1), D and E where it has a bias."""
        trained = 0
        for name, (inputs, outputs) in target_layers(self.targets, shapes).items():
            trained += self.layer(inputs, outputs)
            if f"{name}.bias" in shapes:
                trained += self.rank * (inputs + 1) + 2
        return ParameterCounts.beside(shapes, trained)
