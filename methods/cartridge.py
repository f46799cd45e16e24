"""Cartridge: a cache of keys and values, trained from a real one (Eyuboglu et al. 2025, arXiv:2506.06266)."""

from dataclasses import dataclass
from typing import ClassVar

from bakeoff import ParameterCounts, Shapes


@dataclass(frozen=True)
class Cartridge:
    """Keys and values of `virtual_tokens` in front of every layer's, started from those of the training documents.

    The first one, which attention often falls back upon, stays what the base model makes of its first token. Training
    is Bakeoff's own, on the documents' summaries; the paper's distils conversations about one long text.
    """

    name: ClassVar[str] = "cartridge"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 1e-2}

    virtual_tokens: int = 20

    def attach(self, model, tokenizer):
        """Wraps `model` in PEFT's cartridge; the frozen token is the one that begins a text, or the first there is."""
        import torch
        from peft import CartridgeConfig, get_peft_model

        config = CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=self.virtual_tokens, num_frozen_tokens=1)
        first = getattr(model.config, "bos_token_id", None) or 0
        row = torch.tensor([[first]], device=model.device)
        wrapped = get_peft_model(model, config)
        encoder = wrapped.prompt_encoder.default
        with torch.no_grad():
            encoder.frozen_embedding.copy_(computed(wrapped, row))
        return wrapped

    def initialise(self, model, documents):
        """Keys and values of the first tokens of the documents, one document after another until there are enough."""
        import torch

        row = torch.cat(list(documents), dim=1)[:, : self.virtual_tokens]
        found = computed(model, row)[1:]
        with torch.no_grad():
            model.prompt_encoder.default.trainable_embedding[: len(found)] = found

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """A key and a value of each virtual token in each layer; those of the first are not trained."""
        if not shapes.layers or not shapes.key_width:
            raise ValueError("the model's configuration does not say how many layers it has, or how wide a key is")
        token = shapes.layers * 2 * shapes.key_width
        return ParameterCounts.beside(shapes, (self.virtual_tokens - 1) * token, constants=token)


def computed(model, row):
    """tokens x (layers x 2 x key width): what the base model caches of the token ids `row`, 1 x tokens.

    There are fewer tokens than in `row` where attention has a window that is shorter: its cache keeps no more.
    """
    import torch
    from peft.tuners.cartridge.utils import prompt_embeddings_from_past_key_values

    inner = model.get_base_model()
    was = inner.training
    with torch.no_grad():
        cache = inner.eval()(input_ids=row, attention_mask=torch.ones_like(row), use_cache=True).past_key_values
    inner.train(was)
    length = min(keys.shape[2] for keys, *_ in cache)
    if length < row.shape[1]:
        return computed(model, row[:, :length])
    return prompt_embeddings_from_past_key_values(cache, num_virtual_tokens=length)
