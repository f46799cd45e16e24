"""Whatever a file or a command line holds: one line with the offender, exit code 4, in time, nothing touched."""

import contextlib
import json
import re
import signal
import subprocess
import sys

import pytest
import rubbish
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bakeoff.cli import main
from bakeoff.config import presets as configuration
from bakeoff.config.schema import TaskSettings
from bakeoff.core.errors import LONGEST, UsageError, one_line
from bakeoff.data import tasks
from bakeoff.methods import selection
from bakeoff.metrics.rouge import Prediction
from bakeoff.runs.records import RunResult
from bakeoff.session import start
from bakeoff.session.store import MANIFEST, Store, manifest, read_predictions
from bakeoff.shipped import ROOT

SECONDS = 30
"""Patience with one case; most take milliseconds, 10 MB lines up to two seconds."""
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


@contextlib.contextmanager
def in_time():
    """Raises TimeoutError in what hangs."""

    def ring(number, frame):
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def content(folder):
    """Every file below a folder, with its bytes and its time."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def is_a_line(text):
    assert text.strip() and len(text.splitlines()) == 1 and not UNPRINTABLE.search(text), text
    assert len(text) < 12 * LONGEST
    assert not text.lstrip().startswith("::") and "##[" not in text
    text.encode()


def refused(folder, capsys, call):
    """The line that `call`, a function or the module's arguments, is refused with; `folder` stays as it is."""
    before = content(folder)
    with in_time():
        if callable(call):
            with pytest.raises(UsageError) as caught:
                call()
            shown = str(caught.value)
        else:
            code = main(call)
            out, err = capsys.readouterr()
            assert code == 4 and out == ""
            assert err.startswith("error: ") and err.endswith("\n")
            shown = err[len("error: ") : -1]
    is_a_line(shown)
    assert content(folder) == before
    return shown


def inside(text):
    """How `text` shows inside of a line."""
    return one_line("." + text.strip())[1:]


def named(cases):
    """Cases as parameters with printable, short names."""
    return [pytest.param(value, id=ascii(name)[:60]) for name, value in cases.items()]


def test_there_are_more_than_three_hundred_malformed_inputs():
    files = [*rubbish.wrong_values(), *rubbish.PRESETS, *rubbish.PREDICTIONS, *rubbish.RUNS]
    typed = [*rubbish.wrong_changes(), *rubbish.CHANGES, *rubbish.SEEDS]
    assert len(files) + sum(map(len, rubbish.DATA.values())) > 300
    assert len(typed) > 300


# Settings


@pytest.mark.parametrize("text", named({**rubbish.PRESETS, **rubbish.wrong_values()}))
def test_a_malformed_preset_is_one_line_that_names_the_file(tmp_path, capsys, text):
    (tmp_path / "mine.toml").write_bytes(text)
    found = refused(tmp_path, capsys, ["parameters", "--preset", str(tmp_path / "mine.toml")])
    assert found.startswith(f"{tmp_path}/mine.toml") or text == b"[model]\nname = nan\n"


@pytest.mark.parametrize("change", named({**rubbish.wrong_changes(), **{c[:60]: c for c in rubbish.CHANGES}}))
def test_a_malformed_change_is_one_line_that_names_it(tmp_path, capsys, change):
    found = refused(tmp_path, capsys, lambda: check_changes(change))
    assert "--set" in found
    assert inside(change.partition("=")[0].strip())[:40] in found


def check_changes(change):
    chosen = configuration.load("smoke", changes=[change])
    entries = selection.select(["lora"])
    selection.refuse_unread(chosen, entries)
    selection.configure(entries[0], chosen)


@pytest.mark.parametrize("text", rubbish.SEEDS, ids=lambda text: ascii(text)[:40])
def test_malformed_seeds_are_one_line(tmp_path, capsys, text):
    assert "--seeds" in refused(tmp_path, capsys, lambda: configuration.load("smoke", seeds=text))


@pytest.mark.parametrize("text", named(rubbish.ODD))
@pytest.mark.parametrize("option, ending", [("--preset", ""), ("--preset", ".toml"), ("--method", ""),
                                            ("--method", ".py"), ("--model", ""), ("--model", ".gguf")])  # fmt: skip
