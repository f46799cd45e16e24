"""The gate: a verdict for each method and metric, and a reason for everything that it can't compare."""

import dataclasses
import json
import random

import pytest
from factories import predictions, run, settings

from bakeoff.cli import main
from bakeoff.gate import baseline
from bakeoff.gate.verdicts import judge
from bakeoff.metrics.rouge import METRICS
from bakeoff.report import comparison, results_json
from bakeoff.report import gate as shown
from bakeoff.runs.records import Death
from bakeoff.stats.contrasts import components

DOCUMENTS = 60
FIVE = (1, 2, 3, 4, 5)


def scores(method, seed, points, documents=DOCUMENTS, noise=0.02, wobble=0.0):
    """F1 by metric: the document's own level, a seed's shift of up to `wobble`, a residual, and `points` on top."""
    level, own = random.Random(method), random.Random(f"{method} {seed} {points}")
    levels = [level.uniform(0.3, 0.6) for _ in range(documents)]
    shift = own.uniform(-wobble, wobble)
    return {metric: [min(1.0, max(0.0, base + points / 100 + shift + own.gauss(0, noise))) for base in levels]
            for metric in METRICS}  # fmt: skip


def runs(points=0.0, seeds=FIVE, method="lora", **noise):
    return [run(method, seed=seed, scores=scores(method, seed, points, **noise)) for seed in seeds]


def record(*sides):
    """A record of lists of runs."""
    results = {side[0].spec["method"]: side for side in sides}
    return baseline.of_runs("synthetic", results, predictions(sides[0][0]))


def gate(new, old, tolerance=1.0, alpha=0.05, **more):
    return judge(
        new, old, tolerance=tolerance, alpha=alpha, **{"asked": list(new.methods) if new else ["lora"], **more}
    )


def words(found):
    return {verdict.word for verdict in found.verdicts}


def test_a_run_like_its_baseline_passes():
    found = gate(record(runs(seeds=(42,))), record(runs()))
    assert words(found) == {"passed"} and len(found.verdicts) == 3 and not found.failures(strict=True)


def test_zeros_of_what_the_tokenizer_does_not_know_are_refused_in_words():
    nothing = {metric: [0.0] * 20 for metric in METRICS}
    empty = record([run(seed=seed, scores=nothing) for seed in FIVE])
    found = gate(empty, empty, unscored="90 % of the letters fall away")
    assert found.refusals == {
        "lora": "every score is 0, in the baseline, too, so nothing is compared: 90 % of the letters fall away"
    }
    assert gate(empty, empty).refusals == {}
    assert gate(record(runs()), record(runs()), unscored="2.5 % of the letters fall away").refusals == {}


@pytest.mark.parametrize(
    "accepted, measured, word", [(1.0, 0.0, "regressed"), (0.0, 1.0, "improved"), (1.0, 1.0, "passed")]
)
def test_a_baseline_without_any_variance_can_turn_red(accepted, measured, word):
    def flat(value, seeds):
        return record([run(seed=seed, scores={metric: [value] * 20 for metric in METRICS}) for seed in seeds])

    assert words(gate(flat(measured, (42,)), flat(accepted, FIVE))) == {word}


def test_a_baseline_of_an_earlier_version_is_compared():
    old = "rouge-score:0.1.2|nltk:3.10.4|metrics:rouge1,rouge2,rougeL|value:f1|stemmer:yes|average:documents"
    new = f"{old}|tokenizer:rouge-score|references:best".replace("rougeL|", "rougeL,rougeLsum|")
    sides = [record([dataclasses.replace(one, signature=signature) for one in runs()]) for signature in (new, old)]
    assert words(gate(*sides)) == {"passed"}
    assert "its scores are made as" in refused(record(runs()), sides[1])


