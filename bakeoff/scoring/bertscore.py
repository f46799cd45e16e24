"""BERTScore with a model of one's own: `--metric bertscore:model=FOLDER`. Nothing is downloaded.

F1 of greedy matching of contextual embeddings by cosine (Zhang et al., ICLR 2020, section 3), without idf weights and
without rescaling. Special tokens take no part.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bakeoff.core.errors import UsageError, first_line


@dataclass
class BertScore:
    """BERTScore F1; of several references the best counts."""

    name: ClassVar[str] = "bertscore"
    label: ClassVar[str] = "BERTScore F1"
    better: ClassVar[str] = "higher"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    model: str = ""
    """Folder of a transformers model with its tokenizer."""
    layer: int = -1
    """Index of the hidden states that are compared; -1 is the last layer, 0 the embeddings."""
    batch_size: int = 16
    """Texts in a forward pass."""

    def prepare(self) -> None:
        """Loads model and tokenizer. Raises UsageError."""
        if not self.model or not os.path.isdir(os.path.expanduser(self.model)):
            raise UsageError(f"bertscore: model = {self.model!r} is no folder; type "
                             "--metric bertscore:model=FOLDER with a transformers model in it")  # fmt: skip
        from transformers import AutoModel, AutoTokenizer

        folder = str(Path(self.model).expanduser())
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise UsageError(f"bertscore: {self.model}: {first_line(error)}; give a folder that transformers loads, "
                             "with its weights as safetensors") from None  # fmt: skip
        layers = self._model.config.num_hidden_layers
        if not -layers - 1 <= self.layer <= layers:
            raise UsageError(f"bertscore: layer = {self.layer}: expected -{layers + 1} to {layers}")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    @property
    def identity(self) -> str:
        """Sizes and times of the model's files, which say whether it is the same model."""
        files = sorted(Path(self.model).expanduser().iterdir())
        return "|".join(f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files)

    @property
    def signature(self) -> str:
        """Model, layer and versions."""
        import transformers

        return (f"bertscore|model:{Path(self.model).name}|layer:{self.layer}|idf:no|rescaled:no|references:best|"
                f"transformers:{transformers.__version__}")  # fmt: skip

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], documents: object
    ) -> list[float | None]:
        """F1 of each summary; 0 where a side has no token, or is on average unlike the other one."""
        texts = list(dict.fromkeys([*predictions, *(text for known in references for text in known)]))
        vectors = dict(zip(texts, self.embed(texts), strict=True))
        return [
            max(f1(vectors[text], vectors[one]) for one in known)
            for text, known in zip(predictions, references, strict=True)
        ]

    def embed(self, texts: Sequence[str]) -> list[Any]:
        """Of each text its tokens' embeddings of length 1, tokens x width, without special tokens."""
        import torch

        most = min(self._tokenizer.model_max_length, getattr(self._model.config, "max_position_embeddings", 512) - 2)
        found: list[Any] = []
        for start in range(0, len(texts), self.batch_size):
            batch = self._tokenizer(
                list(texts[start : start + self.batch_size]), padding=True, truncation=True, max_length=most,
                return_special_tokens_mask=True, return_tensors="pt",
            )  # fmt: skip
            own = (batch.pop("special_tokens_mask") == 0) & (batch["attention_mask"] == 1)  # (B, T)
            with torch.inference_mode():
                states = self._model(**batch, output_hidden_states=True).hidden_states[self.layer].float()  # (B, T, h)
            units = torch.nn.functional.normalize(states, dim=-1)
            found += [row[mask] for row, mask in zip(units, own, strict=True)]
        return found


def f1(ours: Any, theirs: Any) -> float:
    """Harmonic mean of precision and recall: each token's highest cosine on the other side, averaged."""
    if not len(ours) or not len(theirs):
        return 0.0
    cosines = ours @ theirs.T
    precision, recall = cosines.amax(1).mean().item(), cosines.amax(0).mean().item()
    return min(1.0, 2 * precision * recall / (precision + recall)) if min(precision, recall) > 0 else 0.0
