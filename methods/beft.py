"""BEFT: train a bias of the value projections alone (Huang et al. 2025, arXiv:2509.15974)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from bakeoff import Adapter, Shapes

VALUES = ("v_proj", "value", "value_proj", "Wv", "v")
"""What architectures call the layer that computes values, where it is a layer of its own."""


@dataclass(frozen=True)
class BEFT(Adapter):
    """W x + b + d, with d trained from 0, whether the layer has a bias b or not.

    "auto" targets are the value projections, as in the paper.
    """

    name: ClassVar[str] = "beft"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 3e-2}

    def for_model(self, shapes: Shapes):
        """With the value projections that "auto" stands for. Raises ValueError where the model has none of its own."""
        if self.targets != "auto":
            return super().for_model(shapes)
        for name in VALUES:
            if any(layer.rpartition(".")[2] == name for layer in shapes.linear):
                return replace(self, targets=(name,))
        raise ValueError("the model has no value projection that is a layer of its own; set methods.NAME.targets")

    def config(self, targets):
        """PEFT's BEFT."""
        from peft import BeftConfig

        return BeftConfig(task_type="CAUSAL_LM", target_modules=targets)

    def layer(self, inputs: int, outputs: int) -> int:
        """One number for each output."""
        return outputs
