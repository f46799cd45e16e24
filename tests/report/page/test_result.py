"""What the page is made from: results of any metrics, texts that stay text, and files that are what they should be."""

import json
import re
from itertools import combinations

import pytest
from factories import predictions, run, settings

import bakeoff
from bakeoff import report
from bakeoff.cli import main
from bakeoff.config.schema import ReportSettings
from bakeoff.core.errors import UsageError
from bakeoff.gate.verdicts import Gate, Verdict
from bakeoff.report import analysis, document, results_json
from bakeoff.report.comparison import compare
from bakeoff.report.escape import plain
from bakeoff.report.headline import headline
from bakeoff.report.page import details, over_time, read, result, write
from bakeoff.runs.records import Death


@pytest.fixture
def comparison():
    """Three methods with three seeds, and a control."""
    means = {"lora": 0.40, "full": 0.41, "soft-prompt": 0.2}
    found = {name: [run(name, mean, seed=seed) for seed in (1, 2, 3)] for name, mean in means.items()}
    return compare(settings(seeds=(1, 2, 3)), {**found, "lead-1": [run("lead-1", 0.3, control=True)]})


@pytest.fixture
def content(comparison):
    """Its results.json."""
    return results_json.content(comparison)


def test_the_headline_is_that_of_the_comparison(comparison, content):
    shown = result.shown(content)
    for metric, label in (("rouge1", "ROUGE-1"), ("rougeL", "ROUGE-L")):
        means = {row.name: row.rouge[metric].mean for row in comparison.methods}
        [found] = [one for one in shown["metrics"] if one["key"] == metric]
        assert found["headline"] == headline(means, comparison.alike(metric), label, plain)
        names = [row["name"] for row in shown["rows"]]
        alike = {pair for group in found["groups"] for pair in combinations(sorted(names[n] for n in group), 2)}
        assert alike == {pair for group in comparison.alike(metric) for pair in combinations(sorted(group), 2)}
        columns = {names[n]: sum(n in group for group in found["groups"]) for n in range(3)}
        assert {row["name"]: len(row["letters"][metric]) for row in shown["rows"][:3]} == columns


@pytest.mark.parametrize("seeds", [(1, 2, 3), (1,)])
def test_the_report_begins_with_the_headline_of_the_page(seeds):
    found = {name: [run(name, mean, seed=seed) for seed in seeds] for name, mean in (("lora", 0.4), ("full", 0.2))}
    made = compare(settings(seeds=seeds), found)
    [shown] = [one for one in result.shown(results_json.content(made))["metrics"] if one["key"] == "rougeL"]
    assert analysis.first(made, plain) == shown["headline"]
    assert document.render(made, {}, []).splitlines()[2] == f"**{shown['headline']}**"


MEANS = {"a": 0.3, "b": 0.2, "c": 0.1}


@pytest.mark.parametrize(
    "alike, falls, said",
    [
        ([("a",), ("b", "c")], False, "a has the highest mean M, 30.00, and is above every other method."),
        ([("a", "b"), ("b", "c")], False, "b cannot be told from it, and it is above c."),
        ([("a", "b", "c")], False, "of 3 methods; no other method can be told from it."),
        (None, False, "of 3 methods; none is called better, because they were not tested."),
        ([("c",), ("a", "b")], True, "c has the lowest mean M, 10.00, and is below every other method."),
    ],
)
def test_a_headline_says_what_the_tests_say(alike, falls, said):
    assert said in headline(MEANS, alike, "M", plain, falls=falls)


def test_equal_means_are_named_together():
    same = {"a": 0.2, "b": 0.2, "c": 0.1}
    assert headline(same, [("a", "b"), ("c",)], "M", plain) == ("a and b have the highest mean M, 20.00; a is above c.")
    assert headline({"a": 0.0, "b": 0.0}, None, "M", plain).startswith("a and b have the same mean M, 0.00")


def test_a_metric_of_any_name_is_shown_and_one_that_falls_is_ranked_from_below(content):
    content["metrics"] = {"repeats": {"label": "repeated trigrams, %", "better": "lower", "range": [0, 1]}}
    for place, figures in enumerate(content["methods"].values()):
        figures["metrics"] = {"repeats": {"mean": 0.1 * (1 + place), "low": None, "high": None}}
        figures["scores"]["repeats"] = [[None, 0.5] + [0.1] * 18] * 3
    shown = result.shown(content)
    [found] = [one for one in shown["metrics"] if one["key"] == "repeats"]
    assert (found["factor"], found["unit"], found["falls"]) == (100, "", True)
    assert found["headline"].startswith("lora has the lowest mean repeated trigrams, %, 10.00")
    assert shown["rows"][0]["scores"]["repeats"]["span"] == ""
    assert "repeats" not in shown["rows"][3]["scores"]


