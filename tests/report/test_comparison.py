"""The comparison: figures of each method, ties, what was not measured, what can't be compared."""

import dataclasses

import pytest
from factories import run, scores, settings
from scipy import stats

from bakeoff.metrics.rouge import METRICS
from bakeoff.report.comparison import compare, extreme, points
from bakeoff.runs.records import Death
from bakeoff.stats.contrasts import SeedVariance, contrast
from bakeoff.stats.intervals import holm
from bakeoff.stats.pairs import Side, family


def compared(*runs, **more):
    """The comparison of runs, grouped by method in their order."""
    results = {}
    for one in runs:
        results.setdefault(one.spec["method"], []).append(one)
    return compare(settings(), results, **more)


def flat(value, documents=4):
    return {metric: [value] * documents for metric in METRICS}


def test_a_row_has_mean_interval_and_spread_over_seeds_and_documents():
    runs = [run("lora", seed=seed) for seed in (1, 2, 3)]
    [row] = compared(*runs).methods
    scores = [one.scores["rouge1"] for one in runs]
    found, expected = row.rouge["rouge1"], contrast(scores, [[0.0] * 20], fixed=(False, True))
    assert (found.mean, found.low, found.high) == (expected.difference, expected.low, expected.high)
    assert row.spread["rouge1"] == pytest.approx(stats.tstd([sum(one.scores["rouge1"]) / 20 for one in runs]))
    assert row.seeds == (1, 2, 3)
    assert row.fingerprints == ("lora-1", "lora-2", "lora-3")


def test_with_one_seed_the_interval_is_over_documents():
    [row] = compared(run("lora")).methods
    scores = row.scores["rouge1"][0]
    low, high = stats.t.interval(0.95, 19, loc=sum(scores) / 20, scale=stats.sem(scores))
    assert (row.rouge["rouge1"].low, row.rouge["rouge1"].high) == pytest.approx((low, high))


def test_seconds_are_averaged_over_seeds_and_add_up_to_the_total():
    phases = {"setup": 1.0, "training": 10.0, "validation": 2.0, "evaluation": 4.0, "checks": 1.0}
    slow = {name: 2 * value for name, value in phases.items()}
    [row] = compared(run(seed=1, seconds=phases), run(seed=2, seconds=slow)).methods
    assert row.seconds == {
        "setup": 1.5,
        "train": 15.0,
        "validation": 3.0,
        "evaluate": 6.0,
        "checks": 1.5,
        "total": 27.0,
    }


def test_tokens_per_second_are_those_of_training():
    [row] = compared(
        run(tokens={"training": 600, "generated": 9}, seconds={"training": 3.0, "evaluation": 50.0})
    ).methods
    assert row.tokens_per_second == 200


def test_what_was_not_measured_is_none_and_never_0():
    [row] = compared(run(seconds={}, tokens={}, memory_bytes={}, adapter_bytes=None, parameters=None)).methods
    assert set(row.seconds.values()) == set(row.memory_bytes.values()) == {None}
    assert (row.tokens_per_second, row.adapter_bytes, row.parameters, row.trials) == (None,) * 4
    assert set(row.spread.values()) == {None}


def test_a_phase_that_was_not_booked_leaves_no_total():
    [row] = compared(run(seconds={"setup": 1.0, "training": 2.0})).methods
    assert (row.seconds["train"], row.seconds["total"]) == (2.0, None)


def test_a_control_has_no_seconds_of_training():
    [row] = compared(run("lead-1", control=True)).controls
    assert row.seconds["train"] is row.seconds["validation"] is row.tokens_per_second is None
    assert row.seconds["evaluate"] == 31.25


def test_memory_is_the_highest_of_the_seeds_that_measured_it():
    runs = [
        run(seed=seed, memory_bytes={"max_resident": peak, "reserved": None})
        for seed, peak in ((1, 5), (2, None), (3, 7))
    ]
    [row] = compared(*runs).methods
    assert row.memory_bytes["max_resident"] == 7
    assert row.memory_bytes["reserved"] is None


def test_parameters_are_those_that_require_grad():
    [row] = compared(run(trained=11_520)).methods
    assert (row.parameters.trainable, row.parameters.added) == (11_520, 11_520)
    assert row.parameters.with_ties().total - row.parameters.total == 28_311_552


def test_methods_and_controls_keep_their_order():
    found = compared(run("b"), run("lead-1", control=True), run("a"), run("oracle", control=True))
    assert [row.name for row in found.rows] == ["b", "a", "lead-1", "oracle"]


def test_trials_belong_to_their_method():
    found = compared(run("a"), run("b"), trials={"b": 4, "unknown": 9})
    assert [row.trials for row in found.methods] == [None, 4]


def test_the_highest_mean_is_among_the_trained_methods():
    found = compared(
        run("a", scores=flat(0.2)), run("b", scores=flat(0.3)), run("oracle", control=True, scores=flat(0.9))
    )
    assert found.highest("rouge1") == ("b",)


def test_means_that_print_the_same_share_the_first_place():
    found = compared(*(run(name, scores=flat(mean)) for name, mean in (("a", 0.30001), ("b", 0.3), ("c", 0.2999))))
    assert found.highest("rougeL") == ("a", "b")


def test_without_trained_methods_nobody_is_best():
    assert compared(run("lead-1", control=True)).highest("rouge1") == ()


