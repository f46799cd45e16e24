"""Last blocks: train the last transformer blocks, freeze everything before and after them."""

import re
from dataclasses import dataclass
from typing import ClassVar

from bakeoff import ParameterCounts, Shapes


@dataclass(frozen=True)
class LastBlocks:
    """The last `blocks` transformer blocks; embeddings, final norm and output head stay as they are."""

    name: ClassVar[str] = "last-blocks"
    by_default: ClassVar[bool] = False
    training: ClassVar[dict[str, float]] = {"learning_rate": 3e-4}

    blocks: int = 2

    def attach(self, model, tokenizer):
        """Freezes all but these blocks."""
        from bakeoff import shapes_of

        names = set(self.within(shapes_of(model)))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
        return model

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """All tensors of these blocks, none added."""
        return ParameterCounts.within(shapes, self.within(shapes))

    def within(self, shapes: Shapes) -> list[str]:
        """The tensors of the last blocks. Raises ValueError where there are fewer."""
        if not 1 <= self.blocks <= shapes.layers:
            raise ValueError(f"blocks = {self.blocks}: expected 1 to {shapes.layers}, which the model has")
        first = shapes.layers - self.blocks
        # A block's tensors carry its number first: model.layers.29.mlp.up_proj.weight, transformer.h.11.ln_1.bias.
        numbers = {name: re.search(r"\.(\d+)\.", name) for name in shapes}
        return [name for name, number in numbers.items() if number and int(number[1]) >= first]
