"""FourierFT: train a few Fourier coefficients of a weight's change (Gao et al. 2024, arXiv:2405.03003)."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from bakeoff import Adapter, Shapes


@dataclass(frozen=True)
class FourierFT(Adapter):
    """W x + scale Re(IDFT(F)) x: F has `coefficients` trained numbers at places drawn by `seed`, and else 0.

    The inverse transform divides by inputs x outputs, so a scale fits one size of layers. "auto" stands for 1,000
    coefficients, at most a quarter of the smallest target layer, and for a scale of inputs x outputs / 4,000 on
    average: about 150 for layers of 768 x 768, as for RoBERTa in the paper.
    """

    name: ClassVar[str] = "fourierft"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-1}

    coefficients: int | Literal["auto"] = "auto"
    scale: float | Literal["auto"] = "auto"
    seed: int = 777

    def for_model(self, shapes: Shapes):
        """With the numbers that "auto" stands for."""
        method = super().for_model(shapes)
        areas = [inputs * outputs for inputs, outputs in method.sizes(shapes)]
        if method.coefficients == "auto":
            method = replace(method, coefficients=min(1000, min(areas) // 4))
        if method.scale == "auto":
            method = replace(method, scale=sum(areas) / len(areas) / 4000)
        return method

    def config(self, targets):
        """PEFT's FourierFT; the coefficients start from a standard normal distribution, as in the paper."""
        from peft import FourierFTConfig

        return FourierFTConfig(
            task_type="CAUSAL_LM",
            n_frequency=self.coefficients,
            scaling=self.scale,
            random_loc_seed=self.seed,
            target_modules=targets,
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """The coefficients, as many in every layer."""
        return self.coefficients
