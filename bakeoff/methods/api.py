"""What a method file may define: the contract between Bakeoff and the author of a method."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from bakeoff.data.tasks import Example, Examples
from bakeoff.methods.parameters import ParameterCounts, Shapes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Control", "Example", "Examples", "Method", "ParameterGroup", "hook"]


@dataclass(frozen=True)
class ParameterGroup:
    """How the optimizer treats some parameters, beside what `[training]` says."""

    learning_rate: float = 1.0
    """A factor on `training.learning_rate`, at every step of the schedule."""
    weight_decay: float = 1.0
    """A factor on `training.weight_decay`."""


class Method(Protocol):
    """A way to fine-tune: a frozen dataclass, its fields are its hyperparameters, each with a type and a default.

    It need not inherit from this class. What has a body here is optional.
    """

    name: ClassVar[str]
    """What `--method` calls it: letters, digits, - and _."""
    by_default: ClassVar[bool] = True
    """Whether `--method all` includes it."""
    groups: ClassVar[tuple[str, ...]] = ()
    """What else `--method` calls it, together with others: `peft`, say."""
    training: ClassVar[Mapping[str, Any]] = {}
    """Its own changes to `[training]`; a preset's `[methods.NAME]` and `--set` win over them."""

    def attach(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> Any:
        """The model with the method in it; what is to be trained has `requires_grad`.

        It is called on the meta device, too, without values and with `tokenizer` None, where parameters are counted.
        """
        ...

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """The closed form of its counts, from the paper's formula, never from the attached model."""
        ...

    def for_model(self, shapes: Shapes) -> "Method":
        """The same method with the settings that the model decides, such as the layers that `"auto"` stands for."""
        return self

    def check(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Raises ValueError where a setting can't be used with this tokenizer."""

    def initialise(self, model: Any, documents: "Sequence[torch.Tensor]") -> None:
        """Starts the trained parameters of `model`, just attached, from the token ids of the training documents.

        Each of `documents` is one row, 1 x length. Whatever the base model brought must stay as it is: the trained
        tensors are loaded into a model that `attach` alone has made.
        """

    def parameter_group(self, name: str) -> ParameterGroup:
        """How the optimizer treats the trained parameter called `name`."""
        return ParameterGroup()

    def penalty(self, model: Any) -> "torch.Tensor | None":
        """What is added to the loss of every optimizer step; no curve shows it."""
        return None

    def after_step(self, model: Any, step: int, steps: int) -> None:
        """Called after optimizer step `step` of `steps` (from 1), while the gradients are still there."""

    def step_state(self, model: Any) -> Mapping[str, MutableMapping[str, "torch.Tensor"]]:
        """What `after_step` keeps from one step to the next, by name: the very dictionaries that it uses.

        Checkpoints hold them, so that a killed run goes on to the same bits.
        """
        return {}


def hook(method: Any, name: str) -> Callable[..., Any]:
    """What `method` defines as `name`, else what Method does."""
    return getattr(method, name, None) or partial(getattr(Method, name), method)


class Control(Protocol):
    """A row that trains nothing: a dataclass with `control = True` and `summarise`.

    One that asks the base model defines `attach` and `expected_parameters` instead, and freezes everything.
    """

    name: ClassVar[str]
    """What `--method` calls it."""
    control: ClassVar[bool] = True
    """Tells it from a method."""

    def summarise(self, examples: Examples) -> list[str]:
        """One summary for each of `examples.test`, in their order."""
        ...
