"""Baselines: what is written is what is read, a diff of it is small, and a file that doesn't fit is refused."""

import copy
import json
import re

import pytest
from factories import predictions, run

from bakeoff.config import presets
from bakeoff.core.errors import UsageError
from bakeoff.data import tasks
from bakeoff.gate import baseline
from bakeoff.gate.verdicts import judge
from bakeoff.metrics.rouge import Prediction
from bakeoff.report.results_json import render
from bakeoff.scoring.api import Beside, Facts
from bakeoff.shipped import ROOT


def record(*methods, seeds=(1, 2, 3, 4, 5), **changes):
    """A record of synthetic runs."""
    names = methods or ("lora",)
    results = {name: [run(name, seed=seed, **changes) for seed in seeds] for name in names}
    return baseline.of_runs("synthetic", results, predictions(results[names[0]][0]))


def text(found):
    return render(baseline.content(found))


@pytest.fixture
def file(tmp_path):
    """A baseline on disk."""
    path = tmp_path / "synthetic.json"
    path.write_text(text(record("lora", "full")))
    return path


def test_what_is_written_is_what_is_read(file):
    assert baseline.read(file) == record("lora", "full")


def test_a_missing_file_is_no_baseline(tmp_path):
    assert baseline.read(tmp_path / "gone.json") is None


def test_the_file_is_sorted_and_holds_one_seed_a_line(file):
    values = json.loads(file.read_text())
    assert list(values["methods"]) == ["full", "lora"]
    assert list(values["methods"]["lora"]["settings"]) == sorted(values["methods"]["lora"]["settings"])
    assert len(re.findall(r'^ *"[1-5]": \[.*\],?$', file.read_text(), re.MULTILINE)) == 5 * 3 * 2


def test_another_score_changes_one_line(file):
    before = record("lora", "full")
    scores = {metric: dict(rows) for metric, rows in before.methods["lora"].scores.items()}
    scores["rouge1"][3] = (0.5, *scores["rouge1"][3][1:])
    lora = baseline.Scored(
        before.methods["lora"].parameters, before.methods["lora"].settings, before.methods["lora"].environment, scores
    )
    after = baseline.Record(**{**vars(before), "methods": {**before.methods, "lora": lora}})
    changed = [a for a, b in zip(text(before).splitlines(), text(after).splitlines(), strict=True) if a != b]
    assert len(changed) == 1


def test_scores_are_kept_to_a_thousandth_of_a_point():
    found = record().methods["lora"].scores["rouge1"][1]
    exact = run(seed=1).scores["rouge1"]
    assert max(abs(a - b) for a, b in zip(found, exact, strict=True)) <= 5e-6


def test_seeds_stand_in_the_order_of_their_numbers():
    assert record(seeds=(10, 9, 100, 1, 2)).methods["lora"].seeds == (1, 2, 9, 10, 100)


def test_other_references_under_the_same_ids_are_other_texts():
    made = predictions(run())
    other = [type(one)(one.id, one.document, one.reference + "!", one.summary) for one in made]
    assert baseline.digest(made) == baseline.digest(made[::-1]) != baseline.digest(other)


def test_a_method_is_merged_beside_the_others():
    merged = baseline.merge(record("full"), record("lora"))
    assert sorted(merged.methods) == ["full", "lora"]


def test_a_method_replaces_its_own_scores():
    new = record("lora", mean=0.2)
    assert baseline.merge(record("lora", "full"), new).methods["lora"] == new.methods["lora"]


def test_other_documents_are_not_merged_beside_old_ones():
    with pytest.raises(UsageError, match=r"the documents changed, and full .*--method full,lora --update-baseline"):
        baseline.merge(record("full"), record("lora", documents=10))


def test_other_documents_replace_a_baseline_of_the_same_methods():
    assert len(baseline.merge(record("lora"), record("lora", documents=10)).documents) == 10


LORA = ("methods", "lora")


