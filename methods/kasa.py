"""KaSA: LoRA with trained singular values, on a weight without its least ones (Wang et al. 2024, arXiv:2412.06071)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class KaSA(Adapter):
    """W_k x + (alpha / rank) B diag(e) A x; W_k is W without its `rank` smallest singular values, and is frozen.

    A layer with few outputs, as the values of grouped heads are, may have no singular value to spare; then the model
    starts from a much higher loss.

    The loss has two terms more (their equations 9 to 12): `beta` sum of e^2, and `gamma` times how far A's rows and B's
    columns are from orthonormal.
    """

    name: ClassVar[str] = "kasa"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 4e-3}

    rank: int = 8
    alpha: float = 16.0
    beta: float = 1e-4
    gamma: float = 1e-3

    def config(self, targets):
        """PEFT's KaSA; it has no say in the loss, which is `penalty`'s."""
        from peft import KasaConfig, LoraConfig

        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,
            kasa_config=KasaConfig(beta=self.beta, gamma=self.gamma),
            target_modules=targets,
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x (inputs + outputs + 1): A, B and e."""
        return self.rank * (inputs + outputs + 1)

    def penalty(self, model):
        """beta |e|^2 + gamma (|A A' - I| + |B' B - I|), summed over the layers."""
        import torch

        total = 0.0
        for name, tensor in model.named_parameters():
            if ".lora_diag" in name:
                total = total + self.beta * tensor.square().sum()
            elif ".lora_A" in name or ".lora_B" in name:
                gram = tensor @ tensor.T if ".lora_A" in name else tensor.T @ tensor
                total = total + self.gamma * torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device))
        return total
