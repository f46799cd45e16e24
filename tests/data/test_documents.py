"""The unit is the document: one prompt, one score, one id, however many references, aspects and rows it has."""

import json

import pytest
from factories import run as finished
from scipy import stats

from bakeoff import report
from bakeoff.cli import main
from bakeoff.config import presets, schema
from bakeoff.config.schema import ScoringSettings, Settings, TaskSettings
from bakeoff.core.errors import UsageError
from bakeoff.data import tasks
from bakeoff.methods.selection import select
from bakeoff.metrics.rouge import Prediction, Scorer
from bakeoff.report.comparison import compare
from bakeoff.runs.pipeline import cut_documents, run
from bakeoff.runs.records import RunSpec
from bakeoff.runs.resources import Clock
from bakeoff.session import plan, worker
from bakeoff.shipped import ROOT

PARROT = '''
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Parrot:
    """The words of the document from the second on; needs no model, so a session of it takes seconds."""

    name: ClassVar[str] = "parrot"
    drop: int = 1

    def summarise(self, examples):
        return [" ".join(example.document.split()[self.drop :]) for example in examples.test]
'''
OTHERS = [
    {"id": f"{split}-{n}", "document": f"Text {n} of {split} about bread.", "summary": f"Bread {n}.", "split": split}
    for split, count in (("train", 3), ("validation", 2))
    for n in range(count)
]
TWO_REFERENCES = [
    {"id": "a", "document": "One document about rye bread.", "summary": "Rye bread.", "split": "test"},
    {"id": "a", "document": "One document about rye bread.", "summary": "About a loaf of rye.", "split": "test"},
    {"id": "b", "document": "Another text about wheat.", "summary": "Wheat.", "split": "test"},
]
ID_LIKE_A_ROW = [
    {"id": "row-2", "document": "A first text about rye bread.", "summary": "Rye bread.", "split": "test"},
    {"document": "A different text about wheat flour.", "summary": "Wheat flour.", "split": "test"},
]
TWO_DOCUMENTS_ONE_ID = [
    {"id": "a", "document": "One document about rye bread.", "summary": "Rye bread.", "split": "test"},
    {"id": "a", "document": "A different text about wheat flour.", "summary": "Wheat flour.", "split": "test"},
]
CHINESE = [
    {
        "id": f"{split}{n}",
        "document": f"{split}第{n}篇。这篇论文提出了方法。结果提高了。",
        "summary": "结果提高了。",
        "split": split,
    }
    for split, count in (("train", 3), ("validation", 2), ("test", 3))
    for n in range(count)
]  # fmt: skip


PARTS = ("model", "task", "generation", "scoring", "machine")


