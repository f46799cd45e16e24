"""LLaMA-Adapter: prompts in the upper layers, behind a gate that starts shut (Zhang et al. 2023, arXiv:2303.16199)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import ParameterCounts, Shapes


@dataclass(frozen=True)
class AdaptionPrompt:
    """attention(x) + g attention(x, P) in the last `layers` layers; P has `virtual_tokens` embeddings, g starts at 0.

    0 `layers` are all of them.
    """

    name: ClassVar[str] = "adaption-prompt"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 3e-2}

    virtual_tokens: int = 10
    layers: int = 0

    def attach(self, model, tokenizer):
        """Wraps `model` in PEFT's adaption prompt."""
        from peft import AdaptionPromptConfig, get_peft_model

        layers = self.layers or model.config.num_hidden_layers
        config = AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=self.virtual_tokens, adapter_layers=layers)
        return get_peft_model(model, config)

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """The prompt of each layer, as wide as the hidden states, and its gate."""
        width = shapes[f"{shapes.embedding}.weight"][1]
        return ParameterCounts.beside(shapes, (self.layers or shapes.layers) * (self.virtual_tokens * width + 1))
