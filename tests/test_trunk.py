"""The frozen trunk's output is computed once and is what it would be each time."""

import dataclasses

import pytest
import torch

from bakeoff.catalogue import select
from bakeoff.resources import Clock
from bakeoff.settings import TrainingSettings
from bakeoff.training import fine_tune
from bakeoff.trunk import Trunk, head_alone

[LAST] = [entry.kind for entry in select(["last-layer"]) if entry.name == "last-layer"]
[LORA] = [entry.kind for entry in select(["lora"]) if entry.name == "lora"]


def test_only_an_untied_head_alone_has_a_frozen_trunk(tiny):
    assert head_alone(LAST(untie=True).attach(*tiny())) is not None
    assert head_alone(LAST(untie=False).attach(*tiny())) is None
    assert head_alone(LORA().attach(*tiny())) is None


@pytest.mark.parametrize("packing", [True, False])
def test_remembering_changes_no_loss(tiny, encoded, fp32, packing):
    found = []
    for reuse in (True, False):
        machine = dataclasses.replace(fp32, packing=packing, reuse_trunk=reuse)
        model = LAST(untie=True).attach(*tiny())
        recipe = TrainingSettings(epochs=3, learning_rate=1e-2, batch_size=4, micro_batch_size=2)
        curves = fine_tune(model, encoded[:6], encoded[6:], recipe, machine, seed=1, pad=256, clock=Clock())
        found.append([row["loss"] for row in curves.steps] + [row["validation_loss"] for row in curves.epochs])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_each_example_is_asked_for_once_with_others_of_its_length(encoded):
    asked = []
    trunk = Trunk(encoded, lambda some: asked.append(some) or [torch.full((1, 3), len(e.ids)) for e in some], 3)
    assert [trunk[place].hidden[0, 0] for place in (1, 0, 1, -1)] == [len(encoded[p].ids) for p in (1, 0, 1, -1)]
    assert [len(some) for some in asked] == [3, 3, 2]
    assert [e for some in asked for e in some] == sorted(encoded, key=lambda example: len(example.ids))
