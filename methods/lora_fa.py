"""LoRA-FA: LoRA whose A stays at its random start (Zhang et al. 2023, arXiv:2308.03303)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class LoRAFA(Adapter):
    """W x + (alpha / rank) B A x; A is random and frozen, drawn from `seed`, and B is trained."""

    name: ClassVar[str] = "lora-fa"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 4e-3}

    rank: int = 16
    alpha: float = 32.0
    seed: int = 0

    def attach(self, model, tokenizer):
        """Wraps `model` in PEFT's LoRA, draws every A anew and freezes it."""
        import torch

        model = super().attach(model, tokenizer)
        draw = torch.Generator().manual_seed(self.seed)
        for name, weight in model.named_parameters():
            if ".lora_A." in name:
                bound = weight.shape[1] ** -0.5  # where LoRA's A starts: uniform, +-1 / sqrt(inputs)
                weight.data.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=draw))
                weight.requires_grad_(False)
        return model

    def config(self, targets):
        """PEFT's LoRA."""
        from peft import LoraConfig

        return LoraConfig(task_type="CAUSAL_LM", r=self.rank, lora_alpha=self.alpha, target_modules=targets)

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x outputs: B."""
        return self.rank * outputs

    def constants(self, inputs: int, outputs: int) -> int:
        """rank x inputs: A."""
        return self.rank * inputs
