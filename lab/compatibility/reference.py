"""What a trained model says, by transformers and PEFT alone: one document, no padding, no cache, explicit positions.

Nothing of Bakeoff's own way to compute is used here, so that it can be held against this.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

PREFIXES = ("PREFIX_TUNING", "CARTRIDGE")
"""PEFT's kinds that lie in the cache of keys and values."""


class Reference:
    """`clean`, a base model with a method attached, with the parameters of `trained`, another such model."""

    def __init__(self, clean: Any, trained: torch.nn.Module) -> None:
        """Raises ValueError where the two have parameters of other names."""
        self.model = clean.eval()
        self.peft = getattr(clean, "active_peft_config", None)
        self.inner = clean.get_base_model() if self.peft is not None else clean
        own, theirs = dict(clean.named_parameters()), dict(trained.named_parameters())
        if own.keys() != theirs.keys():
            raise ValueError(f"other parameters: {sorted(own.keys() ^ theirs.keys())[:3]}")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(theirs[name])
                parameter.requires_grad_(theirs[name].requires_grad)
        taken = inspect.signature(self.inner.forward).parameters
        self.positioned = "position_ids" in taken

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Tokens x vocabulary, of one document."""
        tokens = torch.tensor([list(ids)])
        if self.peft is None or not self.peft.is_prompt_learning:
            return self._forward(0, len(ids), input_ids=tokens)
        prompt = self.model.get_prompt(batch_size=1)
        virtual = self.peft.num_virtual_tokens
        if self.peft.peft_type.value in PREFIXES:
            mask = torch.ones(1, virtual + len(ids), dtype=torch.long)
            return self._forward(virtual, len(ids), input_ids=tokens, past_key_values=prompt, attention_mask=mask)
        embeddings = torch.cat([prompt, self.inner.get_input_embeddings()(tokens)], dim=1)
        return self._forward(0, virtual + len(ids), inputs_embeds=embeddings)[virtual:]

    def _forward(self, start: int, length: int, **inputs: Any) -> torch.Tensor:
        if self.positioned:
            inputs["position_ids"] = torch.arange(start, start + length)[None]
        logits: torch.Tensor = self.inner(use_cache=False, **inputs).logits[0]
        return logits

    def loss(self, ids: Sequence[int], prompt: int) -> torch.Tensor:
        """Cross-entropy in nats, summed over `ids[prompt:]`, by hand."""
        logits = self.logits(ids)[prompt - 1 : -1].float()
        labels = torch.tensor(list(ids[prompt:]))
        return (logits.logsumexp(-1) - logits.gather(1, labels[:, None])[:, 0]).sum()

    @torch.no_grad()
    def greedy(self, prompt: Sequence[int], limit: int, ends: Sequence[int]) -> tuple[list[int], float]:
        """At most `limit` new tokens, an end token included, and the narrowest lead of a token over the next best."""
        written: list[int] = []
        lead = float("inf")
        while len(written) < limit and not (written and written[-1] in ends):
            best = self.logits([*prompt, *written])[-1].float().topk(2)
            written.append(int(best.indices[0]))
            lead = min(lead, float(best.values[0] - best.values[1]))
        return written, lead


@torch.no_grad()
def merged(base: Any, trained: Any) -> Any:
    """`base`, a fresh base model, with LoRA's products added to its weights by hand: W + (alpha / r) B A."""
    weights = dict(base.named_modules())
    for name, module in trained.named_modules():
        if not hasattr(module, "lora_A") or "default" not in module.lora_A:
            continue
        target = weights[name.removeprefix("base_model.model.")]
        product = module.lora_B["default"].weight @ module.lora_A["default"].weight * module.scaling["default"]
        lies = type(target).__name__ == "Conv1D"  # inputs x outputs
        target.weight += product.T if lies else product
    return base.eval()
