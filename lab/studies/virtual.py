"""Virtual tokens beside the vocabulary: which word each is nearest to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.studies import weights
from lab.studies.running import Results, Runs


@dataclass(frozen=True)
class Nearest:
    """Virtual tokens of one run beside the vocabulary."""

    words: Sequence[str]
    """The nearest token of each, by cosine."""
    cosines: Sequence[float]
    """To that token."""
    norm: float
    """Their mean norm over that of the vocabulary's embeddings."""
    kept: float | None
    """Share whose nearest token is the one from which it started; None for a random start."""


def neighbours(runs: Runs, found: Results) -> dict[str, list[Nearest]]:
    """What each run's virtual tokens are near to."""
    model, tokenizer = weights.base_model(runs.settings, runs.store / "models")
    vocabulary = model.get_input_embeddings().weight.detach().numpy()
    near = {}
    for name, ours in found.items():
        text = ours[0].spec["hyperparameters"]["text"]
        start = tokenizer(text, add_special_tokens=False).input_ids if text else []
        near[name] = [nearest(weights.virtual_tokens(runs.adapter(run)), vocabulary, start, tokenizer) for run in ours]
    return near


def nearest(virtual: Any, vocabulary: Any, start: Sequence[int], tokenizer: Any) -> Nearest:
    """The vocabulary's tokens nearest to `virtual` (tokens x width) by cosine; `start`: ids that it started from."""
    ids, cosines = closest(virtual, vocabulary)
    kept = None
    if start:
        kept = float(np.mean([number_ == start[place % len(start)] for place, number_ in enumerate(ids)]))
    norm = np.linalg.norm(virtual, axis=1).mean() / np.linalg.norm(vocabulary, axis=1).mean()
    return Nearest([tokenizer.decode([number_]) for number_ in ids], cosines, float(norm), kept)


def closest(virtual: Any, vocabulary: Any) -> tuple[list[int], list[float]]:
    """Index of the row of `vocabulary` with the highest cosine to each row of `virtual`, and that cosine."""
    lengths = np.linalg.norm(vocabulary, axis=1)
    cosines = (virtual @ vocabulary.T) / np.maximum(lengths, 1e-12) / np.linalg.norm(virtual, axis=1, keepdims=True)
    ids = cosines.argmax(axis=1)
    return ids.tolist(), [float(row[place]) for row, place in zip(cosines, ids, strict=True)]
