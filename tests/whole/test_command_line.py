"""The commands as a user types them: what is wrong is one line and exit code 4, wherever the command stands."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from bakeoff.cli import main
from bakeoff.metrics.rouge import SCORED, Prediction
from bakeoff.report import figures
from bakeoff.runs.records import RunResult
from bakeoff.session import worker
from bakeoff.session.store import Store
from bakeoff.shipped import ROOT

SPLITS = ("train", "train", "validation", "test")
GOOD = [{"document": f"Document {n}.", "summary": f"Summary {n}.", "split": split} for n, split in enumerate(SPLITS)]
SIZES = ["--set", "task.train=2", "--set", "task.validation=1", "--set", "task.test=1"]


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def bench(tmp_path, monkeypatch, capfd, furnished):
    """Types `pytest bench/ --preset smoke` in this process: `code, out, err = bench("--method", "x")`."""
    monkeypatch.chdir(tmp_path)
    worker.start_server(offline=True)
    furnished(tmp_path / "store")

    def run(*arguments):
        places = [
            "--store",
            str(tmp_path / "store"),
            "--report-dir",
            str(tmp_path / "report"),
            "-p",
            "no:cacheprovider",
        ]
        code = pytest.main([str(ROOT / "bench"), "--preset", "smoke", "--method", "lora", *places, *arguments])
        return int(code), *capfd.readouterr()

    return run


def the_error(code, out, err):
    """The one line of a refused command."""
    assert code == 4
    assert "Traceback" not in out + err
    lines = [line for line in (out + err).splitlines() if line.strip()]
    [found] = [line for line in lines if line.startswith(("ERROR: ", "error: "))]
    assert lines == [found]
    return found


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--method", "lorra"], "--method 'lorra' is not known; did you mean 'lora'?"),
        (["--method", "gone.py"], "--method gone.py: no such file"),
        (["--preset", "smok"], "--preset 'smok' is not known; did you mean 'smoke'?"),
        (["--preset", "gone.toml"], "--preset gone.toml: no such file"),
        (["--task", "aclsum/outcom"], "--task 'aclsum/outcom' is not known; did you mean 'aclsum/outcome'?"),
        (["--model", "smollm2-135n"], "--model 'smollm2-135n' is not known; did you mean 'smollm2-135m'?"),
        (["--model", "gone.gguf"], "--model gone.gguf: no such file"),
        (["--model", "someone/some-model"], "can't be loaded from the hub"),
        (["--task", "xsum"], "--task xsum: EdinburghNLP/xsum can't be loaded from the hub"),
        (["--seeds", "1,1"], "--seeds '1,1': a seed stands there twice"),
        (["--set", "training.epoch=1"], "did you mean 'epochs'?"),
        (["--set", "training.epochs=many"], "--set training.epochs = 'many': expected a whole number"),
        (["--set", "training.learning_rate=nan"], "expected a finite number"),
        (["--set", "task.test=0.5"], "expected a whole number"),
        (["--set", "task.test=101"], "task.test = 101, but the test split has 100 documents; type --set task.test=100"),
        (["--set", "training.batch_size=1"], "type --set training.micro_batch_size=1"),
        (["--set", "methods.full.epochs=1"], "no selected method reads it; add --method full"),
        (["--set", "methods.lora.rank=0"], "method 'lora' can't attach to random: ValueError"),
        (
            ["--set", "methods.lora.targets=['query']"],
            "method 'lora' can't attach to random: targets: 'query' is no linear layer of this model; its linear "
            "layers are q_proj, k_proj",
        ),
        (["--set", "engine.attention=flash_attention_2"], "no flash_attention_2 attention"),
        (["--set", "model.architecture.hidden_size=33"], "not a multiple of the number of attention heads"),
        (["--set", "model.architecture.num_layers=1"], "did you mean 'num_hidden_layers'?"),
        (["--set", "model.pad_token=<pad>"], "add it to model.special_tokens"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_a_wrong_command_is_one_line_and_exit_code_four(bench, arguments, expected):
    assert expected in the_error(*bench(*arguments))


@pytest.mark.parametrize(
    "content, expected",
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (jsonl(GOOD) + b"\xff\n", ":5: not UTF-8; save the file as UTF-8"),
        (jsonl([{"document": "d", "split": "train"}]), ":1: no column 'summary' (there: document, split)"),
        (jsonl([*GOOD, {**GOOD[0], "document": " "}]), ":5: 'document' is empty"),
        (jsonl([*GOOD, {**GOOD[0], "summary": ""}]), ":5: 'summary' is empty"),
        (jsonl([*GOOD, {**GOOD[0], "split": "test"}]), "one document stands in two splits: "),
        (jsonl(GOOD[1:]), "task.train = 2, but the train split has 1 documents; type --set task.train=1"),
    ],
    ids=["missing", "empty", "not UTF-8", "no column", "no document", "no summary", "two splits", "too few"],
)
def test_wrong_data_is_one_line_and_exit_code_four(bench, tmp_path, content, expected):
    path = tmp_path / "my päpers.jsonl"
    if content is not None:
        path.write_bytes(content)
    found = the_error(*bench("--task", path.name, *SIZES))
    assert path.name in found and expected in found


def test_a_refused_command_leaves_finished_runs_alone(bench, tmp_path):
    store = Store(tmp_path / "store")
    with store.staging("f" * 32) as staging:
        store.commit(staging, RunResult("f" * 32, {}, None), [])
    the_error(*bench("--method", "lorra"))
    the_error(*bench("--set", "task.test=101"))
    assert store.find("f" * 32) is not None


def test_a_store_that_can_not_be_is_one_line(bench, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file: runs can't be kept here: " in the_error(*bench("--store", str(tmp_path / "file")))


# In processes of their own


def typed(*command, **options):
    """A command in a process of its own, without a terminal."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **options.pop("env", {})}
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=env, timeout=300, **options)


