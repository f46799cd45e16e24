"""Tiny models of many architectures whose attention is far from uniform."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lab.compatibility.architectures import ARCHITECTURES, WIDE


def peaked(name, **changes):
    """The model of an architecture by its name, the same at every call."""
    values = {**ARCHITECTURES[name], **changes}
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, WIDE)
    return model