@pytest.mark.parametrize("points, word", [(-8, "regressed"), (8, "improved"), (-0.3, "passed"), (0.3, "passed")])
def test_the_word_follows_the_difference(points, word):
    assert words(gate(record(runs(points, seeds=(42,))), record(runs()))) == {word}


def test_a_drop_that_is_not_significant_is_inconclusive_and_says_what_settles_it():
    noisy = {"documents": 8, "noise": 0.15}
    found = gate(record(runs(-9, seeds=(42,), **noisy)), record(runs(**noisy)))
    unsure = [verdict for verdict in found.verdicts if verdict.word == "inconclusive"]
    assert unsure and all("would find a drop of this size" in verdict.remedy for verdict in unsure)
    assert not [verdict for verdict in found.failures() if verdict in unsure]
    assert set(unsure) <= set(found.failures(strict=True))


def test_a_significant_drop_within_the_tolerance_passes():
    found = gate(record(runs(-3, seeds=FIVE, noise=0.01)), record(runs(noise=0.01)), tolerance=5.0)
    assert words(found) == {"passed"} and max(verdict.p for verdict in found.verdicts) < 0.05


def test_p_is_corrected_over_all_methods_and_metrics():
    one = gate(record(runs(-2, (42,))), record(runs()))
    two = gate(record(runs(-2, (42,)), runs(0, (42,), "full")), record(runs(), runs(method="full")))
    assert len(two.verdicts) == 6
    assert all(two.verdict("lora", metric).p >= one.verdict("lora", metric).p for metric in METRICS)
    assert min(v.p for v in two.verdicts) == pytest.approx(min(1.0, 6 * min(v.contrast.p for v in two.verdicts)))


def test_the_smallest_drop_that_is_printed_is_above_the_tolerance_and_shrinks_with_more_seeds():
    one, five = (gate(record(runs(seeds=seeds, wobble=0.01)), record(runs(wobble=0.01))) for seeds in ((42,), FIVE))
    for before, after in zip(one.verdicts, five.verdicts, strict=True):
        assert 0.01 < after.smallest < before.smallest


def test_the_smallest_drop_is_found_in_80_percent_of_cases():
    alarms = tries = 0
    for number in range(60):
        draw = {"noise": 0.1, "documents": 40}
        old = record(runs(seeds=range(5 * number, 5 * number + 5), **draw))
        drop = gate(record(runs(seeds=(9000 + number,), **draw)), old).verdict("lora", "rouge1").smallest
        found = gate(record(runs(-100 * drop, seeds=(9000 + number,), **draw)), old)
        # The three metrics are three draws, each tested at a third of alpha at the first step of Holm.
        alarms += sum(verdict.contrast.p < 0.05 / 3 and verdict.contrast.difference < 0 for verdict in found.verdicts)
        tries += 3
    assert 0.7 < alarms / tries < 0.95


def test_documents_in_another_order_are_the_same_documents():
    new, old = record(runs(-3, (42,))), record(runs())
    turned = dataclasses.replace(
        new,
        documents=new.documents[::-1],
        methods={"lora": dataclasses.replace(new.methods["lora"], scores={
            metric: {seed: row[::-1] for seed, row in rows.items()}
            for metric, rows in new.methods["lora"].scores.items()})},
    )  # fmt: skip
    assert [v.contrast.difference for v in gate(turned, old).verdicts] == pytest.approx(
        [v.contrast.difference for v in gate(new, old).verdicts]
    )


# Fails closed


def refused(new, old, **more):
    found = gate(new, old, **more)
    assert not found.verdicts
    assert "--update-baseline" in found.refusals["lora"] or "dead" in found.refusals["lora"]
    return found.refusals["lora"]


def changed(**changes):
    return record([dataclasses.replace(one, **changes) for one in runs(seeds=(42,))])


def test_without_a_baseline_nothing_passes():
    assert "there is no baseline the baseline" in refused(record(runs(seeds=(42,))), None)