@pytest.mark.parametrize("places", [[], ["bench/"]])
def test_help_shows_one_group_and_imports_nothing_heavy(places):
    found = typed(sys.executable, "-X", "importtime", "-m", "pytest", *places, "--help", cwd=ROOT)
    assert found.returncode == 0
    assert len(re.findall(r"^Bakeoff: ", found.stdout, re.MULTILINE)) == 1
    group = found.stdout.partition("Bakeoff: ")[2].partition("\n\n")[0]
    names = "method preset model task seeds set fresh report-dir store gate gate-strict update-baseline baseline"
    for option in names.split():
        assert f"  --{option}" in group
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in found.stderr.splitlines()}
    assert "bakeoff" in imported
    assert not imported & {
        "torch",
        "transformers",
        "peft",
        "datasets",
        "numpy",
        "pandas",
        "matplotlib",
        "jinja2",
        "vl_convert",
        "scipy",
        "sacrebleu",
        "rich",
        "tabulate",
        "pyarrow",
        "playwright",
        "mlflow",
        "tensorboard",
        "wandb",
        "trackio",
        "optuna",
        "ray",
        "submitit",
    }


def test_a_command_is_checked_without_torch():
    code = "import sys; from bakeoff.session import start; start.plan.select(['all']); print(*sys.modules)"
    imported = typed(sys.executable, "-c", code, cwd=ROOT).stdout.split()
    assert "bakeoff.session.session" in imported
    assert not {"torch", "peft", "scipy"} & set(imported)


def test_a_report_is_prepared_without_what_takes_a_second_to_import():
    code = "import sys; from bakeoff import report; report.prepare(); print(*sys.modules)"
    imported = typed(sys.executable, "-c", code, cwd=ROOT).stdout.split()
    assert "scipy.special" in imported and not {"torch", "scipy.stats", "nltk"} & set(imported)


