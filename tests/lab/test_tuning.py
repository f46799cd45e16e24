"""The learning rates of the quick preset are what the record of trials says."""

import json
from collections import Counter

import pytest

from bakeoff.config.presets import load
from bakeoff.shipped import ROOT
from lab.tune import GRID

TRIALS = json.loads((ROOT / "bench" / "presets" / "quick.trials.json").read_text())["trials"]


def test_every_method_had_the_same_number_of_trials():
    assert set(Counter(row["method"] for row in TRIALS).values()) == {len(rates) for rates in GRID.values()} == {5}


@pytest.mark.parametrize("method", GRID)
def test_the_quick_preset_holds_the_rate_with_the_lowest_validation_loss(method):
    ours = [row for row in TRIALS if row["method"] == method and row["validation_loss"] is not None]
    best = min(ours, key=lambda row: row["validation_loss"])
    assert load("quick").methods[method]["learning_rate"] == best["learning_rate"]
    assert load("quick").methods[method]["epochs"] == best["epochs"]
