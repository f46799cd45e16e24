"""Adapter: what methods that put a PEFT adapter beside chosen linear layers have in common."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from bakeoff.methods.parameters import ParameterCounts, Shapes, shapes_of
from bakeoff.methods.targets import target_layers, target_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Adapter:
    """A method that freezes the base model and trains something of its own beside some of its linear layers.

    A method of this kind defines `name`, `config` and, by the paper's formula, `layer`; where layers share what is
    trained, it defines `expected_parameters` instead of `layer`.

    `targets` are names of linear layers, as `["q_proj", "v_proj"]`; `"auto"` are those that PEFT adapts by default in
    the model's architecture, `"all-linear"` all but the output head.
    """

    targets: tuple[str, ...] | Literal["auto", "all-linear"] = "auto"

    def config(self, targets: list[str]) -> Any:
        """PEFT's configuration of the method on the layers that `targets` names."""
        raise NotImplementedError

    def layer(self, inputs: int, outputs: int) -> int:
        """Trained numbers beside a linear layer."""
        raise NotImplementedError

    def constants(self, inputs: int, outputs: int) -> int:
        """Numbers beside a linear layer that PEFT holds as parameters and nobody trains."""
        return 0

    def for_model(self, shapes: Shapes) -> Self:
        """The same with the names that "auto" stands for in a model of these shapes."""
        return replace(self, targets=target_names("auto", shapes)) if self.targets == "auto" else self

    def attach(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> Any:
        """Wraps `model` in PEFT's adapter on its target layers."""
        from peft import get_peft_model

        return get_peft_model(model, self.config(list(target_names(self.targets, shapes_of(model)))))

    def sizes(self, shapes: Shapes) -> list[tuple[int, int]]:
        """(inputs, outputs) of every target layer. Raises UsageError for a target that names none."""
        return list(target_layers(self.targets, shapes).values())

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """The sum of `layer` over the target layers."""
        sizes = self.sizes(shapes)
        return ParameterCounts.beside(
            shapes,
            sum(self.layer(inputs, outputs) for inputs, outputs in sizes),
            constants=sum(self.constants(inputs, outputs) for inputs, outputs in sizes),
        )
