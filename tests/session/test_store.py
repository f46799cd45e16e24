"""Finished runs on disk: written whole or not at all, never believed when a byte is wrong."""

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import pytest
from factories import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bakeoff.cli import main
from bakeoff.core.errors import UsageError
from bakeoff.metrics.rouge import Prediction
from bakeoff.runs.records import RunResult
from bakeoff.session import store as rooms
from bakeoff.session.store import Store, read_predictions, read_result
from bakeoff.shipped import ROOT

PREDICTIONS = [Prediction(f"doc-{n}", f"Document {n}.", "Référence\u2028.", "A summary.\n") for n in range(3)]


@pytest.fixture
def store(tmp_path):
    """An empty store whose path has spaces and letters beyond ASCII."""
    return Store(tmp_path / "my störe")


def result(fingerprint="f" * 32, **changes):
    return RunResult(
        fingerprint, {"seed": 0}, None, **{"document_ids": ["doc-0"], "scores": {"rouge1": [0.5]}, **changes}
    )


def keep(store, finished, predictions=PREDICTIONS):
    """Stores a run with an adapter, as a session does."""
    with store.staging(finished.fingerprint) as staging:
        (staging / "adapter").mkdir()
        (staging / "adapter" / "adapter.safetensors").write_bytes(bytes(range(256)))
        store.commit(staging, finished, predictions)
    return store.folder(finished.fingerprint)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_run_is_found_as_it_was_stored(store):
    finished = result(seconds={"training": 1.5}, epochs=[{"epoch": 0, "validation_loss": 2.25}])
    folder = keep(store, finished)
    assert store.find(finished.fingerprint) == finished
    assert store.predictions(finished.fingerprint) == PREDICTIONS
    assert names(folder) == ["adapter/adapter.safetensors", "manifest.json", "predictions.jsonl", "result.json"]


def test_runs_that_are_found_hold_what_they_have_in_common_once_and_numbers_in_eight_bytes(store):
    for seed in range(20):
        one = run("lora", seed=seed, documents=200)
        keep(store, replace(one, evidence={"layout": {"packed": ""}, "trained": f"{seed:064x}"}))
    store.find("lora-0")
    tracemalloc.start()
    found = [store.find(f"lora-{seed}") for seed in range(20)]
    held = tracemalloc.get_traced_memory()[0] / len(found)
    tracemalloc.stop()
    assert all(one.document_ids is found[0].document_ids for one in found)
    assert all(one.spec["training"] is found[0].spec["training"] for one in found)
    numbers = 8 * 3 * (200 + 30)  # three metrics over documents, and three figures over steps
    assert numbers < held < 3 * numbers, held  # as lists and dictionaries they take nine times as much
    assert found[7] == store.find("lora-7") and found[7].scores == run("lora", seed=7, documents=200).scores


def test_a_run_that_was_never_stored_is_not_found(store):
    assert store.find("0" * 32) is None


def test_a_run_that_fails_leaves_nothing(store):
    with pytest.raises(RuntimeError), store.staging("f" * 32) as staging:
        (staging / "result.json").write_text("{}")
        raise RuntimeError
    assert list((store.root / "runs").iterdir()) == []


@pytest.mark.parametrize("broken", ["write_json", "manifest", "flush"])
def test_a_run_that_can_not_be_written_leaves_the_older_one(store, monkeypatch, broken):
    older, newer = result(finished="yesterday"), result(finished="today")
    keep(store, older)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rooms, broken, full)
    with pytest.raises(OSError, match="No space left"):
        keep(store, newer)
    monkeypatch.undo()
    assert store.find(older.fingerprint) == older
    assert len(list((store.root / "runs").iterdir())) == 1


def test_a_figure_that_is_not_a_number_is_not_stored(store):
    with pytest.raises(ValueError, match="not JSON compliant"):
        keep(store, result(seconds={"training": float("nan")}))
    assert store.find("f" * 32) is None


def test_an_older_run_gives_way(store):
    keep(store, result(finished="yesterday"))
    newer = result(finished="today")
    keep(store, newer, PREDICTIONS[:1])
    assert store.find(newer.fingerprint) == newer
    assert store.predictions(newer.fingerprint) == PREDICTIONS[:1]
    assert len(list((store.root / "runs").iterdir())) == 1


@pytest.mark.parametrize("name", ["adapter/adapter.safetensors", "manifest.json", "predictions.jsonl", "result.json"])
def test_every_flipped_bit_is_noticed(store, name):
    file = keep(store, result()) / name
    whole = file.read_bytes()
    for place in range(0, len(whole), 1 + len(whole) // 200):
        flipped = whole[place] ^ 1 << place % 8
        file.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        assert store.find("f" * 32) is None, place
    file.write_bytes(whole)
    assert store.find("f" * 32) == result()


@pytest.mark.parametrize("name", ["adapter/adapter.safetensors", "manifest.json", "predictions.jsonl", "result.json"])
def test_a_torn_or_missing_file_is_noticed(store, name):
    file = keep(store, result()) / name
    whole = file.read_bytes()
    for torn in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\n"):
        file.write_bytes(torn)
        assert store.find("f" * 32) is None
    file.unlink()
    assert store.find("f" * 32) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", '{"schema": 2, "checksums": {}}',
                                  '{"schema": 2, "checksums": []}', '{"schema": 2, "checksums": {"result.json": 3}}',
                                  "[" * 100_000, "\x00"],
                         ids=lambda text: text[:20])  # fmt: skip
