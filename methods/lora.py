"""LoRA: a trained product of two thin matrices beside each chosen frozen one (Hu et al. 2021, arXiv:2106.09685)."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from bakeoff import ParameterCounts, Shapes, shapes_of, target_layers, target_names


@dataclass(frozen=True)
class LoRA:
    """W x + (alpha / rank) B A x, with A rank x inputs and B outputs x rank.

    `targets` are names of linear layers, as `["q_proj", "v_proj"]`; `"auto"` are those that PEFT adapts by default in
    the model's architecture, `"all-linear"` all but the output head. An `lm_head` that is tied may be named: the
    adapter stands beside the head alone, and the input embedding stays as it is.
    """

    name: ClassVar[str] = "lora"

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] | Literal["auto", "all-linear"] = "auto"

    def for_model(self, shapes: Shapes) -> "LoRA":
        """The same with the names that "auto" stands for in a model of these shapes."""
        return replace(self, targets=target_names("auto", shapes)) if self.targets == "auto" else self

    def attach(self, model, tokenizer):
        """Wraps `model` in PEFT's LoRA on its target layers."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            bias="none",
            target_modules=list(target_names(self.targets, shapes_of(model))),
        )
        return get_peft_model(model, config)

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """rank x (inputs + outputs) for every target layer."""
        sizes = target_layers(self.targets, shapes).values()
        added = sum(self.rank * (inputs + outputs) for inputs, outputs in sizes)
        return ParameterCounts(
            total=shapes.total + added, trainable=added, frozen=shapes.total, added=added, tied=shapes.tied
        )
