"""The gate's whole life as sessions of pytest, and its verdicts under pytest-xdist."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from bakeoff.session import worker
from bakeoff.shipped import ROOT

PARROT = '''
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Parrot:
    """The last sentence of the document, which is often its outcome, every n-th word of it dropped."""

    name: ClassVar[str] = "parrot"
    drop: int = 0

    def summarise(self, examples):
        """Needs no model, so a session of it takes seconds."""
        texts = [example.sentences[-1].split() for example in examples.test]
        return [" ".join(w for n, w in enumerate(words, 1) if not self.drop or n % self.drop) for words in texts]
'''
ACCEPT = ["--update-baseline", "--seeds", "1,2,3,4,5"]


def places(folder):
    """Options that keep a session inside `folder`."""
    return ["--store", str(folder / "store"), "--report-dir", str(folder / "report"), "--baseline",
            str(folder / "accepted.json"), "-p", "no:cacheprovider"]  # fmt: skip


@pytest.fixture
def bench(tmp_path, monkeypatch, capfd, furnished):
    """Types `pytest bench/test_quality.py -k test_gate` with the parrot in this process: `code, out = bench()`."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "parrot.py").write_text(PARROT)
    worker.start_server(offline=True)
    furnished(tmp_path / "store")

    def run(*arguments):
        command = [str(ROOT / "bench" / "test_quality.py"), "-k", "test_gate", "--preset", "smoke", "--method",
                   "parrot.py", "--set", "task.test=100", *places(tmp_path), *arguments]  # fmt: skip
        code = int(pytest.main(command))
        out, err = capfd.readouterr()
        return code, out + err

    return run


@pytest.mark.slow
def test_the_whole_life_of_a_gate_that_every_third_dropped_word_turns_red(bench):
    code, out = bench("--gate")
    assert code == 1 and "there is no baseline accepted.json; to accept what is measured now, type pytest" in out
    code, out = bench(*ACCEPT)
    assert code == 1 and "baseline written: accepted.json: parrot (5 seeds). This session fails once" in out
    assert "1 failed" in out
    code, out = bench("--gate")
    assert code == 0 and "3 passed" in out and "gate against accepted.json" in out
    worse = ("--set", "methods.parrot.drop=3")
    code, out = bench("--gate", *worse)
    assert code == 1 and "parrot on ROUGE-1: regressed: " in out and "method.drop 0 -> 3" in out
    code, out = bench(*ACCEPT, *worse)
    assert code == 1 and "1 failed" in out
    code, out = bench("--gate", *worse)
    assert code == 0 and "3 passed" in out


def test_a_baseline_of_fewer_than_five_seeds_is_refused_with_the_command(bench, tmp_path):
    code, out = bench("--update-baseline", "--seeds", "1,2,3,4")
    assert code == 4 and not (tmp_path / "accepted.json").exists()
    assert "--update-baseline needs 5 seeds or more, got 4; type pytest bench/ --preset smoke" in out
    assert "--seeds 1,2,3,4,5 --update-baseline" in out


def test_to_judge_and_to_accept_at_once_is_refused(bench, tmp_path):
    code, out = bench("--gate", *ACCEPT)
    assert code == 4 and "type one of them" in out and not (tmp_path / "accepted.json").exists()


def test_a_baseline_that_is_torn_is_refused_before_the_first_run(bench, tmp_path):
    (tmp_path / "accepted.json").write_text('{"schema": 1,')
    code, out = bench("--gate")
    assert code == 4 and "accepted.json: not valid JSON" in out
    assert not list((tmp_path / "store" / "runs").iterdir())


def test_without_the_option_there_is_no_gate_and_no_skip(bench):
    code, out = bench()
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED and "skipped" not in out


