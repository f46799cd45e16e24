"""The history of a preset: appended whole, read in spite of damage, and shown as a table."""

import json
import multiprocessing

import pytest
from factories import run, settings

from bakeoff.cli import main
from bakeoff.config import project
from bakeoff.gate import baseline
from bakeoff.gate.verdicts import judge
from bakeoff.report.comparison import compare
from bakeoff.report.exports import history
from bakeoff.report.page import read

FIVE = (1, 2, 3, 4, 5)


def line(mean=0.4, seed=42, gated=False):
    """A bake-off of one method, judged or not."""
    made = run("lora", mean, seed=seed)
    gate = None
    if gated:
        old = baseline.of_runs("synthetic", {"lora": [run("lora", 0.6, seed=one) for one in FIVE]})
        new = baseline.of_runs("synthetic", {"lora": [made]})
        gate = judge(new, old, tolerance=1.0, alpha=0.05, asked=["lora"])
    return history.line(compare(settings(), {"lora": [made]}), gate)


def test_a_line_is_results_json_without_the_scores_of_documents():
    found = line(gated=True)
    assert found["schema"] == 1 and found["preset"] == "synthetic" and found["settings"]["seeds"] == [42]
    method = found["methods"]["lora"]
    figures = "rouge metrics seconds memory_bytes parameters hyperparameters seeds documents runs"
    assert set(method) == set(figures.split())
    assert set(method["rouge"]["rougeL"]) == {"mean", "low", "high"} and method["documents"] == 20
    assert found["gate"]["verdicts"]["lora"]["rougeL"]["verdict"] == "regressed"
    assert len(json.dumps(found)) < 5000 and line()["gate"] is None


def test_a_bake_off_that_made_nothing_new_is_appended_once(tmp_path):
    path = tmp_path / "history" / "p.jsonl"
    assert history.append(path, line(), made=True) and not history.append(path, line(), made=False)
    assert history.append(path, line(seed=43), made=False) and not history.append(path, line(), made=False)
    assert history.append(path, line(gated=True), made=False)  # the verdict is new
    assert history.append(path, line(), made=True)
    assert len(history.read(path)[0]) == 4


def test_a_torn_line_stays_alone_and_is_named(tmp_path):
    path = tmp_path / "p.jsonl"
    history.append(path, line(), made=True)
    with open(path, "a") as file:
        file.write('{"schema": 1, "finis')
    lines, [note] = history.read(path)
    assert len(lines) == 1 and "line 2 was left out: it is incomplete" in note
    history.append(path, line(seed=43), made=True)
    lines, [note] = history.read(path)
    assert [one["methods"]["lora"]["seeds"] for one in lines] == [[42], [43]] and "line 2" in note


def many(path, first):
    """Appends twenty lines."""
    for number in range(20):
        history.append(path, {"schema": 1, "number": first + number, "text": "x" * 9000}, made=True)


def test_two_processes_append_whole_lines(tmp_path):
    path = tmp_path / "p.jsonl"
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=many, args=(path, first)) for first in (0, 20)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert sorted(json.loads(one)["number"] for one in path.read_text().splitlines()) == list(range(40))


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """Types `bakeoff history` in a project with one history: `code, out, err = typed()`."""
    history.append(tmp_path / "reports" / "history" / "synthetic.jsonl", line(gated=True), made=True)
    monkeypatch.setattr(project, "_root", None)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return main(["history", *arguments]), *capsys.readouterr()

    return run


def test_the_table_has_date_version_model_method_score_seconds_and_verdict(typed):
    code, out, _ = typed()
    [row] = [one for one in out.splitlines() if one.startswith("2026-01-02 03:04")]
    assert code == 0 and all(part in row for part in ("0.1.0", "lora", "regressed", "["))
    assert max(map(len, out.splitlines())) <= 100
    assert "Brackets hold 95 % intervals. ROUGE-L in F1 x 100." in out
    two = typed("synthetic", "--metric", "rouge1", "--metric", "rouge2")[1]
    assert two.splitlines()[2].count("ROUGE-") == 2 and "ROUGE-1 and ROUGE-2 in F1 x 100." in two


def test_a_metric_beside_rouge_is_shown_as_the_report_shows_it_and_what_finds_no_room_is_named(tmp_path, capsys):
    one = line(gated=True)
    one["metrics"] = {"chrf": {"label": "chrF++", "range": [0, 1], "better": "higher"},
                      "empty": {"label": "empty, %", "range": [0, 100], "better": "lower"}}  # fmt: skip
    for method in one["methods"].values():
        method["metrics"] = {"chrf": {"mean": 0.3301, "low": 0.31, "high": 0.35},
                             "empty": {"mean": 1.5, "low": 0.5, "high": 2.5}}  # fmt: skip
    history.append(tmp_path / "beside.jsonl", one, made=True)
    metrics = [part for name in ("chrf", "empty", "rouge1", "rouge2", "rougeL") for part in ("--metric", name)]
    assert main(["history", str(tmp_path / "beside.jsonl"), *metrics]) == 0
    out = capsys.readouterr().out
    assert "chrF++" in out and "33.01 [31.00, 35.00]" in out and "1.50 [0.50, 2.50]" in out
    assert max(map(len, out.splitlines())) <= 100 and "not shown for want of room: " in out
    [found] = read.results([tmp_path / "beside.jsonl"])
    known = {metric["key"]: metric for metric in found.shown["metrics"]}
    assert known["chrf"]["factor"] == 100 and known["empty"]["falls"] and not known["chrf"]["falls"]


def test_what_is_not_there_is_refused_with_the_nearest(typed):
    assert "did you mean 'synthetic'?" in typed("synthetik")[2]
    assert "did you mean 'rougeL'?" in typed("synthetic", "--metric", "rougeX")[2]
