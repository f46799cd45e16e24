"""Super: train the largest entries of a weight (Super-Tuning, 2026, arXiv:2607.09287)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class Supertuning(Adapter):
    """(W + S) x: S, from 0, has trained numbers where |W| is largest; a share `sparsity` of it stays 0.

    With `rank` above 0 a LoRA of this rank stands beside it (the paper's Supra), scaled by alpha / rank.
    """

    name: ClassVar[str] = "supertuning"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-2}

    sparsity: float = 0.99
    rank: int = 0
    alpha: float = 32.0

    def config(self, targets):
        """PEFT's Super-Tuning, which chooses by magnitude."""
        from peft import SupertuningConfig

        return SupertuningConfig(
            task_type="CAUSAL_LM",
            sparsity=self.sparsity,
            r=self.rank or None,
            lora_alpha=self.alpha if self.rank else None,
            target_modules=targets,
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """The share of inputs x outputs that is trained, rounded down, and LoRA's two matrices."""
        return int(inputs * outputs * (1 - self.sparsity)) + self.rank * (inputs + outputs)