@pytest.mark.slow
def test_usage_is_not_checked_where_bench_is_not_selected():
    command = (
        "tests/metrics/test_rouge.py",
        "--method",
        "nonsense",
        "--preset",
        "none",
        "--co",
        "-q",
        "-p",
        "no:cacheprovider",
    )
    found = typed(sys.executable, "-m", "pytest", *command, cwd=ROOT)
    assert found.returncode == 0 and "test_rouge.py::" in found.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of this checkout under a path with spaces and letters beyond ASCII."""
    away = shutil.ignore_patterns(".*", "reports", "__pycache__", "*.egg-info", "tests")
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("a") / "my chéckout 日本", ignore=away)


@pytest.mark.slow
def test_a_bake_off_runs_from_a_strange_checkout_in_another_folder_and_a_plain_locale(checkout, tmp_path):
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "NO_COLOR": "1"}
    sizes = ("task.train=4", "task.validation=2", "task.test=2", "training.epochs=1", "machine.threads=1")
    changes = [part for size in sizes for part in ("--set", size)]
    found = typed(sys.executable, "-m", "pytest", str(checkout / "bench"), "--preset", "smoke", "--method", "lora",
                  *changes, "-p", "no:cacheprovider", "--report-dir", "my repört", cwd=tmp_path, env=plain)  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert (tmp_path / "my repört" / "report.md").is_file()
    assert [path.name for path in checkout.glob(".bakeoff/runs/*/result.json")]
    assert "\x1b" not in found.stdout


@pytest.mark.slow
def test_a_bake_off_runs_from_a_checkout_that_can_not_be_written(checkout, tmp_path, furnished):
    furnished(tmp_path / "store")
    read_only = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'
    if subprocess.run(["unshare", "-rm", "sh", "-c", read_only, str(checkout)], capture_output=True).returncode:
        pytest.skip("no read-only mount to be had")
    sizes = ("task.train=2", "task.validation=2", "task.test=2", "training.epochs=1", "machine.threads=1",
             "training.batch_size=2")  # fmt: skip
    changes = [part for size in sizes for part in ("--set", size)]
    command = [sys.executable, "-m", "pytest", str(checkout / "bench"), "--preset", "smoke", "--method", "lora",
               *changes, "-k", "parameters", "--report-dir", "report", "--store", "store"]  # fmt: skip
    found = typed("unshare", "-rm", "sh", "-c", read_only + ' && exec "$@"', str(checkout), *command, cwd=tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    assert (tmp_path / "report" / "report.md").is_file()


def test_a_refusal_from_a_strange_checkout_is_one_line(checkout, tmp_path):
    found = typed(sys.executable, "-m", "pytest", str(checkout / "bench"), "--preset", "qick", cwd=tmp_path)
    assert "did you mean 'quick'?" in the_error(found.returncode, found.stdout, found.stderr)


def test_the_module_refuses_with_exit_code_four_and_one_line(tmp_path):
    found = typed(sys.executable, "-m", "bakeoff", "score", "gone.jsonl", cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert "gone.jsonl" in the_error(found.returncode, found.stdout, found.stderr)


def left_behind(mark):
    """Processes that inherited `mark`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (process / "environ").read_bytes() and (process / "cmdline").read_bytes():
                found.append(process.name)
    return found


def hear_ctrl_c():
    """In a child: a shell that runs the tests in the background has made them deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.alone
def test_ctrl_c_ends_a_bake_off_within_five_seconds_and_leaves_no_process(tmp_path):
    mark = f"BAKEOFF_TEST={uuid.uuid4()}"
    command = [sys.executable, "-m", "pytest", "bench", "--preset", "smoke", "--method", "lora", "--set",
               "training.epochs=10000", "--set", "machine.threads=1", "-p", "no:cacheprovider",
               "--store", str(tmp_path), "--report-dir", str(tmp_path / "report")]  # fmt: skip
    env = {**os.environ, **dict([mark.split("=")]), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hear_ctrl_c
    ) as process:
        too_long = threading.Timer(120, os.killpg, (process.pid, signal.SIGKILL))  # whatever goes wrong, the test ends
        too_long.start()
        assert any("epoch 2/10000" in line for line in process.stdout)
        os.killpg(process.pid, signal.SIGINT)
        asked = time.monotonic()
        process.stdout.read()
        took = time.monotonic() - asked
        too_long.cancel()
    assert process.returncode == pytest.ExitCode.INTERRUPTED and took < 5
    while left_behind(mark) and time.monotonic() < asked + 5:
        time.sleep(0.05)
    assert left_behind(mark) == []
    assert list((tmp_path / "runs").iterdir()) == []


# python -m bakeoff


WORDS = """
class Words:
    name, better, range, signature = "words", "", (0, float("inf")), "value:words"

    def score(self, predictions, references, documents):
        return [len(text.split()) for text in predictions]
