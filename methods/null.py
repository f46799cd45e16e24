"""Null: LoRA's adapter trained at learning rate 0. It must write what the plain prompt writes, to the letter."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class Null(Adapter):
    """Goes every step of LoRA's way and moves nothing: B starts at 0, so the adapter adds 0."""

    name: ClassVar[str] = "null"
    by_default: ClassVar[bool] = False
    training: ClassVar[dict[str, float]] = {"learning_rate": 0.0, "epochs": 1}

    rank: int = 16

    def config(self, targets):
        """PEFT's LoRA."""
        from peft import LoraConfig

        return LoraConfig(task_type="CAUSAL_LM", r=self.rank, bias="none", target_modules=targets)

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x (inputs + outputs): A and B."""
        return self.rank * (inputs + outputs)
