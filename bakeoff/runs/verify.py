"""Which summaries the saved and reloaded method must write again, and when the trained one must write them anew."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bakeoff.core.packed import held_bytes

CHECKED = 4
"""Test documents, those with the shortest summaries of WORDS words or more, that the reloaded model must summarise
as the trained one does."""
WORDS = 8
SMALL = 2**30
"""Bytes of a model that may stay in memory beside the one that is loaded again: it writes these summaries anew only if
the other's differ. A larger one gives way, so it writes them before."""


@dataclass
class Check:
    """The summaries that are checked, by the trained model."""

    indices: list[int]
    """Of their documents in the test split."""
    first: dict[int, str]
    """What the trained model wrote, by number among `indices`."""
    weights: str
    """Digest of the trained tensors."""
    small: bool
    """Whether the trained model may stay in memory beside the reloaded one."""
    exact: bool
    """Whether a text is the same whatever is written beside it: in bf16 it may depend on that."""

    @classmethod
    def of(cls, model: Any, texts: Mapping[int, str], weights: str, exact: bool) -> "Check":
        """The check of a model that wrote `texts`, by index."""
        shortest = sorted(texts, key=lambda index: (len(texts[index].split()) < WORDS, len(texts[index]), index))
        indices = shortest[:CHECKED]
        first = {number: texts[index] for number, index in enumerate(indices)}
        small = sum(map(held_bytes, model.parameters())) <= SMALL
        return cls(indices, first, weights, small, exact)

    @property
    def ahead(self) -> bool:
        """Whether the trained model must write them by themselves before it gives way."""
        return not self.small and not self.exact

    def doubtful(self, second: Mapping[int, str]) -> bool:
        """Whether a difference may come from what was written beside them: then the trained model writes them anew."""
        return self.small and not self.exact and second != self.first


def together(digests: Mapping[str, str]) -> str:
    """One digest of many, whatever their order."""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
