"""Full fine-tuning: every weight of the base model moves."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import ParameterCounts, Shapes


@dataclass(frozen=True)
class Full:
    """Trains the whole model as it ships; tied tensors stay tied."""

    name: ClassVar[str] = "full"

    def attach(self, model, tokenizer):
        """Makes every parameter trainable."""
        return model.requires_grad_(True)

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """All of them, none added."""
        total = shapes.total
        return ParameterCounts(total=total, trainable=total, frozen=0, tied=shapes.tied, tied_trainable=shapes.tied)
