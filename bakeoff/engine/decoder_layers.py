"""Which modules of a model are its decoder layers."""

from typing import Any

import torch


def layers_of(model: Any) -> list[torch.nn.Module]:
    """The modules of a transformers model, or of what PEFT wrapped, that it says are computed as one; perhaps none."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(getattr(inner, "_no_split_modules", None) or ())
    return [module for module in inner.modules() if type(module).__name__ in names]