def test_a_method_that_the_baseline_does_not_have_is_refused():
    assert "has no method 'lora' (there: full)" in refused(record(runs(seeds=(42,))), record(runs(method="full")))


def test_another_signature_is_refused():
    assert "its scores are made as 'other'" in refused(changed(signature="other"), record(runs()))


def test_fewer_and_other_documents_are_refused():
    old = record(runs())
    assert "59 test documents are not the baseline's 60: 1 are missing, 0 are new" in refused(
        record(runs(seeds=(42,), documents=59)), old
    )
    ids = [f"other-{n}" for n in range(DOCUMENTS)]
    assert "60 are missing, 60 are new" in refused(changed(document_ids=ids), old)


def test_other_texts_under_the_same_ids_are_refused():
    new = dataclasses.replace(record(runs(seeds=(42,))), texts="f" * 64)
    assert "have other texts" in refused(new, record(runs()))


def test_changed_parameter_counts_are_refused():
    counts = {"requires_grad": {**run().parameters["requires_grad"], "trainable": 7}}
    assert "its parameter counts changed: trainable 460800 -> 7" in refused(changed(parameters=counts), record(runs()))


def test_a_dead_run_is_refused_whatever_else_passed():
    new, old = record(runs(seeds=(42,), method="full")), record(runs(), runs(method="full"))
    found = gate(new, old, asked=["lora", "full"], dead={"lora": "out of memory (during training)"})
    assert found.refusals == {"lora": "the run is dead: out of memory (during training)"}
    assert {verdict.method for verdict in found.verdicts} == {"full"}


def test_a_method_that_did_not_run_is_refused():
    found = gate(record(runs(seeds=(42,), method="full")), record(runs(), runs(method="full")), asked=["lora", "full"])
    assert "no finished run in this session" in found.refusals["lora"]


def test_one_document_gets_no_verdict_and_is_red():
    found = gate(record(runs(seeds=(42,), documents=1)), record(runs(documents=1)))
    assert words(found) == {None} and len(found.failures()) == 3


def test_changed_settings_and_versions_are_listed():
    spec = {**run(seed=42).spec, "training": {"epochs": 3, "learning_rate": 0.0}, "versions": {"torch": "9"}}
    found = gate(changed(spec=spec), record(runs()))
    assert "training.learning_rate 0.001 -> 0.0" in found.changes["lora"]
    assert "torch not set -> 9" in found.changes["lora"]
    assert "training.learning_rate 0.001 -&gt; 0.0" in shown.markdown_table(found)


def test_a_method_of_the_baseline_that_was_not_asked_for_is_named():
    found = gate(record(runs(seeds=(42,))), record(runs(), runs(method="full")))
    assert found.absent == ("full",) and "not asked for: full" in shown.text(found)


# Shown


def test_the_failure_says_what_dropped_what_changed_and_what_to_type():
    found = gate(record(runs(-8, seeds=(42,))), record(runs()))
    said = shown.failure(found, found.verdicts[0], "pytest --update-baseline")
    assert "lora on ROUGE-1: regressed: " in said and "no setting and no version" in said
    assert said.endswith("type pytest --update-baseline") and "\n" not in said


def test_what_regressed_is_annotated_as_an_error():
    found = gate(record(runs(-8, seeds=(42,))), record(runs()))
    lines = shown.annotations(found)
    assert len(lines) == 3 and lines[0].startswith("::error title=lora ROUGE-1 regressed::")


def test_a_text_can_neither_end_an_annotation_nor_begin_one():
    said = shown.command("error", "a::b, c\n::error::", "100 %\n::error::x")
    assert said == "::error title=a%3A%3Ab%2C c\\n%3A%3Aerror%3A%3A::100 %25\\n::error::x"
    found = gate(None, None, dead={"lora": "::error::x\n::set-output name=a::b"})
    assert all(line.startswith("::error title=lora refused::") for line in shown.annotations(found))
    assert "\n::" not in shown.text(found) and "\n::" not in shown.markdown_table(found)


