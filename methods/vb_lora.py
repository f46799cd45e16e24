"""VB-LoRA: every part of A and B is a mix of vectors from one shared bank (Li et al. 2024, arXiv:2405.15179)."""

from dataclasses import dataclass, replace
from math import gcd
from typing import ClassVar, Literal

from bakeoff import Adapter, ParameterCounts, ParameterGroup, Shapes, shapes_of

LONGEST = 256


@dataclass(frozen=True)
class VBLoRA(Adapter):
    """W x + B A x; A and B consist of vectors of `length` numbers, each a mix of `top` of the bank's `vectors`.

    Every part has a logit for each vector of the bank; it mixes those of its greatest logits, by their softmax.
    `length` divides both sides of every layer; "auto" is the greatest number up to 256 that does.
    """

    name: ClassVar[str] = "vb-lora"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-1}

    rank: int = 4
    vectors: int = 90
    top: int = 2
    length: int | Literal["auto"] = "auto"

    def for_model(self, shapes: Shapes):
        """The same with the length that "auto" stands for."""
        method = super().for_model(shapes)
        if method.length != "auto":
            return method
        common = gcd(*(side for size in method.sizes(shapes) for side in size))
        return replace(method, length=next(n for n in range(LONGEST, 0, -1) if common % n == 0))

    def attach(self, model, tokenizer):
        """Wraps `model` in it, with the length that fits."""
        return Adapter.attach(self.for_model(shapes_of(model)), model, tokenizer)

    def config(self, targets):
        """PEFT's VB-LoRA."""
        from peft import VBLoRAConfig

        return VBLoRAConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            num_vectors=self.vectors,
            vector_length=self.length,
            topk=self.top,
            target_modules=targets,
        )

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """The bank, and a logit for each of its vectors at every part of every A and B."""
        method = self.for_model(shapes)
        parts = sum(self.rank * (inputs + outputs) // method.length for inputs, outputs in method.sizes(shapes))
        return ParameterCounts.beside(shapes, self.vectors * (method.length + parts))

    def parameter_group(self, name: str) -> ParameterGroup:
        """The bank learns at a tenth of the logits' rate."""
        return ParameterGroup(learning_rate=0.1 if "vector_bank" in name else 1.0)