@pytest.fixture
def write(tmp_path):
    """A function that writes rows as a .jsonl file and gives its path."""

    def file(rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return file


def load(path, scorer=None, **changes):
    return tasks.load(TaskSettings(**{"name": str(path), "train": 0, "validation": 0, "test": 0, **changes}), scorer)


def lead(examples):
    """What lead-1 writes, as predictions."""
    return [Prediction(e.id, e.document, e.summary, e.sentences[0], e.references, e.aspect) for e in examples]


# Ids


def test_references_of_a_document_are_one_example(write):
    task = load(write([*OTHERS, *TWO_REFERENCES]))
    assert [(e.id, e.references) for e in task.examples.test] == [
        ("a", ("Rye bread.", "About a loaf of rye.")), ("b", ("Wheat.",))]  # fmt: skip


def test_a_made_id_is_not_one_that_is_given(write):
    given = [{**row, "id": f"row-{n}"} for n, row in enumerate(OTHERS, 2)]
    for rows in ([*ID_LIKE_A_ROW, *OTHERS], [ID_LIKE_A_ROW[1], *given], [*given, ID_LIKE_A_ROW[1]]):
        task = load(write([*rows, {**TWO_REFERENCES[2], "id": "row-1-made"}]))
        ids = [e.id for split in tasks.SPLITS for e in getattr(task.examples, split)]
        assert len(set(ids)) == len(ids)


def test_an_id_of_two_documents_is_refused_with_both_rows(write):
    path = write([*OTHERS, *TWO_DOCUMENTS_ONE_ID])
    with pytest.raises(UsageError) as caught:
        load(path)
    assert f"{path}:7: the id 'a' is that of another document at {path}:6" in str(caught.value)
    assert "--set task.id_column=" in str(caught.value)
    assert [e.id for e in load(path, id_column="").examples.test] == ["row-6", "row-7"]


def test_a_row_that_stands_twice_is_dropped_and_counted(write):
    task = load(write([*OTHERS, *TWO_REFERENCES, TWO_REFERENCES[0], OTHERS[0]]))
    assert task.counts["repeated"] == 2 and task.counts["rows"] == 10 and len(task.examples.train) == 3
    assert task.examples.test[0].references == ("Rye bread.", "About a loaf of rye.")


@pytest.mark.parametrize("name", [["a"], {"a": 1}])
def test_an_id_that_is_no_text_is_refused(write, name):
    with pytest.raises(UsageError, match=":1: 'id' is no text and no number"):
        load(write([{**OTHERS[0], "id": name}]))


# Units


def test_five_references_give_the_interval_of_one(write):
    words = [f"w{n} w{n + 1} w{n + 2} w{n // 2} w{n * n}" for n in range(20)]
    rows = [{"id": f"{n}-{k}", "document": f"w{n} w{n + 1} w7. Other words {n}.", "split": "test",
             "summary": " ".join(text.split()[k:] + text.split()[:k])}
            for n, text in enumerate(words) for k in range(5)]  # fmt: skip
    found = []
    for kept in (rows, rows[::5]):
        examples = load(write([*OTHERS, *kept])).examples
        ids, scores = Scorer().score(lead(examples.test))
        assert ids == [f"{n}-0" for n in range(20)]
        made = finished("lora", scores=scores, document_ids=ids)
        interval = compare(Settings(), {"lora": [made]}).methods[0].rouge["rouge1"]
        t = stats.t.interval(0.95, 19, loc=interval.mean, scale=stats.sem(scores["rouge1"]))
        assert (interval.low, interval.high) == pytest.approx(t)
        found.append(interval)
    assert found[0] == found[1]


def test_three_aspects_of_a_paper_are_one_document(tmp_path):
    examples = load("aclsum/all", train=4, validation=2, test=6).examples
    assert len(examples.test) == 18 and len({e.id for e in examples.test}) == 6
    made = lead(examples.test)
    ids, scores = Scorer().score(made)
    assert len(ids) == 6 == len(scores["rouge1"])
    single = [Scorer().rouge(one.summary, one.references)["rougeL"] for one in made]
    assert scores["rougeL"] == pytest.approx([sum(single[n : n + 3]) / 3 for n in range(0, 18, 3)])
    result = finished("lora", scores=scores, document_ids=ids)
    compared = compare(Settings(), {"lora": [result]})
    page = report.write(compared, {"lora": made}, tmp_path).read_text("utf-8")
    assert "6 test documents" in page and "6 test documents" in report.terminal(compared)
    assert all(f"{aspect}:" in page for aspect in ("Challenge", "Approach", "Outcome"))
    assert all(one.reference.split()[-2] in page for one in made[:3])


def test_samples_show_every_reference(tmp_path, write):
    made = lead(load(write([*OTHERS, *TWO_REFERENCES])).examples.test)
    ids, scores = Scorer().score(made)
    compared = compare(Settings(), {"lora": [finished("lora", scores=scores, document_ids=ids)]})
    page = report.write(compared, {"lora": made}, tmp_path / "report").read_text("utf-8")
    assert "About a loaf of rye." in page and "Rye bread." in page
    assert "ROUGE-Lsum F1 x 100" in page
    saved = json.loads((tmp_path / "report" / "results.json").read_text())
    assert set(saved["methods"]["lora"]["scores"]) == {"rouge1", "rouge2", "rougeL", "rougeLsum"}


def test_what_was_dropped_is_in_report_and_results(tmp_path):
    data = {"rows": 1007, "empty": 1, "repeated": 2, "two_splits": 3, "other_splits": 0, "ids_made": 1}
    made = finished("lora", data=data, notes=["a note on letters"])
    compared = compare(Settings(), {"lora": [made]})
    page = report.write(compared, {}, tmp_path).read_text("utf-8")
    for text in (page, report.terminal(compared)):
        assert (
            "Of 1,007 rows of the documents' source 6 were dropped: 1 without a text, 2 that repeat another, 3 " in text
        )
        assert "1 document got an id by position" in text and "a note on letters." in text
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["data"] == data and saved["notes"] == ["a note on letters"]


def test_a_document_that_is_cut_in_each_reference_counts_once(write):
    test = load(write([*OTHERS, *TWO_REFERENCES])).examples.test
    assert cut_documents(tasks.each_reference(test), [True, True, False]) == 1
    assert cut_documents(tasks.each_reference(test), [False, True, True]) == 2


# Controls


def control(name):
    return next(entry.kind for entry in select([name]) if entry.name == name)()


def test_the_oracle_finds_the_sentence_of_any_reference_and_script(write):
    rows = [*OTHERS, {"document": "One here. Two there. Three more.", "summary": "three more", "split": "test"},
            {"document": "One here. Two there. Three more.", "summary": "nothing", "split": "test"}]  # fmt: skip
    assert control("oracle").summarise(load(write(rows)).examples) == ["Three more."]
    scorer = Scorer(ScoringSettings(tokenizer="unicode"))
    examples = load(write(CHINESE), scorer).examples
    assert set(control("oracle").summarise(examples)) == {"结果提高了。"}
    assert set(control("position").summarise(examples)) == {"结果提高了。"}
    assert control("lead-3").summarise(examples)[0] == "test第0篇。这篇论文提出了方法。结果提高了。"


def test_a_shuffled_reference_is_of_the_same_aspect():
    examples = load("aclsum/all", train=5, validation=1, test=4).examples
    found = control("shuffled").summarise(examples)
    for text, asked in zip(found, examples.test, strict=True):
        assert text in {e.summary for e in examples.train if e.aspect == asked.aspect}


# The whole life


@pytest.fixture
def bench(tmp_path, monkeypatch, capfd, furnished):
    """Types `pytest bench/test_quality.py -k test_gate` with the parrot in this process: `code, out = bench(path)`."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "parrot.py").write_text(PARROT)
    worker.start_server(offline=True)
    furnished(tmp_path / "store")

    def typed(task, *arguments):
        command = [str(ROOT / "bench" / "test_quality.py"), "-k", "test_gate", "--preset", "smoke", "--method",
                   "parrot.py", "--task", str(task), *(f"--set=task.{split}=0" for split in tasks.SPLITS), "--store",
                   "store", "--report-dir", "report", "--baseline", "accepted.json", "-p", "no:cacheprovider",
                   *arguments]  # fmt: skip
        code = int(pytest.main(command))
        out, err = capfd.readouterr()
        return code, out + err

    return typed


@pytest.mark.slow
def test_results_are_accepted_by_baseline_gate_and_compare(bench, write, capfd, tmp_path):
    path = write([*ID_LIKE_A_ROW, *OTHERS, *TWO_REFERENCES])
    code, out = bench(path, "--update-baseline", "--seeds", "1,2,3,4,5")
    assert code == 1 and "baseline written" in out
    code, out = bench(path, "--gate")
    assert code == 0 and "3 passed" in out and "4 test documents" in out
    assert main(["compare", "report", "report"]) == 0
    saved = json.loads((tmp_path / "report" / "results.json").read_text())
    assert saved["document_ids"] == ["row-2", "row-2-made", "a", "b"]
    capfd.readouterr()
    assert main(["score", saved["methods"]["parrot"]["runs"][0], "--store", "store"]) == 0
    assert capfd.readouterr().out.startswith("4 documents\nROUGE-1 F1 x 100 ")


def settled(path, tokenizer="rouge-score"):
    """Settings for the rows of a file on the smoke preset, without a compiler."""
    everything = [f"task.{split}=0" for split in tasks.SPLITS]
    changes = [*everything, f"scoring.tokenizer={tokenizer}", "engine.compiled=false", "machine.device=cpu"]
    return presets.load("smoke", task=str(path), changes=changes)


def planned(path, folder, tokenizer="rouge-score"):
    """What a plan for the rows of a file finds."""
    chosen = settled(path, tokenizer)
    return plan.probe(plan.sections(chosen), [], str(folder / "models"), print)


def test_references_that_hold_no_token_are_refused_before_any_run(write, tmp_path):
    with pytest.raises(UsageError, match=r"no reference holds a token .* type --set scoring.tokenizer=unicode"):
        planned(write(CHINESE), tmp_path)
    assert planned(write(CHINESE), tmp_path, "unicode")["notes"] == []


def test_letters_that_fall_away_are_said_when_a_bake_off_is_planned(write, tmp_path):
    rows = [{**row, "summary": f"Brød og smør {n}."} for n, row in enumerate([*OTHERS, TWO_REFERENCES[2]])]
    [note] = planned(write(rows), tmp_path)["notes"]
    assert note.startswith("20 % of the letters of the references fall away")
    result, _ = made(settled(write(rows)), tmp_path)
    assert result.notes == [note] and result.data["rows"] == 6


def made(chosen, folder):
    """A run of lead-1 in this process."""
    [entry] = [entry for entry in select(["lead-1"]) if entry.name == "lead-1"]
    sections = ("model", "task", "generation", "scoring", "measure", "machine")
    parts = {name: schema.plain(getattr(chosen, name)) for name in sections}
    spec = RunSpec(method="lead-1", base="lead-1", control=True, method_file=str(entry.file), hyperparameters={},
                   seed=1, training={}, hashes={}, versions={"compiler": ""}, **parts)  # fmt: skip
    return run(spec, folder, folder, print, Clock())


def test_a_run_scores_every_script_as_its_settings_say(write, tmp_path):
    rows = [{**row, "document": row["document"].split("。", 1)[1], "id": None} for row in CHINESE]
    rows = [{**row, "document": f"结果提高了。{n}"} for n, row in enumerate(rows)]
    result, predictions = made(settled(write(rows), "unicode"), tmp_path)
    assert result.scores["rouge1"] == [1.0] * 3 and "tokenizer:unicode" in result.signature
    assert [one.summary for one in predictions] == ["结果提高了。"] * 3
    other, _ = made(settled(write(rows)), tmp_path)
    assert other.fingerprint != result.fingerprint


# Predictions


def score(path, capfd, *arguments):
    assert main(["score", str(path), "--json", *arguments]) == 0
    return json.loads(capfd.readouterr().out)


@pytest.mark.parametrize(
    "lines, ids, best",
    [
        ([{"id": "a", "document": "d", "reference": r, "summary": "one two"} for r in ("one two", "x")], ["a"], [1.0]),
        ([{"id": "a", "references": ["x", "one two"], "summary": "one two"}], ["a"], [1.0]),
        ([{"id": f"p/{aspect}", "document": "d", "reference": reference, "summary": "one two"}
          for aspect, reference in (("challenge", "one two"), ("approach", "x"), ("outcome", "x"))], ["p"], [1 / 3]),
        ([{"id": "p", "aspect": aspect, "document": "d", "reference": reference, "summary": "one two"}
          for aspect, reference in (("A", "one two"), ("B", "x"))], ["p"], [0.5]),
        ([{"id": "2", "reference": "x", "summary": "x"}, {"reference": "x", "summary": "y"}], ["2", "2-made"], [1, 0]),
    ],
    ids=["a line a reference", "a list of references", "aspects in ids", "aspects", "a made id"],
)  # fmt: skip
def test_score_counts_documents_of_old_and_new_lines(tmp_path, capfd, lines, ids, best):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = score(path, capfd)
    assert found["document_ids"] == ids and found["scores"]["rouge1"] == pytest.approx(best)


def test_score_takes_the_mean_over_references_by_a_setting(tmp_path, capfd):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"references": ["x", "one"], "summary": "one"}) + "\n")
    found = score(path, capfd, "--set", "scoring.references=mean")
    assert found["scores"]["rouge1"] == [0.5] and "references:mean" in found["signature"]
    assert main(["score", str(path), "--set", "task.test=3"]) == 4 == main(["score", str(path), "--set", "scoring.x=1"])


def test_score_refuses_one_id_of_two_documents(tmp_path, capfd):
    lines = [{"id": "a", "document": document, "reference": "r", "summary": "s"} for document in "de"]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["score", str(path)]) == 4 and "the id 'a' stands for two documents" in capfd.readouterr().err


def test_score_says_what_no_tokenizer_knows(tmp_path, capfd):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"reference": "新的方法", "summary": "新的方法"}) + "\n")
    assert main(["score", str(path)]) == 4 and "scoring.tokenizer=unicode" in capfd.readouterr().err
    assert score(path, capfd, "--set", "scoring.tokenizer=unicode")["scores"]["rouge1"] == [1.0]
    path.write_text(json.dumps({"reference": "café", "summary": "caf"}) + "\n")
    assert main(["score", str(path)]) == 0 and "note: 25 % of the letters" in capfd.readouterr().out
    assert score(path, capfd, "--set", "scoring.tokenizer=unicode")["scores"]["rouge1"] == [0.0]
