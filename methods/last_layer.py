"""Last layer: train the output head, freeze everything below it."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import ParameterCounts, Shapes


@dataclass(frozen=True)
class LastLayer:
    """The output head, a matrix of vocabulary x hidden size, and its bias where it has one.

    Many models tie the head to the input embedding. `untie = false` trains the tied tensor as the model ships it, so
    the input embedding moves, too; `untie = true` gives the head a copy of its own first.
    """

    name: ClassVar[str] = "last-layer"
    groups: ClassVar[tuple[str, ...]] = ("reference",)

    untie: bool = False

    def attach(self, model, tokenizer):
        """Freezes `model` but for its head; unties the head where asked."""
        from torch import nn

        model.requires_grad_(False)
        head = model.get_output_embeddings()
        if self.untie and head.weight is model.get_input_embeddings().weight:
            head.weight = nn.Parameter(head.weight.detach().clone())
            model.config.tie_word_embeddings = False
        head.requires_grad_(True)
        return model

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """One matrix and its bias; untied, the matrix is a copy that the base model does not have."""
        if not shapes.head:
            raise ValueError("the model has no output head that is a layer of its own")
        head, bias = f"{shapes.head}.weight", f"{shapes.head}.bias"
        size = shapes.size(head)
        trainable = size + (shapes.size(bias) if bias in shapes else 0)
        second_names = (len(shapes.names(head)) - 1) * size
        added = size if self.untie and second_names else 0
        return ParameterCounts(
            total=shapes.total + added,
            trainable=trainable,
            frozen=shapes.total + added - trainable,
            added=added,
            tied=shapes.tied - (second_names if added else 0),
            tied_trainable=0 if added else second_names,
        )
