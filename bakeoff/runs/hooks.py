"""What a method has to say while it is trained: its parameter groups, its penalty, what it does after a step."""

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch

from bakeoff.config.schema import TrainingSettings
from bakeoff.methods.api import ParameterGroup, hook


class Hooks:
    """A method's hooks on the model that it is attached to; without a method they do nothing."""

    def __init__(self, model: torch.nn.Module, method: Any = None) -> None:
        self.model = model
        self.group = hook(method, "parameter_group")
        self._penalty = hook(method, "penalty")
        self._after_step = hook(method, "after_step")
        self._step_state = hook(method, "step_state")

    def parameter_groups(self, recipe: TrainingSettings) -> list[dict[str, Any]]:
        """What an optimizer takes: the trained parameters, those that are treated alike together."""
        groups: dict[ParameterGroup, list[torch.nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(self.group(name), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": recipe.learning_rate * group.learning_rate,
                "weight_decay": recipe.weight_decay * group.weight_decay,
            }
            for group, parameters in groups.items()
        ]

    def penalty(self) -> torch.Tensor | None:
        """What is added to the loss of a step."""
        found: torch.Tensor | None = self._penalty(self.model)
        return found

    def after_step(self, step: int, steps: int) -> None:
        """Tells the method that optimizer step `step` of `steps` was taken."""
        self._after_step(self.model, step, steps)

    def step_state(self) -> Mapping[str, MutableMapping[str, torch.Tensor]]:
        """What the method keeps from one step to the next."""
        found: Mapping[str, MutableMapping[str, torch.Tensor]] = self._step_state(self.model)
        return found