def test_an_odd_name_is_one_line_that_names_it(tmp_path, capsys, monkeypatch, option, ending, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    # Without [model.architecture], which would say what a model is whatever its name.
    preset = [] if option == "--preset" else ["--preset", "quick"]
    found = refused(tmp_path, capsys, ["parameters", *preset, f"{option}={text}{ending}"])
    assert inside(text)[:20] in found


@pytest.mark.parametrize("text", named(rubbish.ODD))
@pytest.mark.parametrize("ending", ["", ".jsonl", ".csv", ".parquet"])
def test_an_odd_name_of_a_task_is_one_line_that_names_it(tmp_path, capsys, monkeypatch, ending, text):
    monkeypatch.chdir(tmp_path)
    found = refused(tmp_path, capsys, lambda: tasks.load(TaskSettings(name=text + ending)))
    assert found.startswith("--task") and inside(text)[:20] in found


# Data


@pytest.mark.parametrize(
    "ending, data",
    [pytest.param(ending, data, id=f"{ending} {name!a}"[:60])
     for ending, cases in rubbish.DATA.items() for name, data in cases.items()],
)  # fmt: skip
def test_a_malformed_data_file_is_one_line_that_names_it(tmp_path, capsys, ending, data):
    path = tmp_path / f"mine{ending}"
    path.write_bytes(data)
    found = refused(tmp_path, capsys, lambda: tasks.load(TaskSettings(name=str(path), train=1, validation=1, test=1)))
    assert str(path) in found and len(found) < 2000


# Predictions and stored runs


@pytest.mark.parametrize("data", named(rubbish.PREDICTIONS))
def test_malformed_predictions_are_one_line_that_names_the_file(tmp_path, capsys, data):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(data)
    assert str(path) in refused(tmp_path, capsys, ["score", str(path)])


@pytest.mark.parametrize("text", named(rubbish.ODD))
def test_an_odd_name_of_a_run_is_one_line(tmp_path, capsys, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    for name in (text, text + ".jsonl", text + "/predictions.jsonl"):
        assert "score" in refused(tmp_path, capsys, ["score", f"--store={tmp_path}", "--", name])


@pytest.fixture
def stored(tmp_path):
    """A store with one run, and that run's folder."""
    store = Store(tmp_path / "store")
    result = RunResult("ab" * 16, {"method": "lora"}, None, document_ids=["a"],
                       scores={"rouge1": [0.5], "rouge2": [0.5], "rougeL": [0.5]})  # fmt: skip
    with store.staging("ab" * 16) as staging:
        store.commit(staging, result, [Prediction("a", "d", "one two", "one two")])
    return store, store.folder("ab" * 16)


@pytest.mark.parametrize("name", ["result.json", "predictions.jsonl", MANIFEST])
def test_a_run_with_rubbish_for_a_file_is_neither_believed_nor_touched(stored, capsys, name):
    store, folder = stored
    for data in (*rubbish.PREDICTIONS.values(), *rubbish.PRESETS.values()):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(data)
        with in_time():
            assert store.find("ab" * 16) is None
        refused(store.root, capsys, ["score", "ab", f"--store={store.root}"])
        (folder / name).write_bytes(kept)
    assert store.find("ab" * 16) is not None


@pytest.mark.parametrize("data", named(rubbish.RUNS))
def test_a_malformed_result_is_not_believed_though_its_checksum_holds(stored, data):
    store, folder = stored
    (folder / "result.json").write_bytes(data)
    names = json.loads((folder / MANIFEST).read_bytes())["checksums"]
    (folder / MANIFEST).write_text(manifest(folder, names))
    before = content(store.root)
    with in_time():
        assert store.find("ab" * 16) is None
    assert content(store.root) == before


# What is read when the runs are made is checked before


TRIALS = [b"", b"[]", b"3", b"{}", b'{"trials": 3}', b'{"trials": [3]}', b"\xff", b"[" * 100_000,
          b'{"trials": [{}]}', b'{"trials": [{"method": []}]}']  # fmt: skip


@pytest.mark.parametrize("data", TRIALS, ids=lambda data: ascii(data[:20]))
def test_a_record_of_trials_that_is_none_is_one_line(tmp_path, capsys, data):
    (tmp_path / "mine.toml").write_text("seeds = [1]\n")
    (tmp_path / "mine.trials.json").write_bytes(data)
    assert "mine.trials.json" in refused(tmp_path, capsys, ["parameters", "--preset", str(tmp_path / "mine.toml")])


FLOORS = ["quick = 3", "[quick]\nlora = 'x'", "[quick.lora]\nrouge1 = '3'", "[quick]\nlora = []",
          "[quick.lora]\nrouge1 = true", "x", "[quick", "\x1b"]  # fmt: skip


@pytest.mark.parametrize("text", FLOORS)
def test_floors_that_are_none_are_one_line(tmp_path, capsys, text):
    path = tmp_path / "thresholds.toml"
    path.write_text(text)
    chosen = configuration.load("quick")
    assert refused(tmp_path, capsys, lambda: start.floors_in(path, chosen, "lora")).startswith(str(path))


@pytest.mark.parametrize("name", ["file", "file/deeper", "x" * 300, "a/" + "y" * 5000])
def test_a_report_that_can_not_be_kept_is_one_line(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert "--report-dir" in refused(tmp_path, capsys, lambda: start.keepable(name))
    start.keepable("a/new/folder")


# Whatever a fuzzer finds: an answer or one line, never anything else

mutation = st.tuples(st.floats(0, 1), st.integers(0, 40), st.one_of(st.binary(max_size=8), st.sampled_from(
    [text.encode(errors="surrogatepass") for text in rubbish.ODD.values()] + [b"[", b"{", b'"', b"'", b"\\", b"=", b"."]
)))  # fmt: skip


def mutated(data, changes):
    """`data` with pieces replaced: where (0..1), how many bytes, by what."""
    for share, size, piece in changes:
        place = int(share * len(data))
        data = data[:place] + piece + data[place + size :]
    return data


def answered_or_refused(call):
    with in_time():
        try:
            call()
        except UsageError as error:
            is_a_line(str(error))


def fuzzed(function):
    given_changes = given(changes=st.lists(mutation, min_size=1, max_size=4))
    fixture = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=fixture)(
        given_changes(function)
    )


@fuzzed
def test_any_preset_is_read_or_refused(tmp_path, changes):
    (tmp_path / "mine.toml").write_bytes(mutated((ROOT / "bench/presets/smoke.toml").read_bytes(), changes))
    answered_or_refused(lambda: configuration.load(str(tmp_path / "mine.toml")))


@pytest.mark.parametrize("ending", rubbish.DATA)
@fuzzed
def test_any_data_file_is_read_or_refused(tmp_path, ending, changes):
    path = tmp_path / f"mine{ending}"
    path.write_bytes(mutated(rubbish.SOUND[ending], changes))
    answered_or_refused(lambda: tasks.load(TaskSettings(name=str(path), train=1, validation=1, test=1)))


@fuzzed
def test_any_predictions_are_read_or_refused(tmp_path, changes):
    (tmp_path / "mine.jsonl").write_bytes(mutated(2 * (json.dumps(rubbish.PREDICTION).encode() + b"\n"), changes))
    answered_or_refused(lambda: read_predictions(tmp_path / "mine.jsonl"))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=st.one_of(st.text(), st.sampled_from(rubbish.CHANGES[:30]).flatmap(lambda c: st.text().map(c.__add__))))
def test_any_change_is_read_or_refused(text):
    answered_or_refused(lambda: check_changes(text))


# In processes of their own


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "bakeoff", "score", "\x1b[31m\n::error::x"],
        ["-m", "bakeoff", "parameters", "--set", "training.epochs=\u202e3"],
        ["-m", "bakeoff", "parameters", "--preset", "preset.toml"],
        ["-m", "pytest", str(ROOT / "bench"), "-p", "no:cacheprovider", "--preset", "preset.toml"],
        ["-m", "pytest", str(ROOT / "bench"), "-p", "no:cacheprovider", "--preset", "smoke", "--task", "data.jsonl"],
    ],
    ids=["score", "set", "preset", "pytest preset", "pytest data"],
)
def test_the_commands_say_one_line_and_end_with_four(tmp_path, furnished, command):
    furnished(tmp_path / "store")
    (tmp_path / "preset.toml").write_bytes(rubbish.PRESETS["a line end as a table"])
    (tmp_path / "data.jsonl").write_bytes(rubbish.JSONL["an ANSI escape as the only column"])
    extra = [f"--store={tmp_path}/store", f"--report-dir={tmp_path}/report"] if "pytest" in command else []
    ended = subprocess.run([sys.executable, *command, *extra], cwd=tmp_path, capture_output=True, timeout=120,
                           env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "LC_ALL": "C"})  # fmt: skip
    said = (ended.stdout + ended.stderr).decode("ascii").split("\n")
    [line] = [line for line in said if line.strip()]
    assert ended.returncode == 4
    is_a_line(line)
    assert line.lower().startswith("error: ")