# python -m bakeoff compare


def results(path, *sides, deaths=(), **changes):
    """A results.json of lists of runs."""
    made = comparison.compare(settings(**changes), {side[0].spec["method"]: side for side in sides}, deaths)
    path.write_text(results_json.render(results_json.content(made)))
    return str(path)


def test_compare_gives_the_verdicts_of_the_gate(tmp_path, capsys):
    new, old = runs(-3, (42,)), runs()
    code = main(["compare", results(tmp_path / "a.json", old), results(tmp_path / "b.json", new)])
    found = gate(record(new), record(old))
    out = capsys.readouterr().out
    assert code == int(bool(found.failures()))
    for verdict in found.verdicts:
        [line] = [line for line in out.splitlines() if shown.ROUGE[verdict.metric] in line and "lora" in line]
        assert verdict.word in line and shown.difference(verdict) in line and shown.probability(verdict.p) in line


@pytest.mark.parametrize("points, code", [(-8, 1), (0, 0), (8, 0)])
def test_compare_is_red_where_a_method_regressed(tmp_path, capsys, points, code):
    files = results(tmp_path / "a.json", runs()), results(tmp_path / "b.json", runs(points, (42,)))
    assert main(["compare", *files]) == code


def test_compare_of_single_seeds_gives_no_verdict(tmp_path, capsys):
    files = results(tmp_path / "a.json", runs(seeds=(1,))), results(tmp_path / "b.json", runs(-8, (2,)))
    assert main(["compare", *files]) == 0
    out = capsys.readouterr().out
    assert "documents only" in out and "regressed  " not in out


def test_single_seeds_borrow_the_spread_of_a_calibration():
    known = {metric: components(record(runs()).methods["lora"].rows(metric), "calibration") for metric in METRICS}
    found = gate(record(runs(-8, (42,))), record(runs(seeds=(1,))), spreads={"lora": known})
    assert words(found) == {"regressed"} and found.verdicts[0].contrast.variance.source == "calibration"


def test_compare_is_red_for_a_dead_method(tmp_path, capsys):
    dead = [Death("full", 42, "training", "out of memory")]
    files = results(tmp_path / "a.json", runs()), results(tmp_path / "b.json", runs(seeds=(42,)), deaths=dead)
    assert main(["compare", *files]) == 1
    assert "full, refused: the run is dead: out of memory (during training)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"methods": []}, "'methods': expected an object"),
        ({"methods": {"lora": {"seeds": [1]}}}, "'methods.lora.scores': expected an object"),
        ({"methods": {"lora": {"seeds": [1, 1]}}}, "'methods.lora.seeds': expected each seed once"),
        ({"methods": {"lora": {"seeds": [True]}}}, "'methods.lora.seeds': expected a list of whole numbers"),
        ({"methods": {}}, "has no trained method"),
        ({"deaths": {}}, "'deaths': expected a list"),
        ({"document_ids": ["a"]}, "expected a list of 1 scores"),
        ({"task": "other"}, "give two files of one task"),
        ({"settings": {"gate": {"alpha": 0}}}, "gate.alpha = 0: expected at least 1e-09"),
    ],
)
def test_compare_names_what_is_wrong_in_a_file(tmp_path, capsys, change, expected):
    good, bad = results(tmp_path / "a.json", runs()), tmp_path / "b.json"
    bad.write_text(json.dumps({**json.loads((tmp_path / "a.json").read_text()), **change}))
    assert main(["compare", good, str(bad)]) == 4
    err = capsys.readouterr().err
    assert expected in err and len(err.splitlines()) == 1


def test_compare_of_a_missing_file_is_one_line(tmp_path, capsys):
    assert main(["compare", str(tmp_path), str(tmp_path / "b.json")]) == 4
    assert "no such file; give a results.json that pytest bench/ wrote" in capsys.readouterr().err
