"""Null: LoRA's adapter trained at learning rate 0. It must write what the plain prompt writes, to the letter."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff.parameters import ParameterCounts, Shapes


@dataclass(frozen=True)
class Null:
    """Goes every step of LoRA's way and moves nothing: B starts at 0, so the adapter adds 0."""

    name: ClassVar[str] = "null"
    by_default: ClassVar[bool] = False
    training: ClassVar[dict[str, float]] = {"learning_rate": 0.0, "epochs": 1}

    rank: int = 16
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    def attach(self, model, tokenizer):
        """Wraps `model` in PEFT's LoRA on the linear layers named in `targets`."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(task_type="CAUSAL_LM", r=self.rank, bias="none", target_modules=list(self.targets))
        return get_peft_model(model, config)

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """rank x (inputs + outputs) for every matrix named by `targets`."""
        ends = tuple(f".{target}.weight" for target in self.targets)
        added = sum(self.rank * sum(shapes[name]) for name in shapes if name.endswith(ends))
        return ParameterCounts(
            total=shapes.total + added, trainable=added, frozen=shapes.total, added=added, tied=shapes.tied
        )