@pytest.mark.parametrize("lowest, expected", [(False, ("b", "c")), (True, ("a",))])
def test_extremes_pass_over_what_was_not_measured(lowest, expected):
    assert extreme({"a": 1.0, "b": 3.0, "c": 3.0, "d": None}, lowest=lowest) == expected
    assert extreme({"d": None}, lowest=lowest) == ()


def test_points_have_two_decimals_and_no_negative_zero():
    assert [points(value) for value in (0.0, 1.0, 0.38125, -1e-9)] == ["0.00", "100.00", "38.12", "0.00"]


def test_a_method_of_which_no_run_finished_is_dead():
    died = [Death("full", 1, "training", "out of memory"), Death("lora", 2, "setup", "killed by signal 9")]
    assert compared(run("lora"), deaths=died).dead == ("full",)


def test_only_deaths_still_make_a_comparison():
    found = compare(settings(), {}, [Death("full", 1, "start", "out of memory")])
    assert (found.rows, found.dead, found.document_ids) == ((), ("full",), ())


def reversed_ids(one):
    return dataclasses.replace(one, document_ids=one.document_ids[::-1])


@pytest.mark.parametrize(
    "other, complaint",
    [
        (run("b", scores=scores(0.3, documents=19)), "its documents are not those of a"),
        (reversed_ids(run("b")), "its documents are not those of a"),
        (run("b", signature="other"), "its scores were made as 'other'"),
        (run("b", scores={**flat(0.5, 20), "rouge2": [0.5] * 19}), "rouge2 must have one score for each of its 20"),
        (run("b", scores={**flat(0.5, 20), "rouge2": [float("nan")] * 20}), "not finite"),
    ],
    ids=["fewer", "order", "signature", "ragged", "nan"],
)
def test_runs_that_cannot_be_compared_are_refused_by_name(other, complaint):
    with pytest.raises(ValueError, match=f"^b: .*{complaint}"):
        compared(run("a"), other)


def test_the_second_seed_is_checked_too():
    with pytest.raises(ValueError, match=r"^a: its documents"):
        compared(run("a", seed=1), reversed_ids(run("a", seed=2)))


def test_a_method_without_runs_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^a: no runs"):
        compare(settings(), {"a": []})


def test_environments_that_differ_are_all_named():
    found = compared(run("a", environment={"torch": "2.1"}), run("b", environment={"torch": "2.2", "model_note": ""}))
    assert found.environment()["torch"] == "2.1; 2.2"
    assert "model_note" not in found.environment()


SPREAD = dict.fromkeys(METRICS, SeedVariance(0.011, 0.01, 9, 40, "calibration"))


def seeds(name, mean, count=3, **more):
    return [run(name, mean, seed=seed, **more) for seed in range(count)]


def test_every_two_methods_are_a_pair_and_every_control_a_family_of_its_own():
    found = compared(*seeds("a", 0.3), *seeds("b", 0.4), *seeds("c", 0.41), run("lead-1", 0.3, control=True))
    names = [(pair.first, pair.second) for pair in found.pairs if pair.metric == "rouge1"]
    assert names == [("a", "b"), ("a", "c"), ("b", "c")]
    ours = [pair for pair in found.pairs if pair.metric == "rougeL"]
    assert [pair.p for pair in ours] == holm([pair.contrast.p for pair in ours])
    assert [(pair.first, pair.second) for pair in found.control_pairs[:3]] == [(n, "lead-1") for n in "abc"]
    assert all(pair.contrast.seeds == (3, 0) for pair in found.control_pairs)


def test_methods_that_cannot_be_told_from_the_highest_mean_are_the_best():
    found = compared(*seeds("low", 0.1), *seeds("high", 0.6), *seeds("near", 0.59))
    assert found.best("rouge1") == ("high", "near")
    assert [set(group) for group in found.alike("rouge1")] == [{"high", "near"}, {"low"}]
    assert {pair.higher for pair in found.pairs if pair.metric == "rouge1"} == {"high", "near", ""}


def test_with_one_seed_and_no_calibration_there_is_no_verdict():
    found = compared(run("low", 0.1), *seeds("high", 0.6))
    assert found.best("rouge1") == () and found.alike("rouge1") is None
    assert {(pair.contrast.kind, pair.higher) for pair in found.pairs} == {("documents only", "")}


def test_with_one_seed_the_spread_comes_from_elsewhere():
    found = compared(run("low", 0.1), run("high", 0.6), spreads={"low": SPREAD, "high": SPREAD})
    assert found.best("rouge1") == ("high",)
    pair = found.pairs[0]
    assert (pair.contrast.variance.source, pair.contrast.variance.df) == ("calibration", 9)
    assert compared(run("low", 0.1), run("high", 0.6), spreads={"low": SPREAD}).best("rouge1") == ()


def test_seeds_of_its_own_win_over_a_calibration():
    found = compared(*seeds("a", 0.3), *seeds("b", 0.4), spreads={"a": SPREAD, "b": SPREAD})
    assert {pair.contrast.variance.source for pair in found.pairs} == {"its own seeds"}


def test_wins_ties_and_losses_are_over_documents():
    [pair] = family([(Side("a", {"m": [[0.5, 0.1, 0.2]]}), Side("b", {"m": [[0.5, 0.0, 0.3]]}))], ["m"])
    assert (pair.wins, pair.ties, pair.losses) == (1, 1, 1)
