"""The frozen trunk's output is computed once and is what it would be each time."""

import dataclasses

import pytest
import torch
from computing import fine_tune, loss_of

from bakeoff.config.schema import ModelSettings, TrainingSettings
from bakeoff.engine import layout
from bakeoff.engine.cached_features import Features, head_alone
from bakeoff.methods.selection import select
from bakeoff.models import loading
from bakeoff.runs.resources import Clock
from lab.compatibility import architectures

[LAST] = [entry.kind for entry in select(["last-layer"]) if entry.name == "last-layer"]
[LORA] = [entry.kind for entry in select(["lora"]) if entry.name == "lora"]


def test_only_an_untied_head_alone_has_a_frozen_trunk(tiny):
    assert head_alone(LAST(untie=True).attach(*tiny())) is not None
    assert head_alone(LAST(untie=False).attach(*tiny())) is None
    assert head_alone(LORA().attach(*tiny())) is None


@pytest.mark.parametrize("what", ["a hook", "a forward of its own", "dropout in the attention"])
def test_a_head_with_more_than_a_matrix_to_it_is_called_as_it_is(tiny, encoded, fp32, what):
    model = LAST(untie=True).attach(*tiny())
    head, calls = model.get_output_embeddings(), []
    if what == "a hook":
        head.register_forward_hook(lambda module, given, found: calls.append(1))
    elif what == "a forward of its own":
        head.forward = lambda x: calls.append(1) or torch.nn.Linear.forward(head, x)
    else:
        model.config.attention_dropout = 0.1
    assert head_alone(model) is None
    if what != "dropout in the attention":
        layout.settle(model, [], packing=True)
        calls.clear()
        recipe = TrainingSettings(epochs=1, batch_size=4, micro_batch_size=4)
        fine_tune(model, encoded[:4], encoded[4:6], recipe, fp32, seed=1, pad=256, clock=Clock())
        assert len(calls) == 3  # one step, and the validation before and after it


@pytest.mark.parametrize("packing", [True, False])
def test_remembering_changes_no_loss(tiny, encoded, fp32, packing):
    found = []
    for reuse in (True, False):
        machine = dataclasses.replace(fp32, packing=packing, cached_features=reuse)
        model = LAST(untie=True).attach(*tiny())
        recipe = TrainingSettings(epochs=3, learning_rate=1e-2, batch_size=4, micro_batch_size=2)
        curves = fine_tune(model, encoded[:6], encoded[6:], recipe, machine, seed=1, pad=256, clock=Clock())
        found.append([row["loss"] for row in curves.steps] + [row["validation_loss"] for row in curves.epochs])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("kind", ["opt", "biogpt", "gpt_bigcode"])  # as a function, or as a module
def test_a_trunk_with_dropout_is_computed_each_time_and_validated_without(encoded, fp32, kind):
    settings = ModelSettings(name="random", architecture={**architectures.ARCHITECTURES[kind], "vocab_size": 257})
    model, _ = loading.load(settings, loading.locate(settings), None, "eager")
    model = LAST(untie=True).attach(model, None)
    assert layout.steady(model)
    curves = fine_tune(
        model, encoded[:4], encoded[4:6], TrainingSettings(epochs=0), fp32, seed=1, pad=256, clock=Clock()
    )
    with torch.no_grad():
        right = sum(loss_of(model.eval(), [example], 256, fp32).item() for example in encoded[4:6])
    assert curves.epochs[0]["validation_loss"] == pytest.approx(right / labels(encoded[4:6]), rel=1e-5)


def labels(examples):
    return sum(len(example.ids) - example.prompt for example in examples)


def test_each_example_is_asked_for_once_with_others_of_its_length(encoded):
    asked = []
    trunk = Features(encoded, lambda some: asked.append(some) or [torch.full((1, 3), len(e.ids)) for e in some], 3)
    assert [trunk[place].hidden[0, 0] for place in (1, 0, 1, -1)] == [len(encoded[p].ids) for p in (1, 0, 1, -1)]
    assert [len(some) for some in asked] == [3, 3, 2]
    assert [e for some in asked for e in some] == sorted(encoded, key=lambda example: len(example.ids))
