"""The Engine protocol: all that a run knows of how a model computes."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from bakeoff.data.encoding import Encoded

if TYPE_CHECKING:
    import torch


class Engine(Protocol):
    """How a model computes. `plain` is transformers' own way; one suite holds every other engine against it."""

    name: str
    """For the report and the fingerprint."""

    def prepared(
        self, model: Any, added: "Iterable[torch.nn.Parameter]", known: Mapping[str, str] | None = None, steps: int = 0
    ) -> AbstractContextManager[Any]:
        """Inside, `model` on its device, ready for `steps` optimizer steps; `added` are parameters that the base model
        does not have.

        How its documents may stand together is found by tests on it, or taken from `known`, the `answers` of a model
        that was made in the same way. Frozen weights end in the run's precision, trained ones in fp32. Whatever was
        patched in the model is as it was afterwards.
        """
        ...

    def answers(self, model: Any) -> dict[str, str]:
        """What those tests found, by question: empty, or a reason why not."""
        ...

    def reason(self, model: Any) -> str:
        """Why `model` is not computed in the fastest way that there is; empty where it is."""
        ...

    def documents(self, model: Any) -> str:
        """How documents stand together while training and while writing, in words for the report."""
        ...

    def micro_batches(self, model: Any, examples: Sequence[Encoded], size: int) -> Iterator[list[Encoded]]:
        """The documents of an effective batch in the groups that `loss` is given, about `size` documents each.

        The sum of their losses does not depend on the groups.
        """
        ...

    def loss(self, model: Any, examples: Sequence[Encoded]) -> "torch.Tensor":
        """Cross-entropy in nats, summed over the label tokens of `examples`, differentiable."""
        ...

    def logits(self, model: Any, example: Encoded) -> "torch.Tensor":
        """label tokens x vocabulary: what `model` says at each of them."""
        ...

    def cached(self, model: Any, examples: Sequence[Encoded], size: int) -> Sequence[Encoded]:
        """`examples` with what never changes computed once, `size` at a time; as they are where all of it changes."""
        ...

    def writing(self, model: Any) -> AbstractContextManager[None]:
        """Inside, no gradients, no dropout, and every weight as decoding wants it; blocks may be nested."""
        ...

    def generate(
        self, model: Any, prompts: Sequence[Sequence[int]], limit: int, *, rows: int, ends: Collection[int],
        vocabulary: Collection[int],
    ) -> list[list[int]]:  # fmt: skip
        """Greedy new tokens of each prompt, at most `limit`, the end token included, inside `writing`.

        `rows` prompts are decoded at a time. A summary ends at one of `ends`; a row of the output head that is not in
        `vocabulary` is no token and is never written.
        """
        ...

    def chunk(self, model: Any, rows: int) -> int:
        """How many prompts `generate` should be given at once, where it decodes `rows` at a time."""
        ...

    def release(self, model: Any) -> None:
        """Drops what was derived from weights that may change behind its back."""
        ...
