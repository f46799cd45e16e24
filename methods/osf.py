"""OSF: train the small singular parts of a weight, keep the large ones (Nayak et al. 2025, arXiv:2504.07097)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class OSF(Adapter):
    """W = U S V': the largest singular values and their vectors, a share `kept`, stay; all of the rest is trained.

    Gradients of the trained vectors are made orthogonal to the kept ones, so that what these do is not forgotten.
    """

    name: ClassVar[str] = "osf"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-3}

    kept: float = 0.5

    def __post_init__(self):
        """Raises ValueError for a share that keeps nothing, or everything."""
        if not 0 < self.kept < 1:
            raise ValueError(f"kept = {self.kept}: expected a share between 0 and 1")

    def config(self, targets):
        """PEFT's OSF."""
        from peft import OSFConfig

        return OSFConfig(task_type="CAUSAL_LM", effective_rank=self.kept, target_modules=targets)

    def attach(self, model, tokenizer):
        """Wraps `model`. Raises ValueError where PEFT passes over all target layers: it adapts nn.Linear alone."""
        found = super().attach(model, tokenizer)
        if not any(parameter.requires_grad for parameter in found.parameters()):
            raise ValueError("PEFT's OSF adapts layers of the class torch.nn.Linear, and no target layer is one")
        return found

    def layer(self, inputs: int, outputs: int) -> int:
        """Each trained singular value with its two vectors."""
        rank = min(inputs, outputs)
        return (rank - int(rank * self.kept)) * (inputs + outputs + 1)
