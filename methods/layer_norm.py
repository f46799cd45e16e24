"""LayerNorm tuning: train the normalisation layers alone (Zhao et al. 2023, arXiv:2312.11420)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import ParameterCounts, Shapes


@dataclass(frozen=True)
class LayerNorm:
    """The scale, and the shift where there is one, of every LayerNorm or RMSNorm."""

    name: ClassVar[str] = "layer-norm"
    by_default: ClassVar[bool] = False
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-2}

    def attach(self, model, tokenizer):
        """Freezes all but the normalisation layers."""
        from bakeoff import shapes_of

        names = set(within(shapes_of(model)))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
        return model

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """All tensors of these layers, none added."""
        return ParameterCounts.within(shapes, within(shapes))


def within(shapes: Shapes) -> list[str]:
    """The tensors of the normalisation layers."""
    return [name for name in shapes if name.rpartition(".")[0] in shapes.norms]
