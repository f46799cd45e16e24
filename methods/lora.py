"""LoRA: a trained product of two thin matrices beside each chosen frozen one (Hu et al. 2021, arXiv:2106.09685)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff.parameters import ParameterCounts, Shapes


@dataclass(frozen=True)
class LoRA:
    """W x + (alpha / rank) B A x, with A rank x inputs and B outputs x rank."""

    name: ClassVar[str] = "lora"

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    def attach(self, model, tokenizer):
        """Wraps `model` in PEFT's LoRA on the linear layers named in `targets`."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            bias="none",
            target_modules=list(self.targets),
        )
        return get_peft_model(model, config)

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """rank x (inputs + outputs) for every matrix named by `targets`."""
        ends = tuple(f".{target}.weight" for target in self.targets)
        added = sum(self.rank * sum(shapes[name]) for name in shapes if name.endswith(ends))
        return ParameterCounts(
            total=shapes.total + added, trainable=added, frozen=shapes.total, added=added, tied=shapes.tied
        )
