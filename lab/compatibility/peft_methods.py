"""Methods that PEFT knows and Bakeoff does not ship, for the compatibility table.

They are used as `--method lab/compatibility/peft_methods.py`.

A count needs what no shape tells (how many layers, how wide a key is), so it stands among the hyperparameters.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from bakeoff.methods.parameters import ParameterCounts, Shapes, shapes_of
from bakeoff.methods.targets import target_layers, target_names


def adding(shapes: Shapes, added: int) -> ParameterCounts:
    """A frozen base model and `added` trained numbers."""
    return ParameterCounts(
        total=shapes.total + added, trainable=added, frozen=shapes.total, added=added, tied=shapes.tied
    )


@dataclass(frozen=True)
class Prefix:
    """Trained keys and values in front of every layer's (Li and Liang 2021, arXiv:2101.00190)."""

    name: ClassVar[str] = "prefix"
    by_default: ClassVar[bool] = False

    virtual_tokens: int = 4
    layers: int = 2
    width: int = 32
    """Key heads x width of a head."""

    def attach(self, model: Any, tokenizer: Any) -> Any:
        """Wraps `model` in PEFT's prefix tuning."""
        from peft import PrefixTuningConfig, get_peft_model

        return get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=self.virtual_tokens))

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """A key and a value of each virtual token in each layer."""
        return adding(shapes, self.virtual_tokens * self.layers * 2 * self.width)


@dataclass(frozen=True)
class ProjectedPrefix:
    """The same computed from small embeddings by a multilayer perceptron."""

    name: ClassVar[str] = "prefix-projection"
    by_default: ClassVar[bool] = False

    virtual_tokens: int = 4
    layers: int = 2
    width: int = 32
    hidden: int = 16

    def attach(self, model: Any, tokenizer: Any) -> Any:
        """Wraps `model` in PEFT's prefix tuning with a projection."""
        from peft import PrefixTuningConfig, get_peft_model

        config = PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.virtual_tokens,
            prefix_projection=True,
            encoder_hidden_size=self.hidden,
        )
        return get_peft_model(model, config)

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """Embeddings and two linear layers with bias."""
        out = self.layers * 2 * self.width
        first = self.width * self.hidden + self.hidden
        return adding(shapes, self.virtual_tokens * self.width + first + self.hidden * out + out)


@dataclass(frozen=True)
class PTuning:
    """Trained embeddings that a multilayer perceptron computes (Liu et al. 2021, arXiv:2103.10385)."""

    name: ClassVar[str] = "p-tuning"
    by_default: ClassVar[bool] = False

    virtual_tokens: int = 4
    width: int = 32
    """Of the input embedding."""
    hidden: int = 16

    def attach(self, model: Any, tokenizer: Any) -> Any:
        """Wraps `model` in PEFT's prompt encoder."""
        from peft import PromptEncoderConfig, get_peft_model

        config = PromptEncoderConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=self.virtual_tokens, encoder_hidden_size=self.hidden
        )
        return get_peft_model(model, config)

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """Embeddings and three linear layers with bias."""
        inner = self.width * self.hidden + self.hidden + self.hidden * self.hidden + self.hidden
        return adding(shapes, self.virtual_tokens * self.width + inner + self.hidden * self.width + self.width)


@dataclass(frozen=True)
class IA3:
    """Trained factors of what a linear layer gives (Liu et al. 2022, arXiv:2205.05638)."""

    name: ClassVar[str] = "ia3"
    by_default: ClassVar[bool] = False

    def attach(self, model: Any, tokenizer: Any) -> Any:
        """Wraps `model` in PEFT's IA3 on the layers that LoRA adapts by default."""
        from peft import IA3Config, get_peft_model

        names = list(target_names("auto", shapes_of(model)))
        return get_peft_model(model, IA3Config(task_type="CAUSAL_LM", target_modules=names, feedforward_modules=[]))

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """One factor an output."""
        return adding(shapes, sum(outputs for _, outputs in target_layers("auto", shapes).values()))
