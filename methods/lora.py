"""LoRA: a trained product of two thin matrices beside each chosen frozen one (Hu et al. 2021, arXiv:2106.09685)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class LoRA(Adapter):
    """W x + (alpha / rank) B A x, with A rank x inputs and B outputs x rank; see Adapter for `targets`.

    An `lm_head` that is tied may be a target: the adapter stands beside the head alone, and the input embedding stays
    as it is.
    """

    name: ClassVar[str] = "lora"
    groups: ClassVar[tuple[str, ...]] = ("reference", "peft")

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0

    def config(self, targets):
        """PEFT's LoRA."""
        from peft import LoraConfig

        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            bias="none",
            target_modules=targets,
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x (inputs + outputs): A and B."""
        return self.rank * (inputs + outputs)
