"""IA3: scale keys, values and the inside of the feed-forward block (Liu et al. 2022, arXiv:2205.05638)."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from bakeoff import Adapter, ParameterCounts, Shapes, target_layers

KEYS_AND_VALUES = (("k_proj", "v_proj"), ("k", "v"), ("Wk", "Wv"))
"""What architectures call these layers, where they are layers of their own."""
FEEDFORWARD = ("down_proj", "fc2", "mlp.c_proj", "dense_4h_to_h", "fc_out", "wo")
"""What they call the layer that ends the feed-forward block."""


@dataclass(frozen=True)
class IA3(Adapter):
    """l * W x on keys and values, W (l * x) on the layer that ends the feed-forward block; each l starts at 1.

    "auto" `targets` are the keys and values, or the layer that computes queries, too, where they are one (GPT-2's
    c_attn); "auto" `feedforward` is the layer that the architecture has, if it has one of the known names, and no
    experts.
    """

    name: ClassVar[str] = "ia3"
    by_default: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ("peft",)
    training: ClassVar[dict[str, float]] = {"learning_rate": 2e-2}

    feedforward: tuple[str, ...] | Literal["auto"] = "auto"

    def for_model(self, shapes: Shapes):
        """With the layers that "auto" stands for."""
        method = self
        if self.targets == "auto":
            known = (names for names in KEYS_AND_VALUES if all(has(name, shapes) for name in names))
            method = replace(method, targets=next(known, "auto"))
        if self.feedforward == "auto" and any(".experts." in name for name in shapes):
            method = replace(method, feedforward=())
        elif self.feedforward == "auto":
            method = replace(method, feedforward=tuple(name for name in FEEDFORWARD if has(name, shapes))[:1])
        return Adapter.for_model(method, shapes)

    def config(self, targets):
        """PEFT's IA3."""
        from peft import IA3Config

        names = list(dict.fromkeys([*targets, *self.feedforward]))
        return IA3Config(task_type="CAUSAL_LM", target_modules=names, feedforward_modules=list(self.feedforward))

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """A factor for each input of a feed-forward layer, for each output of another target layer."""
        inner = target_layers(self.feedforward, shapes) if self.feedforward else {}
        outer = target_layers(self.targets, shapes)
        return ParameterCounts.beside(
            shapes,
            sum(inputs for inputs, _ in inner.values())
            + sum(outputs for name, (_, outputs) in outer.items() if name not in inner),
        )


def has(name: str, shapes: Shapes) -> bool:
    """Whether a linear layer is called `name`."""
    return any(layer == name or layer.endswith(f".{name}") for layer in shapes.linear)
