"""Commands in any order, and beside other load: what one leaves behind changes nothing that another finds."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from bakeoff.session import worker
from bakeoff.shipped import ROOT
from lab.speed import contention

SMALL = [part for change in ("task.train=4", "task.validation=2", "task.test=2", "training.epochs=1")
         for part in ("--set", change)]  # fmt: skip


def typed(folder, *command):
    """What a command prints in `folder`, with this checkout's interpreter. Fails where its exit code is not 0."""
    found = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    return found.stdout


def git(folder, *words):
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory, furnished):
    """This checkout as a fresh clone of its last commit with today's changes."""
    folder = tmp_path_factory.mktemp("clone") / "bakeoff"
    git(ROOT, "clone", "--quiet", str(ROOT), str(folder))
    for line in git(ROOT, "status", "--porcelain", "-z", "--untracked-files=all").split("\0"):
        if line and (ROOT / line[3:]).is_file():
            (folder / line[3:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / line[3:], folder / line[3:])
    furnished(folder / ".bakeoff")
    git(folder, "add", "--all")
    git(
        folder, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--allow-empty", "-m", "now"
    )
    return folder


@pytest.mark.slow
def test_a_bake_off_leaves_the_clone_clean_and_its_tests_green(clone):
    out = typed(clone, "-m", "pytest", "bench/", "--preset", "smoke", "--method", "lora,full", *SMALL)
    assert (clone / "reports" / "smoke" / "report.md").is_file()
    assert git(clone, "status", "--porcelain") == ""
    typed(
        clone, "-m", "bakeoff", "tune", "--preset", "smoke", "--method", "lora", "--grid", "learning_rate=1e-2", *SMALL
    )
    # Of the tests, those that read what a tuning writes, or name files and folders.
    typed(clone, "-m", "pytest", "-q", "tests/whole/test_docs.py", "tests/session/test_tuning.py", "-m", "not slow",
          "-k", "record or ships or generated_part or link or folder")  # fmt: skip
    assert git(clone, "status", "--porcelain") == ""
    # A test that has nothing to assert is skipped, and says why.
    skipped = re.findall(r"^SKIPPED \[\d+\] (\S+?):\d+: (.+)$", out, re.MULTILINE)
    assert (
        "bench/test_parameters.py",
        "--set changed the settings: counts are published of others",
    ) in skipped
    assert ("bench/test_training.py", "every weight is trained") in skipped
    assert any("bench/thresholds.toml has no floor" in reason for _, reason in skipped)


def test_what_commands_write_by_themselves_is_ignored_by_git():
    for path in ("reports/quick/report.md", "reports/zoo/index.html", ".bakeoff/runs/a", ".benchmarks/a"):
        subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT, check=True)
    assert "reports/" not in git(ROOT, "ls-files", "reports").splitlines()


@pytest.mark.slow
@pytest.mark.alone
def test_a_bake_off_beside_a_busy_loop_on_each_core_takes_no_more_than_two_and_a_half_times_as_long(
    tmp_path, furnished
):
    store = furnished(tmp_path / "store")
    found = (contention.ratios("smoke", "lora", 1, SMALL, store) for _ in range(2))  # the second if need be
    assert any(beside / alone <= 2.5 for [(alone, beside)] in found)


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_threads_wait_as_the_user_says(monkeypatch, name):
    for known in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(known, raising=False)
    assert worker.waiting() == worker.WAITING
    monkeypatch.setenv(name, "7")
    assert worker.waiting() == {}


def test_a_run_is_told_that_waiting_threads_sleep(tmp_path, monkeypatch):
    if any(name in os.environ for name in (*worker.WAITING, "KMP_BLOCKTIME")):
        pytest.skip("the environment says how threads wait")
    monkeypatch.setattr(worker, "START", "spawn")
    with worker.environment({**worker.QUIET, **worker.waiting()}):
        found = worker.call(environment_of, log=tmp_path / "log")
    assert found == worker.WAITING


def environment_of(tell):
    """The variables that a process was given."""
    return {name: os.environ.get(name) for name in worker.WAITING}
