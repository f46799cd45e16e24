"""Virtual tokens: trained embeddings, or keys and values, that PEFT puts in front of every sequence."""

from typing import Any


def virtual_tokens(model: Any) -> int:
    """How many there are; 0 for a model without them."""
    config = getattr(model, "active_peft_config", None)
    return getattr(config, "num_virtual_tokens", 0) if getattr(config, "is_prompt_learning", False) else 0
