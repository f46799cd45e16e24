"""OLoRA: LoRA that starts from an orthonormal basis of the weight (Büyükakyüz 2024, arXiv:2406.01775)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class OLoRA(Adapter):
    """(W - s Q R) x + s B A x; B starts as the first `rank` columns of Q, and A as the first rows of R, of W = Q R.

    s = alpha / rank. Attaching again decomposes the same W, and freezes the same W - s Q R.
    """

    name: ClassVar[str] = "olora"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-3}

    rank: int = 16
    alpha: float = 16.0

    def config(self, targets):
        """PEFT's LoRA, started from the QR decomposition."""
        from peft import LoraConfig

        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,
            init_lora_weights="olora",
            target_modules=targets,
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x (inputs + outputs): A and B. Q has no more columns than the matrix's shorter side is long."""
        return min(self.rank, inputs, outputs) * (inputs + outputs)

    def attach(self, model, tokenizer):
        """Wraps `model` in it. Raises ValueError for a layer whose weight lies inputs x outputs (Conv1D)."""
        from bakeoff import shapes_of, target_layers

        for name in target_layers(self.targets, shapes_of(model)):
            if type(model.get_submodule(name)).__name__ == "Conv1D":
                raise ValueError(f"PEFT's OLoRA decomposes {name}, a Conv1D, as if it were transposed")
        return super().attach(model, tokenizer)
