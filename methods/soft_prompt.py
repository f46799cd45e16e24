"""Soft prompt: trained embeddings in front of the prompt of a frozen model (Lester et al. 2021, arXiv:2104.08691)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff.parameters import ParameterCounts, Shapes

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")


@dataclass(frozen=True)
class SoftPrompt:
    """`virtual_tokens` embeddings, each of the hidden size.

    They start from the embeddings of `text`, repeated or cut to length, or at random where `text` is empty.
    """

    name: ClassVar[str] = "soft-prompt"

    virtual_tokens: int = 20
    text: str = ""

    def attach(self, model, tokenizer):
        """Wraps `model` in PEFT's prompt tuning."""
        import torch
        from peft import PromptTuningConfig, get_peft_model

        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=self.virtual_tokens)
        start = self._start(model, tokenizer)
        wrapped = get_peft_model(model, config)
        if start is not None:
            with torch.no_grad():
                wrapped.prompt_encoder.default.embedding.weight.copy_(start)
        return wrapped

    def _start(self, model, tokenizer):
        """virtual_tokens x hidden: the embeddings of `text`; None without a text, or without a tokenizer (counting)."""
        import torch

        if not self.text or tokenizer is None:
            return None
        ids = tokenizer(self.text, add_special_tokens=False).input_ids
        ids = (ids * (self.virtual_tokens // len(ids) + 1))[: self.virtual_tokens]
        embeddings = model.get_input_embeddings().weight
        return embeddings[torch.tensor(ids, device=embeddings.device)].detach().clone()

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """virtual_tokens x the width of the input embedding."""
        width = next(shapes[name][1] for name in shapes if name.endswith(EMBEDDINGS))
        added = self.virtual_tokens * width
        return ParameterCounts(
            total=shapes.total + added, trainable=added, frozen=shapes.total, added=added, tied=shapes.tied
        )
