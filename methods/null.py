"""Null: LoRA's adapter trained at learning rate 0. It must write what the plain prompt writes, to the letter."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from bakeoff import ParameterCounts, Shapes, shapes_of, target_layers, target_names


@dataclass(frozen=True)
class Null:
    """Goes every step of LoRA's way and moves nothing: B starts at 0, so the adapter adds 0."""

    name: ClassVar[str] = "null"
    by_default: ClassVar[bool] = False
    training: ClassVar[dict[str, float]] = {"learning_rate": 0.0, "epochs": 1}

    rank: int = 16
    targets: tuple[str, ...] | Literal["auto", "all-linear"] = "auto"

    def for_model(self, shapes: Shapes) -> "Null":
        """The same with the names that "auto" stands for in a model of these shapes."""
        return replace(self, targets=target_names("auto", shapes)) if self.targets == "auto" else self

    def attach(self, model, tokenizer):
        """Wraps `model` in PEFT's LoRA on its target layers."""
        from peft import LoraConfig, get_peft_model

        names = list(target_names(self.targets, shapes_of(model)))
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=self.rank, bias="none", target_modules=names))

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """rank x (inputs + outputs) for every target layer."""
        sizes = target_layers(self.targets, shapes).values()
        added = sum(self.rank * (inputs + outputs) for inputs, outputs in sizes)
        return ParameterCounts(
            total=shapes.total + added, trainable=added, frozen=shapes.total, added=added, tied=shapes.tied
        )
