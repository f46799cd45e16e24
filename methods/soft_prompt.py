"""Soft prompt: trained embeddings in front of the prompt of a frozen model (Lester et al. 2021, arXiv:2104.08691)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import ParameterCounts, Shapes


@dataclass(frozen=True)
class SoftPrompt:
    """`virtual_tokens` embeddings, each as wide as the input embedding, which may be narrower than the hidden size.

    They start from the embeddings of `text`, repeated or cut to length, or at random where `text` is empty.
    """

    name: ClassVar[str] = "soft-prompt"
    groups: ClassVar[tuple[str, ...]] = ("reference", "peft")

    virtual_tokens: int = 20
    text: str = ""

    def attach(self, model, tokenizer):
        """Wraps `model` in PEFT's prompt tuning."""
        import torch
        from peft import PromptTuningConfig, get_peft_model

        config = PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.virtual_tokens,
            token_dim=model.get_input_embeddings().weight.shape[1],
            # PEFT asks every prompt for these two; this one has no use for them, and not every model has heads.
            num_layers=1,
            num_attention_heads=1,
        )
        start = self._start(model, tokenizer)
        wrapped = get_peft_model(model, config)
        if start is not None:
            with torch.no_grad():
                wrapped.prompt_encoder.default.embedding.weight.copy_(start)
        return wrapped

    def check(self, tokenizer):
        """Raises ValueError for a text of which the tokenizer makes no token."""
        if self.text and not (self.text.strip() and self._ids(tokenizer)):
            raise ValueError(f"text = {self.text!r} holds no token; give it a word, or leave it empty: a random start")

    def _ids(self, tokenizer):
        return tokenizer(self.text, add_special_tokens=False).input_ids

    def _start(self, model, tokenizer):
        """virtual_tokens x width: what the model sees for `text`; None without a text, or a tokenizer (counting)."""
        import torch

        if not self.text or tokenizer is None:
            return None
        ids = self._ids(tokenizer)
        ids = (ids * (self.virtual_tokens // len(ids) + 1))[: self.virtual_tokens]
        embeddings = model.get_input_embeddings()
        # Called, not read: some modules scale their rows. What a model does to all embeddings it does to virtual ones.
        with torch.no_grad():
            return embeddings(torch.tensor(ids, device=embeddings.weight.device)).detach().clone()

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """virtual_tokens x the width of the input embedding."""
        width = shapes[f"{shapes.embedding}.weight"][1]
        added = self.virtual_tokens * width
        return ParameterCounts.beside(shapes, added)
