"""BitFit: train the biases alone (Ben Zaken et al. 2021, arXiv:2106.10199)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import ParameterCounts, Shapes


@dataclass(frozen=True)
class BitFit:
    """Every bias of the model; a linear layer without one (all of Llama's) gets one that starts at 0, but the head."""

    name: ClassVar[str] = "bitfit"
    by_default: ClassVar[bool] = False
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-2}

    def attach(self, model, tokenizer):
        """Freezes all but the biases."""
        import torch

        from bakeoff import shapes_of

        model.requires_grad_(False)
        for name in lacking(shapes_of(model)):
            layer = model.get_submodule(name)
            layer.bias = torch.nn.Parameter(layer.weight.new_zeros(layer.out_features))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_bias(name))
        return model

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """Those that exist, and one number for every output of a layer that had none."""
        own = sum(shapes.size(name) for name in shapes if is_bias(name))
        added = sum(shapes.linear[name][1] for name in lacking(shapes))
        total = shapes.total + added
        return ParameterCounts(
            total=total, trainable=own + added, frozen=total - own - added, added=added, tied=shapes.tied
        )


def is_bias(name: str) -> bool:
    """Whether a parameter is a bias, by its name."""
    return name.rpartition(".")[2] == "bias"


def lacking(shapes: Shapes) -> list[str]:
    """The linear layers without a bias, but for the output head."""
    return [name for name in shapes.linear if name != shapes.head and f"{name}.bias" not in shapes]
