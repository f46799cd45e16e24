"""Controls: rows that train nothing, so that a trained row has something to beat."""

import random
from dataclasses import dataclass
from typing import ClassVar, Literal

from bakeoff import ParameterCounts, Shapes, join_sentences


def rouge1(examples, summary: str, example) -> float:
    """ROUGE-1 of `summary` against an example's references, as the run scores."""
    return examples.scorer.rouge(summary, example.references, ["rouge1"])["rouge1"]


@dataclass(frozen=True)
class ZeroShot:
    """The base model as it is, asked through its chat template where it has one, else by the plain prompt."""

    name: ClassVar[str] = "zero-shot"
    control: ClassVar[bool] = True

    prompt: Literal["chat", "plain"] = "chat"

    def attach(self, model, tokenizer):
        """Freezes everything."""
        return model.requires_grad_(False)

    def expected_parameters(self, shapes: Shapes) -> ParameterCounts:
        """The base model, nothing trained."""
        return ParameterCounts(total=shapes.total, trainable=0, frozen=shapes.total, tied=shapes.tied)


@dataclass(frozen=True)
class Lead1:
    """The first sentence of the document."""

    name: ClassVar[str] = "lead-1"
    control: ClassVar[bool] = True

    def summarise(self, examples) -> list[str]:
        """One summary for each of `examples.test`."""
        return [example.sentences[0] for example in examples.test]


@dataclass(frozen=True)
class Lead3:
    """The first three sentences of the document."""

    name: ClassVar[str] = "lead-3"
    control: ClassVar[bool] = True

    def summarise(self, examples) -> list[str]:
        """One summary for each of `examples.test`."""
        return [join_sentences(example.sentences[:3]) for example in examples.test]


@dataclass(frozen=True)
class Position:
    """The sentence at one position, whichever of the first and last three scores best on the validation split."""

    name: ClassVar[str] = "position"
    control: ClassVar[bool] = True

    def summarise(self, examples) -> list[str]:
        """One summary for each of `examples.test`."""
        best = max(range(-3, 3), key=lambda place: self._mean(examples, place))
        return [self._sentence(example, best) for example in examples.test]

    @staticmethod
    def _sentence(example, place: int) -> str:
        count = len(example.sentences)
        return example.sentences[max(place, -count) if place < 0 else min(place, count - 1)]

    def _mean(self, examples, place: int) -> float:
        scores = [rouge1(examples, self._sentence(example, place), example) for example in examples.validation]
        return sum(scores) / max(1, len(scores))


@dataclass(frozen=True)
class Shuffled:
    """A reference of another document, drawn from the training split; of the same aspect, where a task has several."""

    name: ClassVar[str] = "shuffled"
    control: ClassVar[bool] = True

    def summarise(self, examples) -> list[str]:
        """One summary for each of `examples.test`."""
        draw = random.Random(0)
        places: dict[str, list[int]] = {}
        for place, example in enumerate(examples.train):
            places.setdefault(example.aspect, []).append(place)
        return [examples.train[draw.choice(places[example.aspect])].summary for example in examples.test]


@dataclass(frozen=True)
class Oracle:
    """The document's sentence with the best ROUGE-1 against its own references: what one copied sentence can reach."""

    name: ClassVar[str] = "oracle"
    control: ClassVar[bool] = True

    def summarise(self, examples) -> list[str]:
        """One summary for each of `examples.test`."""
        return [
            max(example.sentences, key=lambda sentence, target=example: rouge1(examples, sentence, target))
            for example in examples.test
        ]