def test_a_session_on_github_leaves_summary_and_annotations(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    code, out = bench("--gate")
    assert code == 1 and re.search(r"^::error title=parrot refused::there is no baseline", out, re.MULTILINE)
    comment = (tmp_path / "report" / "comment.md").read_text()
    assert "## Bakeoff's gate is red: 1 refused" in comment and (tmp_path / "summary.md").read_text() == comment + "\n"
    assert "## Gate" in (tmp_path / "report" / "report.md").read_text()


# pytest -n 2


def typed(folder, *arguments):
    """A session of the smoke preset's gate in a process of its own."""
    sizes = ("task.train=4", "task.validation=2", "task.test=20", "training.epochs=1", "machine.threads=1")
    changes = [part for size in sizes for part in ("--set", size)]
    command = [sys.executable, "-m", "pytest", str(ROOT / "bench" / "test_quality.py"), "-k", "test_gate", "--preset",
               "smoke", *changes, *places(folder), *arguments]  # fmt: skip
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "PYTEST_XDIST"))}
    found = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, timeout=300)
    return found.returncode, found.stdout + found.stderr


def verdicts(path):
    """The figures of each verdict in a JUnit file, by name of its test."""
    return {
        case.get("name"): {prop.get("name"): prop.get("value") for prop in case.iter("property")}
        for case in ElementTree.parse(path).iter("testcase")
    }


@pytest.fixture(scope="module")
def accepted(tmp_path_factory, furnished):
    """A folder in which two workers accepted what the parrot writes, and what they printed."""
    folder = tmp_path_factory.mktemp("accepted")
    furnished(folder / "store")
    (folder / "parrot.py").write_text(PARROT)
    return folder, typed(folder, "--method", "parrot.py", "-n", "2", *ACCEPT)


@pytest.mark.slow
def test_two_workers_give_the_verdicts_of_one_process_and_make_no_run_twice(accepted):
    folder, (code, out) = accepted
    assert code == 1 and "baseline written: accepted.json: parrot (5 seeds)" in out, out
    assert out.count("runs: 5 made, 0 reused") == 1, out
    worse = ("--method", "parrot.py", "--gate", "--set", "methods.parrot.drop=2")
    code, out = typed(folder, *worse, "-n", "2", "--fresh", "--junit-xml", "two.xml")
    assert code == 1 and out.count("runs: 1 made, 0 reused") == 1 and out.count("gate against accepted.json") == 1, out
    code, out = typed(folder, *worse, "--junit-xml", "one.xml")
    assert code == 1 and out.count("runs: 0 made, 1 reused") == 1, out
    found = verdicts(folder / "two.xml")
    assert found == verdicts(folder / "one.xml") and len(found) == 3
    assert found["test_gate[parrot-rouge1]"]["verdict"] == "regressed"
    assert {"difference", "p_holm", "measured", "baseline", "smallest_drop"} <= set(found["test_gate[parrot-rouge1]"])


@pytest.mark.slow
def test_a_death_is_not_repeated_by_the_other_worker_and_stands_in_the_report(accepted):
    folder, _ = accepted
    (folder / "doomed.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\n\n\n@dataclass(frozen=True)\nclass Doomed:\n"
        '    name: ClassVar[str] = "doomed"\n\n    def summarise(self, examples):\n'
        f"        open({str(folder / 'tries')!r}, 'a').write('x')\n        raise ValueError('no')\n"
    )
    code, out = typed(folder, "-n", "2", "--method", "parrot.py,doomed.py", "--gate")
    assert code == 1 and (folder / "tries").read_text() == "x", out
    assert "dead: doomed, seed 42, in setup: ValueError: no" in out, out
    assert "doomed, refused: the run is dead: ValueError: no (during setup)" in out
    assert "3 failed, 3 passed" in out


@pytest.mark.slow
def test_a_wrong_command_is_one_line_under_two_workers(tmp_path):
    code, out = typed(tmp_path, "-n", "2", "--method", "lora", "--set", "methods.lora.rank=0")
    assert code == 4 and out.count("can't attach to random") == 1
