"""EVA: LoRA whose A starts from the principal components of what each layer reads (arXiv:2410.07170)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import Adapter


@dataclass(frozen=True)
class EVA(Adapter):
    """LoRA (Paischer et al. 2024); A starts from the right singular vectors of what a layer reads, B from 0.

    What it reads are the tokens of the training documents. Every layer keeps the same rank (the paper's rho = 1), so
    that the counts are LoRA's.
    """

    name: ClassVar[str] = "eva"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)

    rank: int = 16
    alpha: float = 32.0

    def config(self, targets):
        """PEFT's LoRA; what `initialise` does needs no word of it, and the saved adapter is a plain LoRA."""
        from peft import LoraConfig

        return LoraConfig(task_type="CAUSAL_LM", r=self.rank, lora_alpha=self.alpha, target_modules=targets)

    def layer(self, inputs: int, outputs: int) -> int:
        """rank x (inputs + outputs): A and B."""
        return self.rank * (inputs + outputs)

    def initialise(self, model, documents):
        """A: the leading `rank` eigenvectors of each layer's sum of x x' over all tokens of the documents."""
        import torch

        sums, hooks = {}, []

        def add(layer, inputs):
            rows = inputs[0].detach().flatten(0, -2).double()
            sums[layer] = sums.get(layer, 0) + rows.T @ rows

        adapted = [module for module in model.modules() if "default" in getattr(module, "lora_A", ())]
        hooks = [module.base_layer.register_forward_pre_hook(add) for module in adapted]
        with torch.no_grad():
            for ids in documents:
                model(ids)
            for module in adapted:
                vectors = torch.linalg.eigh(sums[module.base_layer]).eigenvectors.flip(-1).T
                weight = module.lora_A["default"].weight
                weight.copy_(vectors[: len(weight)])
        for one in hooks:
            one.remove()
