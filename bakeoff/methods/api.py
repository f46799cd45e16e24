"""What a method file may define: the contract between Bakeoff and the author of a method."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from bakeoff.data.tasks import Example, Examples
from bakeoff.methods.parameters import ParameterCounts, Shapes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Control", "Example", "Examples", "Method"]


class Method(Protocol):
    """A way to fine-tune: a frozen dataclass, its fields are its hyperparameters, each with a type and a default.

    It need not inherit from this class. What has a body here is optional.
    """

    name: ClassVar[str]
    """What `--method` calls it: letters, digits, - and _."""
    by_default: ClassVar[bool] = True
    """Whether `--method all` includes it."""
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
