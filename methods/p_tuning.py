"""P-tuning: virtual tokens that a small network computes from trained embeddings (arXiv:2103.10385)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import ParameterCounts, Shapes


@dataclass(frozen=True)
class PTuning:
    """`virtual_tokens` embeddings through a perceptron with two hidden layers of size `hidden` (Liu et al. 2021)."""

    name: ClassVar[str] = "p-tuning"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 3e-3}

    virtual_tokens: int = 20
    hidden: int = 128

    def attach(self, model, tokenizer):
        """Wraps `model` in PEFT's prompt encoder."""
        from peft import PromptEncoderConfig, get_peft_model

        config = PromptEncoderConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.virtual_tokens,
            encoder_hidden_size=self.hidden,
            token_dim=model.get_input_embeddings().weight.shape[1],
            # PEFT asks every prompt for these two; this one has no use for them, and not every model has heads.
            num_layers=1,
            num_attention_heads=1,
        )
        return get_peft_model(model, config)

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """Embeddings and three linear layers with bias: width to hidden, hidden to hidden, hidden to width."""
        width = shapes[f"{shapes.embedding}.weight"][1]
        embeddings = self.virtual_tokens * width
        perceptron = (width + 1) * self.hidden + (self.hidden + 1) * self.hidden + (self.hidden + 1) * width
        return ParameterCounts.beside(shapes, embeddings + perceptron)
