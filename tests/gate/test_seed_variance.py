"""Where the spread between seeds comes from when a method has one seed."""

import dataclasses
import json

import pytest
from factories import run, settings

from bakeoff.core.errors import UsageError
from bakeoff.gate import baseline, seed_variance
from bakeoff.metrics.rouge import METRICS
from bakeoff.stats.contrasts import SeedVariance, components

ONE = run("lora")
VARIANCES = dict.fromkeys(METRICS, SeedVariance(0.02, 0.01, 9, 40))


def calibrated(folder, chosen=None, **asked):
    measured = seed_variance.Measured(10, VARIANCES, asked or seed_variance.measured_settings(ONE.spec))
    text = seed_variance.dump(chosen or settings(), ONE.signature, {"lora": measured})
    seed_variance.path_of("synthetic", folder).write_text(text, encoding="utf-8")


def lent(folder, *runs):
    return seed_variance.Loans.read(settings(), folder).of({"lora": list(runs or [ONE])})["lora"]


def accepted(folder, *changed):
    runs = [dataclasses.replace(run("lora", seed=seed), **dict(changed)) for seed in range(5)]
    for seed, one in enumerate(runs):
        runs[seed] = dataclasses.replace(one, spec={**one.spec, "seed": seed})
    record = baseline.of_runs("synthetic", {"lora": runs})
    (folder / "synthetic.json").write_text(json.dumps(baseline.content(record)), encoding="utf-8")
    return record


def test_without_files_nothing_is_lent(tmp_path):
    assert lent(tmp_path) == {}


def test_a_calibration_is_read_back(tmp_path):
    calibrated(tmp_path)
    assert lent(tmp_path)["rouge2"] == SeedVariance(0.02, 0.01, 9, 40, "calibration")


def test_every_method_borrows_its_own_and_a_stranger_that_of_all_together(tmp_path):
    quiet, loud = (dict.fromkeys(METRICS, SeedVariance(ms, 0.01, 4, 40)) for ms in (0.02, 0.06))
    text = seed_variance.dump(settings(), ONE.signature, {
        "lora": seed_variance.Measured(5, quiet, {}), "full": seed_variance.Measured(5, loud, {}),
    })  # fmt: skip
    seed_variance.path_of("synthetic", tmp_path).write_text(text, encoding="utf-8")
    row = run("wide")
    row.spec["base"] = "full"
    results = {"lora": [ONE], "full": [run("full")], "wide": [row], "mine": [run("mine")]}
    found = seed_variance.Loans.read(settings(), tmp_path).of(results)
    assert [found[name]["rouge1"].ms_seed for name in ("lora", "full", "wide")] == [0.02, 0.06, 0.06]
    other = found["mine"]["rouge1"]
    assert (other.ms_seed, other.df, other.source) == (0.04, 8, "calibration of other methods")


def test_what_was_measured_with_other_settings_says_so(tmp_path):
    calibrated(tmp_path)
    other = run("lora", passes=1)
    other.spec["hyperparameters"] = {"rank": 2}
    other.spec["task"] = {"validation": 7, "test": 9}
    both = "with other settings (method.rank, training.epochs)"
    assert {one.source for one in lent(tmp_path, other).values()} == {f"calibration {both}"}
    results = {"mine": [other]}
    [source] = {one.source for one in seed_variance.Loans.read(settings(), tmp_path).of(results)["mine"].values()}
    assert source == "calibration of other methods with other settings (training.epochs)"
    accepted(tmp_path)
    assert {one.source for one in lent(tmp_path, other).values()} == {f"baseline {both}"}
    assert {one.source for one in lent(tmp_path).values()} == {"baseline"}


def test_many_other_settings_are_the_first_three_and_a_number(tmp_path):
    calibrated(tmp_path, **{f"training.{name}": -1 for name in "abcde"})
    assert lent(tmp_path)["rouge1"].source.endswith("(training.a, training.b, training.c, and 2 more)")


def test_a_baseline_wins_over_a_calibration(tmp_path):
    calibrated(tmp_path)
    record = accepted(tmp_path)
    assert lent(tmp_path)["rougeL"] == components(record.methods["lora"].rows("rougeL"), "baseline")


def test_a_baseline_on_other_documents_lends_nothing(tmp_path):
    accepted(tmp_path, ("document_ids", [f"other-{n}" for n in range(20)]))
    assert lent(tmp_path) == {}


def test_a_baseline_of_another_model_lends_nothing(tmp_path):
    spec = {**ONE.spec, "model": {"name": "small"}}
    accepted(tmp_path, ("spec", spec))
    assert lent(tmp_path, dataclasses.replace(ONE, spec={**ONE.spec, "model": {"name": "large"}})) == {}
    assert lent(tmp_path, dataclasses.replace(ONE, spec=spec))


def test_a_calibration_of_another_task_or_signature_lends_nothing(tmp_path):
    chosen = settings()
    calibrated(tmp_path, dataclasses.replace(chosen, task=dataclasses.replace(chosen.task, name="other")))
    assert lent(tmp_path) == {}
    calibrated(tmp_path)
    assert lent(tmp_path, run("lora", signature="other")) == {}


def test_a_method_with_seeds_of_its_own_borrows_nothing(tmp_path):
    calibrated(tmp_path)
    results = {"lora": [ONE, run("lora", seed=43)], "lead-1": [run("lead-1", control=True)]}
    assert seed_variance.Loans.read(settings(), tmp_path).of(results) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"model": "m", "task": "t", "signature": "s", "methods": {}}'])
def test_a_broken_calibration_is_refused_by_its_file(tmp_path, text):
    seed_variance.path_of("synthetic", tmp_path).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"synthetic\.calibration\.json: not a calibration"):
        lent(tmp_path)
