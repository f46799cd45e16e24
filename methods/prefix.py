"""Prefix tuning: trained keys and values in front of every layer's (Li and Liang 2021, arXiv:2101.00190)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import ParameterCounts, Shapes


@dataclass(frozen=True)
class Prefix:
    """`virtual_tokens` keys and values in each layer, trained as they are, or computed from embeddings while training.

    With `hidden` above 0 they are the output of a multilayer perceptron of this hidden size, as in the paper.
    """

    name: ClassVar[str] = "prefix"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-2}

    virtual_tokens: int = 20
    hidden: int = 0

    def attach(self, model, tokenizer):
        """Wraps `model` in PEFT's prefix tuning."""
        from peft import PrefixTuningConfig, get_peft_model

        config = PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.virtual_tokens,
            prefix_projection=self.hidden > 0,
            encoder_hidden_size=self.hidden or None,
        )
        return get_peft_model(model, config)

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """A key and a value of each virtual token in each layer, or the perceptron that computes them."""
        if not shapes.layers or not shapes.key_width:
            raise ValueError("the model's configuration does not say how many layers it has, or how wide a key is")
        outputs = shapes.layers * 2 * shapes.key_width
        if not self.hidden:
            return ParameterCounts.beside(shapes, self.virtual_tokens * outputs)
        embeddings = self.virtual_tokens * shapes.key_width
        perceptron = (shapes.key_width + 1) * self.hidden + (self.hidden + 1) * outputs
        return ParameterCounts.beside(shapes, embeddings + perceptron)
