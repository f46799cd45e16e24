"""Files of documents in every format: the same rows, or one line that names the file and the row."""

import csv
import gzip
import io
import json

import pyarrow
import pyarrow.parquet
import pytest

from bakeoff.config.schema import TaskSettings
from bakeoff.core.errors import UsageError
from bakeoff.data import readers, tasks
from bakeoff.data.sources import chat, remote

ROWS = [
    {"document": f"Text {n}, a comma,\nan end of line\tand a tab. \u00e9", "summary": f'"Gist" {n}.', "split": split}
    for n, split in enumerate(("train", "train", "validation", "test"))
]  # fmt: skip


def separated(delimiter):
    file = io.StringIO()
    writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return file.getvalue().encode()


def parquet():
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    return file.getvalue()


LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
FILES = {
    "a.jsonl": LINES,
    "a.ndjson": LINES,
    "a.JSONL": LINES,
    "a.json": json.dumps(ROWS).encode(),
    "indented.Json": json.dumps(ROWS, indent=4, ensure_ascii=False).encode(),
    "columns.json": json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}).encode(),
    "named.json": json.dumps({"data": ROWS}).encode(),
    "a.csv": separated(","),
    "a.tsv": separated("\t"),
    "a.TSV": separated("\t"),
    "a.parquet": parquet(),
}


def read(path, **changes):
    return tasks.load(TaskSettings(**{"name": str(path), "train": 0, "validation": 0, "test": 0, **changes}))


def complaint(path, **changes):
    """The one line that the task answers with."""
    with pytest.raises(UsageError) as caught:
        read(path, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", FILES)
def test_every_format_holds_the_same_documents(tmp_path, name, packed):
    path = tmp_path / (f"{name}.GZ" if packed else name)
    path.write_bytes(gzip.compress(FILES[name]) if packed else FILES[name])
    (tmp_path / "expected.jsonl").write_bytes(LINES)
    found, expected = read(path), read(tmp_path / "expected.jsonl")
    for split in ("train", "validation", "test"):
        texts = [[(e.document, e.summary) for e in getattr(task.examples, split)] for task in (found, expected)]
        assert texts[0] == texts[1]


def test_splits_and_ids_of_a_json_object_are_read(tmp_path):
    bare = [{key: row[key] for key in ("document", "summary")} for row in ROWS]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": bare[:2], "dev": bare[2:3], "test": bare[3:]}))
    assert [e.document for e in read(path).examples.test] == [ROWS[3]["document"]]
    path.write_text(json.dumps({f"p{n}": row for n, row in enumerate(ROWS)}))
    assert [e.id for e in read(path).examples.train] == ["p0", "p1"]


def test_an_array_of_any_piece_size_is_read_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS, indent=1, ensure_ascii=False), encoding="utf-8")
    for size in (1, 2, 7, 64):
        monkeypatch.setattr(readers, "PIECE", size)
        assert [row for _, row in readers.read_json(path)] == ROWS