def test_a_manifest_that_is_none_is_noticed(store, text):
    (keep(store, result()) / "manifest.json").write_text(text)
    assert store.find("f" * 32) is None


def test_a_store_of_another_schema_is_not_believed(store, monkeypatch):
    monkeypatch.setattr(rooms, "SCHEMA", 0)
    keep(store, result())
    assert store.find("f" * 32) is not None
    monkeypatch.undo()
    assert store.find("f" * 32) is None


def test_another_schema_is_refused_by_name(store, monkeypatch, capsys):
    monkeypatch.setattr(rooms, "SCHEMA", 0)
    keep(store, result())
    monkeypatch.undo()
    assert main(["score", "f" * 32, "--store", str(store.root)]) == 4
    assert "was stored with schema '0', this Bakeoff reads schema 2" in capsys.readouterr().err


def test_a_lock_is_waited_for_and_taken_over_when_its_owner_dies(store):
    program = f"""import pathlib, sys, time
from bakeoff.session.store import Store
with Store(pathlib.Path({str(store.root)!r})).computing():
    print("held", flush=True)
    time.sleep(600)"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "held\n"
        waited = []

        def waiting():
            waited.append(True)
            owner.kill()

        with store.computing(waiting):
            pass
    assert waited == [True]


def test_a_committed_run_needs_what_was_kept_no_more(store):
    kept = store.partial("f" * 32)
    kept.mkdir()
    (kept / "checkpoint-00000001.json").write_text("{}")
    keep(store, result())
    assert not kept.exists()


def test_what_a_killed_process_left_is_swept_and_finished_runs_stay(store):
    keep(store, result())
    (store.root / "runs" / ".0000-abc" / "adapter").mkdir(parents=True)
    (store.partial("0000").with_name(".0000-1") / "more").mkdir(parents=True)
    store.partial("1111").mkdir()
    with store.computing():
        assert [path.name for path in (store.root / "runs").iterdir()] == ["f" * 32]
        assert [path.name for path in (store.root / "partial").iterdir()] == ["1111"]
    assert store.find("f" * 32) == result()


def test_a_store_where_none_can_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/store: runs can't be kept here: Not a directory; type --store FOLDER"):
        Store(tmp_path / "file" / "store")


def test_a_store_can_be_moved(store, tmp_path):
    keep(store, result())
    shutil.move(store.root, tmp_path / "elsewhere")
    assert Store(tmp_path / "elsewhere").find("f" * 32) == result()


text = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.builds(Prediction, text, text, text, text), min_size=1, max_size=5))
def test_predictions_of_any_text_come_back(store, rows):
    keep(store, result(), rows)
    assert store.predictions("f" * 32) == rows


@pytest.mark.parametrize(
    "odd", ["\u2028", "\u2029", "\x85", "\r", "\r\n", "\x0b", "\x1c", "\x00", "\ufeff", "\u202e", "𝔘"]
)
def test_a_line_end_of_another_alphabet_ends_no_prediction(store, odd):
    rows = [Prediction("a", f"{odd}x{odd}", odd, f"x{odd}y"), Prediction("b", "d", "r", "s")]
    keep(store, result(), rows)
    assert store.predictions("f" * 32) == rows


@pytest.mark.parametrize(
    "content, place",
    [
        (b"", ": the file has no predictions"),
        (b"\n\n", ": the file has no predictions"),
        (b'{"reference": "r", "summary": "s"}\n{"reference": "r"}\n', ":2: expected an object"),
        (b'{"reference": "r", "summary": 3}', ":1: expected an object"),
        (b'{"reference": null, "summary": "s"}', ":1: expected an object"),
        (b'\n["reference", "summary"]', ":2: expected an object"),
        (b'"text"', ":1: expected an object"),
        (b'{"reference": "r"', ":1: expected an object"),
        (b"[" * 100_000, ":1: expected an object"),
        (b'{"reference": "r", "summary": "s"}\n\xff', ":2: not UTF-8"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_malformed_predictions_are_named_by_line(tmp_path, content, place):
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path}{place}") and "\n" not in str(caught.value)


def test_predictions_need_no_more_than_reference_and_summary(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"reference": "r", "summary": ""}\r\n')
    assert read_predictions(path) == [Prediction("1", "", "r", "")]


@pytest.mark.parametrize("place", ["folder", "gone.jsonl"])
def test_predictions_that_are_not_there_are_named(tmp_path, place):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=f"{place}: can't be read: "):
        read_predictions(tmp_path / place)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"fingerprint": "f"}', json.dumps({"unknown": 1}), "[" * 100_000],
                         ids=lambda text: text[:20])  # fmt: skip
def test_a_result_that_is_none_is_named(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"result.json: not a stored run") as caught:
        read_result(path)
    assert "\n" not in str(caught.value)


def test_everything_has_reached_the_disk_before_the_run_is_there(store, monkeypatch):
    flushed, real = [], os.rename

    def rename(old, new):
        assert {path.name for path in flushed} >= {
            "result.json",
            "predictions.jsonl",
            "manifest.json",
            "adapter.safetensors",
        }
        real(old, new)

    flush = rooms.flush
    monkeypatch.setattr(rooms, "flush", lambda path: (flushed.append(path), flush(path)))
    monkeypatch.setattr(os, "rename", rename)
    folder = keep(store, result())
    assert flushed[-1] == folder.parent
