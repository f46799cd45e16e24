"""PiSSA: train the principal singular values and vectors, freeze the rest (Meng et al. 2024, arXiv:2404.02948)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class PiSSA(Adapter):
    """(W - B A) x + B A x, where B A starts as the `rank` greatest parts of W's singular value decomposition.

    B = U sqrt(S) and A = sqrt(S) V', so that the model starts as it was. The decomposition is exact, so that attaching
    again freezes the same W - B A.
    """

    name: ClassVar[str] = "pissa"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-3}

    rank: int = 16

    def config(self, targets):
        """PEFT's LoRA, started from the decomposition; alpha = rank, as in the paper."""
        from peft import LoraConfig

        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.rank,
            init_lora_weights="pissa",
            target_modules=targets,
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x (inputs + outputs): A and B. A matrix has no more singular values than its shorter side is long."""
        return min(self.rank, inputs, outputs) * (inputs + outputs)
