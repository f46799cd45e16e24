"""Documents from a package, a file and a hub: counted, split once, and refused by file and row where they are wrong."""

import csv
import importlib.util
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from bakeoff.config.presets import load
from bakeoff.config.schema import TaskSettings
from bakeoff.core.errors import UsageError
from bakeoff.data import sources, tasks

SIZES = {"train": 3, "validation": 2, "test": 2}
ROWS = [
    {"document": f"Document {number}. Second sentence.", "summary": f"Summary {number}.", "split": split}
    for number, split in enumerate(split for split, size in SIZES.items() for _ in range(size))
]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_csv(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS = {"jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet}


@pytest.fixture(params=sorted(WRITERS))
def write(request, tmp_path):
    """A function that writes rows in each of the three formats and gives the file."""

    def file(rows):
        path = tmp_path / f"my papers é.{request.param}"
        WRITERS[request.param](path, rows)
        return path

    return file


def read(path, **changes):
    return tasks.load(TaskSettings(**{"name": str(path), **SIZES, **changes}))


def complaint(path, **changes):
    """The one line that the task answers with."""
    with pytest.raises(UsageError) as caught:
        read(path, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def documents(task):
    return {split: [e.document for e in getattr(task.examples, split)] for split in SIZES}


# ACLSum


@pytest.mark.parametrize("aspect", ["challenge", "approach", "outcome"])
def test_an_aspect_of_aclsum_has_a_hundred_fifty_and_a_hundred_papers(aspect):
    task = tasks.load(TaskSettings(name=f"aclsum/{aspect}", train=0, validation=0, test=0))
    assert {split: len(found) for split, found in documents(task).items()} == {
        "train": 100,
        "validation": 50,
        "test": 100,
    }
    assert {example.aspect for example in task.examples.test} == {aspect.capitalize()}
    assert len({document for split in documents(task).values() for document in split}) == 250


def test_all_aspects_stand_together_and_are_named_in_the_prompt():
    task = tasks.load(TaskSettings(name="aclsum/all", train=5, validation=2, test=2))
    assert "{aspect}" in task.prompt and "{aspect}" in task.instruction
    assert [example.aspect for example in task.examples.train] == ["Challenge", "Approach", "Outcome"] * 5
    assert len({(example.id, example.aspect) for example in task.examples.train}) == 15
    assert len({example.id for example in task.examples.train}) == 5
    assert len({example.document for example in task.examples.train}) == 5


def test_the_aspects_have_different_summaries_of_the_same_papers():
    outcome, challenge = (tasks.load(TaskSettings(name=f"aclsum/{aspect}")) for aspect in ("outcome", "challenge"))
    assert documents(outcome) == documents(challenge)
    assert outcome.sha256 != challenge.sha256


def test_papers_that_are_not_installed_are_named_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert complaint("aclsum/outcome").endswith("type python -m bakeoff assets --install")


def test_papers_that_are_not_the_measured_ones_are_refused(monkeypatch):
    monkeypatch.setitem(sources.ACLSUM_SHA256, "val", "0" * 64)
    found = complaint("aclsum/outcome")
    assert "val.jsonl: its sha256 is 354ca637" in found and "type python -m bakeoff assets --install --force" in found


@pytest.mark.parametrize(
    "name, expected",
    [
        ("aclsum/outcom", "did you mean 'aclsum/outcome'?"),
        ("aclsum", "did you mean"),
        ("xsun", "did you mean 'xsum'?"),
        ("/no/such/folder", "is not known"),
        ("papers.txt", "or give a .jsonl, .ndjson, .json, .csv, .tsv or .parquet file, or one of these as .gz"),
    ],
)
def test_an_unknown_task_offers_the_nearest(name, expected):
    assert expected in complaint(name)


# One's own file


def test_a_file_is_read_as_it_is(write):
    task = read(write(ROWS))
    assert documents(task) == {split: [r["document"] for r in ROWS if r["split"] == split] for split in SIZES}
    assert task.examples.test[0].summary == "Summary 5."
    assert task.examples.test[0].sentences == ("Document 5.", "Second sentence.")


def test_the_three_formats_say_the_same(tmp_path):
    found = []
    for ending, write in WRITERS.items():
        write(tmp_path / f"papers.{ending}", [{"id": f"p{number}", **row} for number, row in enumerate(ROWS)])
        found.append(read(tmp_path / f"papers.{ending}").sha256)
    assert len(set(found)) == 1


def test_columns_can_be_named(write):
    path = write([{"text": row["document"], "gist": row["summary"], "part": row["split"]} for row in ROWS])
    named = {"document_column": "text", "summary_column": "gist", "split_column": "part"}
    assert documents(read(path, **named)) == documents(read(write(ROWS)))
    assert f"{path}:" in complaint(write([{"text": "a", "summary": "b", "split": "train"}]))


@pytest.mark.parametrize("missing", ["document", "summary", "split"])
def test_a_missing_column_is_named_with_what_is_there(write, missing):
    path = write([{key: value for key, value in row.items() if key != missing} for row in ROWS])
    found = complaint(path)
    assert found.startswith(f"{path}:") and f"no column '{missing}'" in found
    assert f"--set task.{missing}_column=NAME" in found


@pytest.mark.parametrize("column", ["document", "summary"])
@pytest.mark.parametrize("value", ["", "  \t"])
def test_an_empty_text_is_named_by_row(write, column, value):
    path = write([*ROWS[:3], {**ROWS[3], column: value}, *ROWS[4:]])
    row = 5 if path.suffix == ".csv" else 4
    assert complaint(path).startswith(f"{path}:{row}: '{column}' is empty")


def test_a_document_in_two_splits_is_named_by_both_rows(write):
    path = write([*ROWS, {**ROWS[0], "split": "test"}])
    first, again = (2, 9) if path.suffix == ".csv" else (1, 8)
    found = complaint(path)
    assert "one document stands in two splits" in found
    assert f"{path}:{again} (test) and {path}:{first} (train)" in found


def test_documents_in_two_splits_are_counted_and_the_first_five_named(tmp_path):
    path = tmp_path / "papers.jsonl"
    write_jsonl(
        path, [{**ROWS[0], "document": f"d{n % 600}", "split": ("train", "test")[n // 600]} for n in range(1200)]
    )
    found = complaint(path)
    assert "600 documents stand in two splits; the first 5: " in found and found.count("(test) and") == 5
    assert f"{path}:601 (test) and {path}:1 (train)" in found and f"{path}:605 (test) and {path}:5 (train)" in found


def test_a_document_with_two_summaries_counts_once_and_stays_together(write):
    path = write([*ROWS, {**ROWS[0], "summary": "Another."}])
    assert len(read(path).examples.train) == 3
    [one] = [e for e in read(path).examples.train if e.document == ROWS[0]["document"]]
    assert one.references == ("Summary 0.", "Another.")
    assert len(list(tasks.each_reference(read(path).examples.train))) == 4
    assert len(read(path, train=1, split_seed=1).examples.train) == 1


@pytest.mark.parametrize("word", ["trian", "", "None"])
def test_an_unknown_split_is_named_by_row(write, word):
    path = write([*ROWS, {"document": "d", "summary": "s", "split": word}])
    assert complaint(path).endswith(f"split {word!r}: expected train, validation or test")


@pytest.mark.parametrize("words", [("Train", "valid", "TEST"), ("training", "dev", "test"), ("train", "val", "test")])
def test_splits_have_their_usual_other_names(write, words):
    other = dict(zip(SIZES, words, strict=True))
    assert documents(read(write([{**row, "split": other[row["split"]]} for row in ROWS]))) == documents(
        read(write(ROWS))
    )


@pytest.mark.parametrize("split", list(SIZES))
def test_more_documents_than_there_are_is_an_error_that_says_how_many(write, split):
    path = write(ROWS)
    expected = (
        f"task.{split} = 9, but the {split} split has {SIZES[split]} documents; type --set task.{split}={SIZES[split]}"
    )
    assert expected in complaint(path, **{split: 9})


@pytest.mark.parametrize("split", list(SIZES))
def test_an_empty_split_is_an_error(write, split):
    path = write([row for row in ROWS if row["split"] != split])
    assert f"the {split} split is empty" in complaint(path, train=0, validation=0, test=0)


def test_zero_asks_for_all_and_one_for_one(write):
    path = write(ROWS)
    assert len(read(path, train=0).examples.train) == 3
    assert len(read(path, train=1).examples.train) == 1


def test_an_id_column_names_the_documents_even_with_zero(write):
    path = write([{"id": number, **row} for number, row in enumerate(ROWS)])
    assert [example.id for example in read(path).examples.train] == ["0", "1", "2"]


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("a.jsonl", b"", "the file is empty"),
        ("a.csv", b"", "the file is empty"),
        ("a.parquet", b"", "the file is empty"),
        ("a.jsonl", b"\n \n", "the file has no rows"),
        ("a.csv", b"document,summary,split\r\n", "the file has no rows"),
        ("a.jsonl", b'{"document": "d", "summary": "s", "split": "train"}\n{"document": "\xff"}\n', ":2: not UTF-8"),
        ("a.csv", b"document,summary,split\nd,s,train\n\xe9,s,train\n", ":3: not UTF-8"),
        ("a.jsonl", '{"document": "d"}'.encode("utf-16"), ":1: not UTF-8"),
        ("a.jsonl", b'{"document": "d"', ":1: not valid JSON"),
        ("a.jsonl", b"\n[1, 2]\n", ":2: expected an object"),
        ("a.jsonl", b"null\n", ":1: expected an object"),
        ("a.jsonl", b"[" * 100_000, ":1: not valid JSON"),
        ("a.jsonl", b'{"document": ' + b"9" * 5000 + b"}", ":1: not valid JSON"),
        ("a.jsonl", b'{"document": "d", "document": "e"}', ":1: not valid JSON: the key 'document' stands there twice"),
        ("a.jsonl", b'{"document": 3, "summary": "s", "split": "train"}', ":1: 'document' is empty or not a text"),
        ("a.jsonl", b'{"document": null, "summary": "s", "split": "train"}', ":1: 'document' is empty or not a text"),
        (
            "a.jsonl",
            rb'{"document": "\ud800", "summary": "s", "split": "train"}',
            ":1: 'document' holds half a character",
        ),
        ("a.csv", b"document,summary,split\nd,s,train,more\n", ":2: more cells than the header has columns"),
        ("a.csv", b"document,summary,split\nd,s\n", ":2: split None: expected train"),
        ("a.csv", b"document,summary,split\nd\n", ":2: 'summary' is empty"),
        ("a.csv", b"document,document,split\nd,s,train\n", ":1: the column 'document' stands there twice"),
        ("a.csv", b"document;summary;split\nd;s;train\n", ":2: no column 'document' (there: document;summary;split)"),
        ("a.csv", b'document,summary,split\n"d,s,train\n', ":2: not valid CSV"),
        ("a.parquet", b"PAR1 but no more", "not a valid Parquet file"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_malformed_file_is_named_by_row(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    found = complaint(path)
    assert f"{path}" in found and expected in found and len(found) < 400


def test_a_torn_parquet_file_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    assert complaint(path).startswith(f"{path}: not a valid Parquet file")


@pytest.mark.parametrize("ending", sorted(WRITERS))
def test_a_missing_file_is_named(tmp_path, ending):
    assert complaint(tmp_path / f"gone.{ending}") == f"--task {tmp_path}/gone.{ending}: no such file"


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    WRITERS[ending](path, ROWS)
    expected = documents(read(path))
    lines = path.read_text(encoding="utf-8").replace("\r\n", "\n").replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert documents(read(path)) == expected


def test_a_separator_that_only_unicode_knows_ends_no_line(write):
    odd = "one\u2028two\x85three\x0bfour"
    path = write([{**ROWS[0], "document": odd}, *ROWS[1:]])
    assert read(path).examples.train[0].document == odd


def test_a_cell_of_several_lines_is_one_document(tmp_path):
    path = tmp_path / "a.csv"
    write_csv(path, [{**ROWS[0], "document": 'First "quoted", line.\nSecond line.'}, *ROWS[1:]])
    assert read(path).examples.train[0].sentences == ('First "quoted", line.', "Second line.")


# Samples


def test_the_split_seed_draws_the_sample():
    first, same, other = (tasks.load(TaskSettings(train=20, split_seed=seed)) for seed in (1, 1, 2))
    assert first.sha256 == same.sha256 and documents(first) == documents(same)
    assert documents(first)["train"] != documents(other)["train"]
    assert documents(first)["test"] == documents(other)["test"]  # all hundred of them


def test_a_sample_keeps_the_order_of_the_source():
    everything = documents(tasks.load(TaskSettings()))["train"]
    sample = documents(tasks.load(TaskSettings(train=20)))["train"]
    assert sample == [document for document in everything if document in sample]


def test_the_size_of_one_split_changes_no_other():
    small, large = (documents(tasks.load(TaskSettings(train=train, test=10))) for train in (5, 50))
    assert small["test"] == large["test"] and small["validation"] == large["validation"]


def test_samples_do_not_depend_on_a_runs_seed():
    task = [load("smoke", seeds=seeds).task for seeds in ("1", "2")]
    assert task[0] == task[1]
    assert tasks.load(task[0]).sha256 == tasks.load(task[1]).sha256


def test_without_a_split_column_the_splits_are_drawn(write):
    path = write([{"document": row["document"], "summary": row["summary"]} for row in ROWS])
    first, same, other = (documents(read(path, split_column="", split_seed=seed)) for seed in (0, 0, 5))
    assert first == same != other
    drawn = [document for split in first.values() for document in split]
    assert sorted(drawn) == sorted(row["document"] for row in ROWS)


def test_drawn_splits_need_enough_documents(write):
    path = write([{"document": row["document"], "summary": row["summary"]} for row in ROWS])
    found = complaint(path, split_column="", train=4)
    assert "7 documents are fewer than task.train + task.validation + task.test = 4 + 2 + 2" in found
    assert "must be at least 1" in complaint(path, split_column="", test=0)
    assert len(read(path, split_column="", train=0).examples.train) == 3


# A hub


def hub(monkeypatch, splits, columns=("article", "highlights", "id")):
    """Puts a data set on a hub that needs no network."""
    made = {
        split: datasets.Dataset.from_list([dict(zip(columns, row, strict=True)) for row in rows])
        for split, rows in splits.items()
    }
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *arguments: asked.append(arguments) or datasets.DatasetDict(made)
    )
    return asked


def test_a_hub_data_set_is_read_by_its_short_name(monkeypatch):
    splits = {split: [(f"{split} {n}.", "Gist.", str(n)) for n in range(size)] for split, size in SIZES.items()}
    asked = hub(monkeypatch, splits)
    assert documents(read("cnn_dailymail")) == {split: [row[0] for row in rows] for split, rows in splits.items()}
    assert asked == [("abisee/cnn_dailymail", "3.0.0")]


def test_rows_that_a_hub_repeats_or_leaves_empty_are_dropped_and_counted(monkeypatch):
    splits = {
        "train": [("same", "s", "0"), ("a", "s", "1"), ("a", "s", "5")],
        "validation": [("b", "s", "2"), (" ", "s", "6")],
        "test": [("same", "s", "3"), ("c", "s", "4"), ("c", "t", "4")],
        "unsupervised": [("d", "s", "7")],
    }
    hub(monkeypatch, splits)
    task = read("cnn_dailymail", train=2, validation=1, test=1)
    assert documents(task) == {"train": ["same", "a"], "validation": ["b"], "test": ["c"]}
    assert task.examples.test[0].references == ("s", "t")
    assert task.counts == {"rows": 9, "repeated": 1, "empty": 1, "two_splits": 1, "other_splits": 1, "ids_made": 0,
                           "train": 2, "validation": 1, "test": 1}  # fmt: skip


def test_an_id_that_a_hub_gives_twice_is_made_anew_and_counted(monkeypatch):
    splits = {split: [(f"{split} {n}.", "Gist.", str(n)) for n in range(size)] for split, size in SIZES.items()}
    hub(monkeypatch, splits)
    task = read("cnn_dailymail")
    assert [e.id for e in task.examples.test] == ["test-0", "test-1"] and task.counts["ids_made"] == 4


def test_a_hub_data_set_without_the_column_names_those_it_has(monkeypatch):
    hub(monkeypatch, {"train": [("d", "s", "0")]}, columns=("text", "gist", "id"))
    found = complaint("someone/some-set", document_column="text", summary_column="summary")
    assert found == "--task someone/some-set: no column 'summary' (there: text, gist, id)"
    assert "--set task.document_column=NAME" in complaint("someone/some-set")


def test_a_hub_text_that_is_none_is_named_by_row(monkeypatch):
    hub(monkeypatch, {"train": [("d", "s", "0"), (None, "s", "1")]})
    assert "train row 1" in complaint("cnn_dailymail")


def test_a_hub_without_a_network_is_one_line(monkeypatch):
    def unreachable(*arguments):
        raise ConnectionError("Couldn't reach the Hub\nat all")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    expected = "can't be loaded from the hub (ConnectionError); check the name and the network, or give a file"
    assert complaint("xsum") == f"--task xsum: EdinburghNLP/xsum {expected}"
