"""OFT: rotate what a layer reads, block by block (Qiu et al. 2023, arXiv:2306.07280)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class OFT(Adapter):
    """W R x, with R block-diagonal and orthogonal: each block is (I - S) (I + S)^-1, S skew-symmetric, from 0.

    Each block turns `block` inputs among themselves.
    """

    name: ClassVar[str] = "oft"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 3e-3}

    block: int = 32

    def config(self, targets):
        """PEFT's OFT with the exact Cayley transform of the paper, in place of a series that approximates it."""
        from peft import OFTConfig

        return OFTConfig(
            task_type="CAUSAL_LM", oft_block_size=self.block, use_cayley_neumann=False, target_modules=targets
        )

    def layer(self, inputs: int, outputs: int) -> int:
        """Above the diagonal of S: block (block - 1) / 2 in each of inputs / block blocks. Raises ValueError."""
        if inputs % self.block:
            raise ValueError(f"block = {self.block} does not divide the {inputs} inputs of a target layer")
        return inputs // self.block * (self.block * (self.block - 1) // 2)