"""


@pytest.fixture
def predictions(tmp_path):
    """A file with one perfect and one empty summary."""
    path = tmp_path / "mine.jsonl"
    path.write_bytes(jsonl([{"reference": "one two three", "summary": text} for text in ("one two three", "")]))
    return path


def test_score_prints_means_and_their_signature(predictions, capsys):
    assert main(["score", str(predictions)]) == 0
    out = capsys.readouterr().out
    first, *means, signature = out.splitlines()
    assert first == "2 documents" and signature.startswith("rouge-score:")
    cells = dict(re.split(r"  +", line) for line in means)
    assert [cells[f"{figures.SHOWN[metric]} F1 x 100"] for metric in SCORED] == ["50.00"] * 4
    assert cells["chrF++ x 100"] == "50.00" and cells["empty summaries, %"] == "50.00"
    assert cells["copied words, %"] == "\N{EN DASH}"  # the file holds no documents


def test_score_takes_a_metric_of_ones_own(predictions, tmp_path, capsys):
    (tmp_path / "words.py").write_text(WORDS)
    assert main(["score", str(predictions), "--metric", str(tmp_path / "words.py"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["words"] == [3, 0]


def test_score_gives_every_document_as_json(predictions, capsys):
    assert main(["score", str(predictions), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {metric: found["scores"][metric] for metric in SCORED} == {metric: [1.0, 0.0] for metric in SCORED}
    assert found["scores"]["chrf"] == [1.0, 0.0] and found["signatures"]["chrf"].startswith("nrefs:1|")
    assert found["document_ids"] == ["1", "2"]


@pytest.fixture
def stored(tmp_path):
    """A store with two finished runs."""
    store = Store(tmp_path / "store")
    for fingerprint in ("ab" * 16, "ac" * 16):
        with store.staging(fingerprint) as staging:
            store.commit(staging, RunResult(fingerprint, {}, None), [Prediction("1", "d", "one two", "one two")])
    return store


@pytest.mark.parametrize("name", ["ab" * 16, "ab"])
def test_score_finds_a_run_by_its_fingerprint_or_its_folder(stored, capsys, name):
    assert main(["score", name, "--store", str(stored.root)]) == 0
    by_name = capsys.readouterr().out
    assert main(["score", str(stored.folder("ab" * 16))]) == 0
    assert capsys.readouterr().out == by_name
    assert re.search(r"^ROUGE-1 F1 x 100 +100.00$", by_name, re.MULTILINE)


@pytest.mark.parametrize(
    "name, expected",
    [("a", "several runs"), ("ad", "no run in"), ("../runs", "no file"), ("*", "no file"), ("", "can't be read")],
)
def test_score_names_a_run_that_it_does_not_find(stored, capsys, tmp_path, monkeypatch, name, expected):
    monkeypatch.chdir(tmp_path)
    code = main(["score", name, "--store", str(stored.root)])
    assert expected in the_error(code, *capsys.readouterr())


def test_score_does_not_believe_a_changed_run(stored, capsys):
    file = stored.folder("ab" * 16) / "predictions.jsonl"
    file.write_bytes(file.read_bytes().replace(b"one two", b"one one"))
    for name in ("ab", str(file), str(file.parent)):
        code = main(["score", name, "--store", str(stored.root)])
        assert "is not what was stored; make the run again" in the_error(code, *capsys.readouterr())


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "required: command"),
        (["scor"], "invalid choice: 'scor'"),
        (["score"], "required: RUN|FILE"),
        (["score", "x", "--jsn"], "--jsn"),
        (["parameters", "--preset", "referense"], "did you mean 'reference'?"),
        (["parameters", "--preset", "reference", "--method", "lorra"], "did you mean 'lora'?"),
        (["parameters", "--preset", "reference", "--set", "methods.lora.rank=0"], "method 'lora' can't attach to"),
        (["parameters", "--preset", "reference", "--set", "methods.lora.rank=x"], "expected a whole number"),
        (["parameters", "--preset", "smoke", "--set", "model.architecture.model_type=lama"], "model_type = 'lama'"),
        (["parameters", "--preset", "smoke", "--set", "model.architecture.model_type=t5"], "not a setting of 't5'"),
        (["parameters", "--model", "gone.gguf"], "--model gone.gguf: "),
        (["parameters", "--model", "someone/some-model"], "check the name and the network"),
        (["parameters", "--preset", "smoke", "--method", "zero-shot"], "zero-shot"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_a_wrong_command_of_the_module_is_one_line_and_code_four(capsys, monkeypatch, arguments, expected):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code = main(arguments)
    assert expected in the_error(code, *capsys.readouterr())


@pytest.mark.parametrize("command", [["-m", "pytest", "bench/", "--preset", "smoke"], ["-m", "bakeoff", "history"]])
def test_a_python_without_the_dependencies_is_named_with_what_to_type(tmp_path, command):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['filelock'] = None\n")
    found = subprocess.run(
        [sys.executable, *command, *(["-p", "no:cacheprovider"] if "pytest" in command else [])], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    said = the_error(found.returncode, found.stdout, found.stderr)
    assert f"{sys.executable} has no filelock" in said and "pip install -r requirements.txt" in said