def test_an_array_is_read_piece_by_piece(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([ROWS[0]] * 1000))
    monkeypatch.setattr(readers, "PIECE", 1000)
    taken, decode = [], readers.Buffer.value
    monkeypatch.setattr(readers.Buffer, "value", lambda self: (taken.append(len(self.text)), decode(self))[1])
    assert len(list(readers.read_json(path))) == 1000 and max(taken) < 3000


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("a.json", b"[]", "the file has no rows"),
        ("a.json", b" ", "not valid JSON"),
        ("a.json", b"[1]", ":1: expected an object in braces"),
        ("a.json", b'[{"document": "d", "summary": "s", "split": "test"}', ":1: not valid JSON"),
        ("a.json", b'[{"document": "d", "summary": "s", "split": "test"}, ', ":2: expected an object"),
        ("a.json", b'[{"document": "d", "summary": "s", "split": "test"}, {"docu', ":2: not valid JSON"),
        ("a.json", b'[{"document": "d", "summary": "s", "split": "test"},]', ":2: expected an object"),
        ("a.json", b'[{"a": 1, "a": 2}]', ":1: not valid JSON: the key 'a' stands there twice"),
        ("a.json", b'[{"document": "d", "summary": "s", "split": "test"}] x', ":1: not valid JSON: something follows"),
        ("a.json", b'[{"document": 3, "summary": "s", "split": "test"}]', ":1: 'document' is empty or not a text"),
        ("a.json", b"[" * 100_000, ":1: expected an object"),
        ("a.json", b'{"a":' * 100_000, "not valid JSON"),
        ("a.json", b'[{"document": "\xff"}]', "not UTF-8"),
        ("a.json", b'"text"', "expected an array of records"),
        ("a.json", b'{"a": 1}', "expected an array of records"),
        ("a.json", b'{"document": ["a"], "summary": ["b", "c"]}', "columns as lists of one length"),
        ("a.tsv", b"document\tsummary\tsplit\nd\ts\ttest\tmore\n", ":2: more cells than the header has columns"),
        ("a.jsonl.gz", b"no gzip", "not a valid gzip file"),
        ("a.json.gz", gzip.compress(FILES["a.json"], mtime=0)[:-30], "not a valid gzip file"),
        ("a.parquet.gz", gzip.compress(b"PAR1", mtime=0)[:-9], "not a valid gzip file"),
        ("a.parquet.gz", gzip.compress(b"PAR1 no", mtime=0), "not a valid Parquet file"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_malformed_file_is_named_by_row(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    found = complaint(tmp_path / name)
    assert str(tmp_path / name) in found and expected in found and len(found) < 500


@pytest.mark.parametrize("name", ["data/train", "data/train.txt", "data/train.gz", "data/train.xml.gz"])
def test_a_path_that_exists_is_never_taken_for_a_hub_id(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / name).write_text("x")
    assert "expected a .jsonl, .ndjson, .json, .csv, .tsv or .parquet file" in complaint(name)
    assert not remote(name) and remote("someone/some-set") and not remote("data/gone.json")


def test_a_folder_is_refused_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "set").mkdir(parents=True)
    (tmp_path / "odd.jsonl").mkdir()
    assert "this is a folder; expected" in complaint("my/set")
    assert "this is a folder" in complaint("odd.jsonl")


# Chats and lists


TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A long text."}]
REPLY = {"role": "assistant", "content": "Short."}


def test_the_last_turn_of_the_assistant_is_the_summary():
    assert chat([*TURNS, REPLY]) == ("Be brief.\n\nA long text.", "Short.")
    assert chat([*TURNS, REPLY, {"role": "user", "content": "Thanks."}]) == ("Be brief.\n\nA long text.", "Short.")
    again = [TURNS[1], REPLY, {"role": "user", "content": "Shorter."}, {"role": "assistant", "content": "S."}]
    assert chat(again) == ("user: A long text.\n\nassistant: Short.\n\nuser: Shorter.", "S.")
    parts = [{"type": "text", "text": "A long "}, {"type": "text", "text": "text."}]
    assert chat([{"role": "user", "content": parts}, REPLY]) == ("A long text.", "Short.")
    assert chat(json.dumps([TURNS[1], REPLY])) == ("A long text.", "Short.")


@pytest.mark.parametrize(
    "turns", [None, [], "no", [1], [{"role": "user"}], TURNS, [REPLY], [{"role": "user", "content": 3}, REPLY]]
)
def test_a_chat_without_a_summary_is_named_by_row(tmp_path, turns):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": turns, "split": "test"}) + "\n")
    found = complaint(path, messages_column="messages")
    assert found.startswith(f"{path}:1: 'messages'")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_chat_data_is_read_by_a_setting(tmp_path, kind):
    rows = [{"messages": [{"role": role, "content": row[column]} for role, column in
                          (("user", "document"), ("assistant", "summary"))], "split": row["split"]}
            for row in ROWS]  # fmt: skip
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "messages": json.dumps(row["messages"])} for row in rows)
    found = read(path, messages_column="messages")
    assert [(e.document, e.summary) for e in found.examples.test] == [(ROWS[3]["document"], ROWS[3]["summary"])]
    assert "no column 'turns'" in complaint(path, messages_column="turns")


def test_a_list_of_summaries_is_a_list_of_references(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{**row, "summary": ["one", "two"]} if row["split"] == "test" else row for row in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(path).examples.test[0].references == ("one", "two")
    path.write_text(json.dumps({**ROWS[0], "summary": []}))
    assert ":1: 'summary' is empty or not a text" in complaint(path)


def test_lines_of_a_text_are_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({**row, "summary": " one\ntwo\n"}) + "\n" for row in ROWS))
    assert read(path).examples.test[0].summary == "one\ntwo"
