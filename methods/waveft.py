"""WaveFT: train a few wavelet coefficients of a weight's change (Bilican et al. 2025, arXiv:2505.12532)."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from bakeoff import Adapter, Shapes


@dataclass(frozen=True)
class WaveFT(Adapter):
    """W x + scale IDWT(F) x: F has `coefficients` trained numbers, from 0, at places drawn by `seed`, and else 0.

    IDWT is one level of the inverse of the wavelet transform of this `family`. "auto" stands for 2,592 coefficients, at
    most a quarter of the smallest target layer.
    """

    name: ClassVar[str] = "waveft"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-3}

    coefficients: int | Literal["auto"] = "auto"
    scale: float = 25.0
    family: str = "db1"
    seed: int = 777

    def for_model(self, shapes: Shapes):
        """With the number that "auto" stands for."""
        method = super().for_model(shapes)
        if method.coefficients != "auto":
            return method
        smallest = min(inputs * outputs for inputs, outputs in method.sizes(shapes))
        return replace(method, coefficients=min(2592, smallest // 4))

    def config(self, targets):
        """PEFT's WaveFT."""
        from peft import WaveFTConfig

        return WaveFTConfig(
            task_type="CAUSAL_LM",
            n_frequency=self.coefficients,
            scaling=self.scale,
            wavelet_family=self.family,
            random_loc_seed=self.seed,
            target_modules=targets,
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """The coefficients, as many in every layer."""
        return self.coefficients