@pytest.mark.parametrize(
    "place, value, expected",
    [
        (("schema",), 2, "'schema': expected 1"),
        (("schema",), True, "'schema': expected 1"),
        (("preset",), 3, "'preset': expected a text"),
        (("more",), 3, "'more': expected only schema, preset"),
        (("document_ids",), [], "'document_ids': expected a list of texts, at least one"),
        (("document_ids",), ["a"] * 20, "'document_ids': expected each document once"),
        (("methods",), {}, "'methods': expected at least one method"),
        (("methods",), [], "'methods': expected an object"),
        ((*LORA, "parameters", "total"), 1.5, "'methods.lora.parameters.total': expected a whole number"),
        ((*LORA, "parameters", "total"), True, "'methods.lora.parameters.total': expected a whole number"),
        ((*LORA, "settings"), None, "'methods.lora.settings': expected an object"),
        ((*LORA, "environment", "python"), 3, "'methods.lora.environment.python': expected a text"),
        ((*LORA, "scores", "rouge1"), [], "'methods.lora.scores.rouge1': expected an object"),
        ((*LORA, "scores", "rouge9"), {}, "'methods.lora.scores.rouge9': expected only rouge1"),
        ((*LORA, "scores", "rouge1", "1"), [0.1] * 19, "rouge1.1': expected a list of 20 scores"),
        ((*LORA, "scores", "rouge1", "1"), [0.1] * 19 + [1.1], "score 20': expected a number from 0 to 1"),
        ((*LORA, "scores", "rouge1", "1"), [0.1] * 19 + [True], "score 20': expected a number from 0 to 1"),
        ((*LORA, "scores", "rouge1", "1"), [0.1] * 19 + ["0"], "score 20': expected a number from 0 to 1"),
        ((*LORA, "scores", "rouge1", "-1"), [0.1] * 20, "rouge1.-1': expected a seed"),
        ((*LORA, "scores", "rouge1", "01"), [0.1] * 20, "'methods.lora.scores.rouge1': expected the seeds of rouge1"),
        ((*LORA, "scores", "rouge2", "6"), [0.1] * 20, "'methods.lora.scores.rouge2': expected the seeds of rouge1"),
        ((*LORA, "scores", "rouge2"), {"1": [0.1] * 20}, "expected at least 5 seeds"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_file_and_key(file, place, value, expected):
    values = json.loads(file.read_text())
    table = values
    for key in place[:-1]:
        table = table[key]
    table[place[-1]] = copy.deepcopy(value)
    file.write_text(json.dumps(values))
    with pytest.raises(UsageError) as caught:
        baseline.read(file)
    assert str(caught.value).startswith(f"{file}: ") and expected in str(caught.value)
    assert "\n" not in str(caught.value) and "--update-baseline" in str(caught.value)


@pytest.mark.parametrize("key", ["schema", "signature", "texts", "document_ids", "methods"])
def test_a_missing_key_is_named(file, key):
    values = json.loads(file.read_text())
    del values[key]
    file.write_text(json.dumps(values))
    with pytest.raises(UsageError, match=f"'{key}': expected a value, but it is missing"):
        baseline.read(file)


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a": 1, "a": 2}', "the key 'a' stands there twice"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b"[]", "'the file': expected an object"),
        (b'<<<<<<< HEAD\n{"schema": 1}', "not valid JSON"),
    ],
)
def test_a_torn_file_is_one_line(file, content, expected):
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        baseline.read(file)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_is_no_baseline(tmp_path):
    with pytest.raises(UsageError, match="can't be read"):
        baseline.read(tmp_path)


def test_the_committed_baseline_is_of_the_documents_as_they_are_read():
    examples = tasks.load(presets.load("ci").task).examples.test
    found = baseline.read(ROOT / "bench" / "baselines" / "ci.json")
    assert list(found.documents) == [example.id for example in examples]
    made = [Prediction(e.id, e.document, e.summary, "any", e.references, e.aspect) for e in examples]
    assert baseline.digest(made) == found.texts


def beside(level, name="repeats", signature="mine:1", missing=False):
    """A metric beside ROUGE of five runs of lora."""
    rows = [[min(1.0, level + 0.002 * ((3 * n + 5 * seed) % 7)) for n in range(20)] for seed in range(5)]
    if missing:
        rows[2][3] = None
    facts = {name: Facts(name, name, "lower", (0.0, 1.0), signature)}
    return Beside(facts, {"lora": {name: rows}})


def with_metric(found):
    results = {"lora": [run("lora", seed=seed) for seed in (1, 2, 3, 4, 5)]}
    return baseline.of_runs("synthetic", results, predictions(results["lora"][0]), found)


def test_a_baseline_keeps_the_metrics_that_carry_verdicts_and_reads_them_back(tmp_path):
    path = tmp_path / "synthetic.json"
    path.write_text(text(with_metric(beside(0.2))))
    assert baseline.read(path) == with_metric(beside(0.2)) and baseline.read(path).metrics == {"repeats": "mine:1"}
    path.write_text(path.read_text().replace('"repeats": {\n', '"other": {\n'))
    with pytest.raises(UsageError, match=r"scores\.other"):
        baseline.read(path)


def test_of_a_metric_whose_lower_value_is_better_a_rise_is_a_regression():
    def words(new, old):
        found = judge(with_metric(beside(new)), with_metric(beside(old)), tolerance=1.0, alpha=0.05, asked=["lora"],
                      metrics=("rougeL", "repeats"), lower=("repeats",))  # fmt: skip
        assert not found.refusals
        return {one.metric: one.word for one in found.verdicts}

    assert words(0.3, 0.2) == {"rougeL": "passed", "repeats": "regressed"}
    assert words(0.2, 0.3) == {"rougeL": "passed", "repeats": "improved"}


@pytest.mark.parametrize(
    ("accepted", "said"),
    [
        (None, "the baseline the baseline has no score of repeats"),
        (beside(0.2, missing=True), "has no score of repeats for every document"),
        (beside(0.2, signature="mine:2"), "'mine:1', the baseline's as 'mine:2'"),
    ],
)
def test_a_metric_that_the_baseline_lacks_or_made_otherwise_is_refused(accepted, said):
    found = judge(with_metric(beside(0.2)), with_metric(accepted), tolerance=1.0, alpha=0.05, asked=["lora"],
                  metrics=("rouge1", "repeats"))  # fmt: skip
    assert said in found.refusals["lora"]