def test_what_was_not_measured_is_a_dash_and_no_column_is_empty(content):
    for figures in content["methods"].values():
        figures["seconds"]["train"] = None
    content["methods"]["lora"]["adapter_bytes"] = None
    shown = result.shown(content)
    keys = [column["key"] for column in shown["columns"]]
    assert "train" not in keys and "max_allocated" not in keys and "total" in keys
    assert shown["rows"][0]["figures"]["adapter"] == [None, "–"]
    assert len(set(keys)) == len(keys)


def test_details_hold_every_text_and_a_curve_of_few_points():
    steps = [{"step": n, "epoch": 1 + (n - 1) // 500, "loss": float(n)} for n in range(1, 1001)]
    one = run("lora", steps=steps)
    found = details.content(compare(settings(), {"lora": [one]}), {"lora": predictions(one, "Said.")})
    assert [document["id"] for document in found["documents"]] == one.document_ids
    assert found["documents"][3]["items"][0]["summaries"] == ["Said."]
    [curve] = found["steps"]["lora"]
    assert len(curve) <= details.POINTS and curve[-1][:2] == [1000, 2.0]
    block = 1000 // len(curve)
    assert curve[0] == [block, block / 500, (1 + block) / 2]
    assert json.loads(details.dump(found)) == found


def test_curves_of_many_runs_have_fewer_points(monkeypatch):
    monkeypatch.setattr(details, "ALL", 40)
    steps = [{"step": n, "epoch": 1 + (n - 1) // 500, "loss": float(n)} for n in range(1, 1001)]
    [curves] = details.content(compare(settings(), {"lora": [run("lora", steps=steps)] * 2}), {})["steps"].values()
    assert [len(curve) for curve in curves] == [20, 20] and curves[0][-1][:2] == [1000, 2.0]


def test_data_in_a_page_closes_no_script_and_hides_no_character():
    value = {"k\u202e": "</script><!-- \u2028 & \x00", "__proto__": ["constructor"]}
    text = write.packed(write.inert(value))
    assert not re.search("[<>&\u2028\u202e\x00]", text)
    assert json.loads(text) == {"k\\u202e": "</script><!-- \n & \\x00", "__proto__\u00a0": ["constructor\u00a0"]}


def test_without_the_setting_no_page_is_written_and_an_earlier_one_goes(tmp_path):
    for page in (True, False):
        chosen = settings(report=ReportSettings(page=page))
        report.write(compare(chosen, {"lead-1": [run("lead-1", control=True)]}), {}, tmp_path)
        assert {"index.html", "details.json"} <= {path.name for path in tmp_path.iterdir()} or not page
    assert {path.name for path in tmp_path.iterdir()} == {"plots", "results.json", "report.md"}


def test_a_page_shows_what_its_gate_said(tmp_path, comparison):
    verdict = Verdict("lora", "rougeL", "regressed", 0.3, 0.4, comparison.pairs[0].contrast, 0.0004, None, "")
    gate = Gate("bench/baselines/x.json", 1.0, 0.05, (verdict,), {"full": "it is new"}, {})
    write.write_report(comparison, {}, tmp_path, gate, None)
    (tmp_path / "results.json").write_text(results_json.render(results_json.content(comparison)))
    [data] = re.findall('id="data">(.+)</script>', (tmp_path / "index.html").read_text(encoding="utf-8"))
    [shown] = json.loads(data)["results"]
    said = [(one["method"], one["metric"], one["verdict"], one["p"]) for one in shown["verdicts"]]
    assert said == [("lora", "ROUGE-L", "regressed", "< 0.001"), ("full", "", "refused: it is new", "")]
    [again] = read.results([tmp_path])  # as `bakeoff page` reads the folder of the report
    over_time.judged([again])
    assert [{**one, "result": ""} for one in again.shown["verdicts"]] == [
        {**one, "result": ""} for one in shown["verdicts"]
    ]


# bakeoff page


def test_two_results_are_judged_as_compare_judges_them(tmp_path, capsys, comparison):
    content = results_json.content(comparison)
    content["settings"]["scoring"]["verdicts"] = content["verdicts"] = ["rougeL"]
    for name, drop in (("old", 0.0), ("new", 0.3)):
        found = json.loads(json.dumps(content))
        rows = found["methods"]["lora"]["scores"]
        rows["rougeL"] = [[max(0.0, score - drop) for score in row] for row in rows["rougeL"]]
        found["finished"] = f"2026-01-0{1 if name == 'old' else 2}T00:00:00+00:00"
        if name == "new":
            found["methods"]["another"] = found["methods"]["full"]
            found["deaths"] = [{"method": "lost", "seed": 1, "phase": "training", "cause": "out of memory"}]
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    both = over_time.compared(read.results([tmp_path / "old.json", tmp_path / "new.json"]))
    said = {(one["method"], one["metric"]): one["verdict"] for one in both["verdicts"] if one["metric"]}
    assert said == {
        ("lora", "ROUGE-L"): "regressed",
        ("full", "ROUGE-L"): "passed",
        ("soft-prompt", "ROUGE-L"): "passed",
    }
    assert main(["compare", str(tmp_path / "old.json"), str(tmp_path / "new.json")]) == 1
    out = capsys.readouterr().out
    refused = [note for note in both["notes"] if "was not compared" in note]
    assert any("another" in note for note in refused) and any("lost" in note and "memory" in note for note in refused)
    assert "another" in out and "ROUGE-1" not in out and all(f"{name} " in out for name, _ in said)


def line(content, finished, gate=None):
    """A line of a history."""
    kept = {key: content[key] for key in ("preset", "model", "task", "signature", "environment", "settings")}
    figures = ("rouge", "seconds", "parameters", "hyperparameters")
    methods = {name: {key: found[key] for key in figures} for name, found in content["methods"].items()}
    return {"schema": 1, "finished": finished, "bakeoff": "1", **kept, "methods": methods, "gate": gate}


def test_a_history_is_read_with_verdicts_and_changes_and_a_torn_line_is_left_out(tmp_path, content):
    said = {"verdict": "regressed", "difference": -0.03, "low": -0.05, "high": -0.01, "p_holm": 0.001}
    gate = {"baseline": "bench/baselines/x.json", "verdicts": {"lora": {"rougeL": said}}, "refusals": {"full": "new"}}
    old, new = line(content, "2026-01-02T03:04:05+00:00"), line(content, "2026-01-03T03:04:05+00:00", gate)
    new["environment"] = {**new["environment"], "python": "3.12"}
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([json.dumps(new), '{"schema": 1, "fin', json.dumps(old)]))
    found = read.results([path])
    assert [one.name for one in found] == ["2026-01-02 03:04", "2026-01-03 03:04"]
    both = over_time.compared(found)
    assert {point["series"] for point in both["points"]} == {0}
    assert both["dated"] and len(both["points"]) == 2 * 3 * 3
    assert [(one["method"], one["verdict"], one["difference"]) for one in both["verdicts"]] == [
        ("lora", "regressed", "-3.00"), ("full", "refused: new", "")
    ]  # fmt: skip
    [change] = both["changes"]
    assert change["changed"] == ["machine.python 3.11.7 -> 3.12"]
    over_time.judged(found[1:])  # a page of this one alone
    assert [one["verdict"] for one in found[1].shown["verdicts"]] == ["regressed", "refused: new"]


def test_results_of_other_documents_are_shown_and_not_compared(tmp_path, content):
    for name, ids in (("a", content["document_ids"]), ("b", [f"other-{n}" for n in range(20)])):
        (tmp_path / f"{name}.json").write_text(json.dumps({**content, "document_ids": ids}))
    both = over_time.compared(read.results([tmp_path]))
    assert both["verdicts"] == [] and any("test documents are not" in note for note in both["notes"])
    assert {(point["place"], point["series"]) for point in both["points"]} == {(0, 0), (1, 1)}, "no line joins them"


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("none.json", None, "no such file"),
        ("list.json", "[]", "expected an object"),
        ("other.json", '{"preset": "x", "model": "y"}', "'task': expected a text"),
        ("odd.json", '{"preset": "x", "model": "y", "task": "z", "methods": {"a": 3}}', "not as a bake-off leaves it"),
        ("empty.jsonl", "", "no result is there"),
        ("broken.json", "{", "not valid JSON"),
    ],
)
def test_a_file_that_is_no_result_is_one_line(tmp_path, capsys, name, text, said):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert main(["page", str(tmp_path / name)]) == 4
    error = capsys.readouterr().err
    assert said in error and name in error and error.count("\n") == 1


def test_the_command_writes_beside_one_result_and_refuses_another_kind_of_file(tmp_path, capsys, content):
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert main(["page", str(tmp_path)]) == 0
    assert (tmp_path / "index.html").is_file() and "index.html" in capsys.readouterr().out
    assert main(["page", str(tmp_path), "--output", str(tmp_path / "results.json")]) == 4
    assert "ends with .html" in capsys.readouterr().err


def test_a_dead_method_is_named(comparison):
    dead = compare(settings(), {"lora": [run("lora")]}, [Death("full", 42, "training", "out of memory")])
    assert result.shown(results_json.content(dead))["deaths"] == ["full, seed 42, in training: out of memory"]


def test_in_a_folder_of_reports_what_is_no_bake_off_is_passed_over_and_by_name_it_is_refused(tmp_path):
    content = results_json.content(compare(settings(), {"lora": [run("lora", 0.4)]}))
    for name, values in (("quick", content), ("speed", {"rows": [1]}), ("studies", {"preset": "rank", "methods": []})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(values))
    assert [one.name for one in read.results([tmp_path])] == ["quick"]
    for place in (tmp_path / "speed", tmp_path / "studies" / "results.json"):
        with pytest.raises(UsageError, match="expected a text"):
            read.results([place])


def test_a_result_names_the_version_that_made_it():
    content = results_json.content(compare(settings(), {"lora": [run("lora", 0.4)]}))
    assert over_time.changed({**content, "bakeoff": "0.0.9"}, content) == [f"bakeoff 0.0.9 -> {bakeoff.__version__}"]
