"""ParameterCounts: how many numbers a method adds and trains, each tensor counted once or at each of its names."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ParameterCounts:
    """Counts of parameters, each tensor once. Raises ValueError where they contradict each other."""

    total: int
    """All parameters of the model with what the method added."""
    trainable: int
    """Those that the method trains."""
    frozen: int
    """Those that it doesn't."""
    added: int = 0
    """Those that the base model does not have."""
    tied: int = 0
    """What a count at every name finds on top of `total`: the tensors that stand at a second name."""
    tied_trainable: int = 0
    """The trainable share of `tied`."""

    def __post_init__(self) -> None:
        if self.trainable + self.frozen != self.total or min(self.trainable, self.frozen, self.added) < 0:
            raise ValueError(f"contradictory counts: {self}")

    @classmethod
    def beside(cls, shapes: "Shapes", trained: int, constants: int = 0) -> "ParameterCounts":
        """Those of a frozen base model with `trained` numbers beside it, and `constants` that nobody trains."""
        added = trained + constants
        return cls(
            total=shapes.total + added,
            trainable=trained,
            frozen=shapes.total + constants,
            added=added,
            tied=shapes.tied,
        )

    @classmethod
    def within(cls, shapes: "Shapes", names: Iterable[str]) -> "ParameterCounts":
        """Those of a base model of which the tensors `names` are trained, and nothing is added."""
        homes = {shapes.ties.get(name, name) for name in names}
        trained = sum(shapes.size(name) for name in homes)
        return cls(
            total=shapes.total,
            trainable=trained,
            frozen=shapes.total - trained,
            tied=shapes.tied,
            tied_trainable=sum(shapes.size(name) for name, home in shapes.ties.items() if home in homes),
        )

    def with_ties(self) -> "ParameterCounts":
        """The same model with a tied tensor counted at each of its names, as published tables often do."""
        return ParameterCounts(
            total=self.total + self.tied,
            trainable=self.trainable + self.tied_trainable,
            frozen=self.frozen + self.tied - self.tied_trainable,
            added=self.added,
        )


class Shapes(Mapping[str, tuple[int, ...]]):
    """The shapes of a base model's parameters by name, each tensor once, and what its layers are.

    A closed form is written from these alone: `shapes["model.norm.weight"]` is a shape, `shapes.size(name)` a number.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        ties: Mapping[str, str] | None = None,
        *,
        linear: Mapping[str, tuple[int, int]] | None = None,
        head: str = "",
        embedding: str = "",
        model_type: str = "",
        norms: Iterable[str] = (),
        layers: int = 0,
        key_width: int = 0,
    ) -> None:
        self._shapes = dict(shapes)
        self.ties = dict(ties or {})
        """The first name of a tied tensor, by each of its other names."""
        self.linear = dict(linear or {})
        """(inputs, outputs) of every linear layer, by the layer's name; its weight may lie either way (Conv1D)."""
        self.head = head
        """The output head's name, as `lm_head`, so that `f"{head}.weight"` is its matrix; empty where there is none."""
        self.embedding = embedding
        """The input embedding's name, as `model.embed_tokens`; its weight is vocabulary x width."""
        self.model_type = model_type
        """The architecture as transformers calls it, as `llama`; empty where the model has no configuration."""
        self.norms = tuple(norms)
        """The names of the layers that normalise (LayerNorm, RMSNorm)."""
        self.layers = layers
        """Transformer blocks, by the configuration; 0 where it doesn't say."""
        self.key_width = key_width
        """Numbers in the keys of one token in one layer: key heads x width of a head; 0 where nobody says."""

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self._shapes[self.ties.get(name, name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def size(self, name: str) -> int:
        """Numbers in the tensor `name`."""
        return math.prod(self[name])

    @property
    def total(self) -> int:
        """Numbers in all tensors, each once."""
        return sum(self.size(name) for name in self)

    @property
    def tied(self) -> int:
        """Numbers that stand at a second name."""
        return sum(self.size(name) for name in self.ties)

    def names(self, first: str) -> list[str]:
        """Every name at which the tensor `first` stands."""
        home = self.ties.get(first, first)
        return [home, *(alias for alias, name in self.ties.items() if name == home)]


def shapes_of(model: "nn.Module") -> Shapes:
    """The shapes of `model`, which may stand on the meta device. Reads shapes only, never values."""
    first: dict[int, str] = {}
    shapes, ties = {}, {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        if id(tensor) in first:
            ties[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
            shapes[name] = shape_of(tensor)
    names = {id(module): name for name, module in model.named_modules()}
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    heads = getattr(config, "num_attention_heads", None) or 0
    width = getattr(config, "head_dim", None) or (getattr(config, "hidden_size", 0) // heads if heads else 0)
    return Shapes(
        shapes,
        ties,
        linear={name: size for name, module in model.named_modules() if (size := linear_size(module))},
        head=names.get(id(_of(model, "get_output_embeddings")), ""),
        embedding=names.get(id(_of(model, "get_input_embeddings")), ""),
        model_type=str(getattr(getattr(model, "config", None), "model_type", "")),
        norms=[name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()],
        layers=getattr(config, "num_hidden_layers", None) or 0,
        key_width=(getattr(config, "num_key_value_heads", None) or heads) * width,
    )


def shape_of(tensor: Any) -> tuple[int, ...]:
    """The shape of a parameter; of one that bitsandbytes packs into four bits, the shape that it stands for."""
    packed = getattr(getattr(tensor, "quant_state", None), "shape", None)
    return tuple(tensor.shape if packed is None else packed)


def linear_size(module: "nn.Module") -> tuple[int, int] | None:
    """(inputs, outputs) of a linear layer; None for another module."""
    from torch import nn

    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if any(kind.__name__ == "Conv1D" for kind in type(module).__mro__):  # transformers': its weight is inputs x outputs
        inputs, outputs = module.weight.shape  # type: ignore[misc]
        return int(inputs), int(outputs)
    return None


def _of(model: Any, getter: str) -> Any:
    """What the model's `getter` returns; None where it has none."""
    try:
        return getattr(model, getter)()
    except (AttributeError, NotImplementedError):
        return None


def count(model: "nn.Module", base: Shapes) -> ParameterCounts:
    """What `requires_grad` says of `model`, a base model of the shapes `base` with a method attached."""
    once = dict(model.named_parameters())
    # PEFT's wrapper holds the input embedding at a name of its own, and adapters of tied layers at two; these are no
    # ties of the model's.
    inner: Any = model
    if hasattr(model, "get_base_model"):
        inner = model.get_base_model()  # type: ignore[operator]
    ties, own = shapes_of(inner).ties, {base[name] for name in base.ties}
    repeated = [
        tensor
        for name, tensor in inner.named_parameters(remove_duplicate=False)
        if name in ties and shape_of(tensor) in own
    ]
    total = sum(math.prod(shape_of(tensor)) for tensor in once.values())
    trainable = sum(tensor.numel() for tensor in once.values() if tensor.requires_grad)
    return ParameterCounts(
        total=total,
        trainable=trainable,
        frozen=total - trainable,
        added=total - base.total,
        tied=sum(tensor.numel() for tensor in repeated),
        tied_trainable=sum(tensor.numel() for tensor in repeated if tensor.requires_grad),
    )
