"""The calibration's own arithmetic, on seeds whose components are known."""

import dataclasses
import json

import numpy as np
import pytest

from bakeoff.config import presets
from bakeoff.gate import seed_variance
from bakeoff.metrics.rouge import METRICS
from bakeoff.session import plan, worker
from bakeoff.session.store import Store
from lab.calibration import seeds, simulation

KNOWN = {"seeds": 10, "documents": 400, "document": 0.12, "residual": 0.06, "seed": 0.01}


def simulated(number=0, *, seeds, documents, document, residual, seed):
    draw = np.random.default_rng(number)
    shared = 0.4 + draw.normal(0, document, documents)
    return shared + draw.normal(0, seed, (seeds, 1)) + draw.normal(0, residual, (seeds, documents))


def test_the_fit_finds_the_components():
    found = simulation.fit(simulated(**KNOWN))
    assert (found.document, found.residual) == pytest.approx((0.12, 0.06), rel=0.1)
    assert found.seed_low < 0.01 < found.seed_high and found.seed_low < found.seed < found.seed_high


def test_the_interval_of_the_seeds_deviation_holds_it_in_95_percent():
    fits = [simulation.fit(simulated(number, **{**KNOWN, "documents": 40})) for number in range(400)]
    held = sum(found.seed_low <= 0.01 <= found.seed_high for found in fits)
    assert held / 400 == pytest.approx(0.95, abs=0.03)


def test_power_rises_with_documents_and_seeds():
    found = simulation.fit(simulated(**KNOWN))
    draw = np.random.default_rng(0)
    few, more, seeds = (simulation.power(draw, found, n, s, 200) for n, s in ((100, 1), (400, 1), (400, 5)))
    assert few.found > more.found > seeds.found > 0
    assert seeds.share(seeds.found) == pytest.approx(0.8, abs=0.01)
    assert seeds.said == pytest.approx(seeds.found, rel=0.25)


def test_a_rate_has_an_interval():
    low, high = simulation.Rate(10, 200).bounds
    assert low < 0.05 < high


KEPT = sorted(path.name.removesuffix(".seeds.json") for path in seeds.BASELINES.glob("*.seeds.json"))


@pytest.mark.parametrize("preset", KEPT)
def test_the_calibration_of_a_preset_is_that_of_its_kept_seeds(preset):
    content = json.loads(seeds.path_of(preset).read_text(encoding="utf-8"))
    assert seeds.render(content) == seeds.path_of(preset).read_text(encoding="utf-8")
    made = seeds.calibration(presets.load(preset), content)
    assert made == seed_variance.path_of(preset, seeds.BASELINES).read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_default_method_of_quick_was_trained_with_five_seeds_at_the_presets_settings(tmp_path, furnished):
    """So that the first report has letters, and no variance of other methods or of other settings."""
    worker.start_server(offline=True)
    asked = plan.make(presets.load("quick"), ["all"], Store(furnished(tmp_path / "store")))
    content = json.loads(seed_variance.path_of("quick", seeds.BASELINES).read_text(encoding="utf-8"))
    loans = seed_variance.load(presets.load("quick"), content["signature"])
    trained = [entry.name for entry in asked.entries if not entry.control]
    assert sorted(trained) == sorted(loans) and len(trained) == 4
    for name in trained:
        assert loans[name].seeds >= 5
        assert loans[name].settings == seed_variance.measured_settings(dataclasses.asdict(asked.specs[name][0]))


def test_the_simulation_reads_the_kept_seeds():
    content = json.loads(seeds.path_of(simulation.PRESET).read_text(encoding="utf-8"))
    rows = content["methods"][simulation.METHOD]
    assert {metric: len(rows[metric]) for metric in METRICS} == dict.fromkeys(METRICS, len(content["seeds"]))
    assert simulation.fit(np.array(rows["rougeL"])).seed >= 0
