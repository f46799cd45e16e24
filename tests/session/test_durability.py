"""Bake-offs that are killed, starved, stopped, or run twice at once: as typed, in processes of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from baking import whole

from bakeoff.session.store import Store
from bakeoff.shipped import ROOT
from lab.faults import torture

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"), pytest.mark.slow]

SMALL = ("task.train=4", "task.validation=2", "task.test=2", "training.epochs=1", "machine.threads=1")
DEATHS = {
    "hungry": "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize(); "
    "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28)); bytearray(2**30)",
    "killed": "open(__file__ + '.count', 'a').write('x'); os.kill(os.getpid(), signal.SIGKILL)",
    "hanging": "time.sleep(600)",
    "counting": "open(__file__ + '.count', 'a').write('x')",  # once for the run, once for its reloaded adapter
}


def command(store, *arguments, select="bench/test_parameters.py", sizes=SMALL):
    changes = [part for size in sizes for part in ("--set", size)]
    return [sys.executable, "-m", "pytest", select, "--preset", "smoke", *changes, "--store", str(store),
            "--report-dir", str(store / "report"), "-p", "no:cacheprovider", *arguments]  # fmt: skip


def hear_ctrl_c():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell that runs the tests in the background ignores it


def start(*typed, **options):
    """A command in a process group of its own that hears Ctrl-C, its output a pipe."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **options.pop("env", {})}
    return subprocess.Popen(typed, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            encoding="utf-8", errors="replace", start_new_session=True, preexec_fn=hear_ctrl_c,
                            **options)  # fmt: skip


def ended(process):
    """Exit code and output."""
    out, _ = process.communicate(timeout=400)
    return process.returncode, out


@pytest.fixture
def dying(tmp_path):
    """Method files whose runs die: `dying("hungry")`."""

    def write(name):
        path = tmp_path / f"{name}.py"
        path.write_text(whole(name, f"if tokenizer is not None:\n    {DEATHS[name]}"))
        return str(path)

    return write


@pytest.fixture(autouse=True)
def kernels(tmp_path, furnished):
    """Compiled before, so that what is killed, or waits, is the run."""
    for store in (tmp_path, tmp_path / "store"):
        furnished(store)


@pytest.fixture(scope="module")
def reference(tmp_path_factory, furnished):
    """The results of a bake-off that nobody kills."""
    store = furnished(tmp_path_factory.mktemp("torture") / "reference")
    assert torture.bake(store)[0] == 0
    return torture.results(store)


def test_a_killed_bake_off_goes_on_to_the_bit(tmp_path, reference, furnished):
    doom = "summaries-torn:2:parent"  # `python -m lab.faults` has them all, and test_killed.py kills a run at a step
    furnished(tmp_path / doom.replace(":", "-"))
    outcome = torture.kill("", doom, tmp_path, reference)
    assert outcome.kept, outcome


def test_a_run_that_starves_is_killed_or_hangs_is_dead_by_cause_and_the_rest_finishes(tmp_path, dying):
    dead = ("hungry", "killed", "hanging")
    methods = [part for name in dead for part in ("--method", dying(name))]
    code, out = ended(start(*command(tmp_path / "store", *methods, "--method", "lora", "--run-timeout", "30")))
    assert code == 1, out
    report = (tmp_path / "store" / "report" / "report.md").read_text()
    assert "out of memory (MemoryError" in out and "killed by signal 9 (SIGKILL" in out
    assert re.search(r"\| hungry +\| 42 +\| setup +\| out of memory", report)
    assert re.search(r"\| killed +\| 42 +\| setup +\| killed by signal 9", report)
    assert re.search(r"\| hanging +\| 42 +\| setup +\| ended after 30 s", report)
    assert "in attach" in report.partition("Where hanging, seed 42, stood:")[2]
    [header] = [line for line in report.splitlines() if "| figure" in line or "| lora" in line][:1]
    assert all(name in header for name in dead)
    assert sum((run / "adapter").is_dir() for run in (tmp_path / "store" / "runs").iterdir()) == 1


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(tmp_path):
    typed = command(tmp_path, "--method", "lora", "-rN", "--set", "methods.lora.rank=1024")
    limited = ["bash", "-c", f"ulimit -f 768; exec {' '.join(typed)}"]  # KiB; the papers have less, the adapter more
    code, out = ended(start(*limited))
    assert code == 1 and "disk full (" in out and "Traceback" not in out, out
    assert Store(tmp_path).find("0" * 32) is None and not list((tmp_path / "runs").iterdir())
    code, out = ended(start(*typed))
    assert code == 0 and "1 made" in out, out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_bake_off_says_what_is_kept_and_how_to_go_on(tmp_path, number):
    sizes = (*SMALL[:3], "training.epochs=10000", "durability.checkpoint_steps=1", "machine.threads=1")
    process = start(*command(tmp_path, "--method", "lora", sizes=sizes))
    assert any("epoch 2/10000" in line for line in process.stdout)
    os.kill(process.pid, number)
    asked = time.monotonic()
    code, out = ended(process)
    assert time.monotonic() < asked + 5 and code == pytest.ExitCode.INTERRUPTED
    assert re.search(r"stopped; kept in .*: 0 finished runs; lora \(seed 42\): \d+ steps\ntype the same command", out)
    if number == signal.SIGTERM:  # what is kept is the same
        return
    process = start(*command(tmp_path, "--method", "lora", sizes=sizes))
    assert any(re.search(r"goes on after step \d+, [01] computed again", line) for line in process.stdout)
    os.kill(process.pid, number)
    ended(process)


def test_two_bake_offs_on_one_store_train_each_run_once(tmp_path, dying):
    file = dying("counting")
    sessions = [start(*command(tmp_path, "--method", f"lora,{file}", "--report-dir", str(tmp_path / f"report-{n}")))
                for n in range(2)]  # fmt: skip
    outs = [ended(process) for process in sessions]
    assert [code for code, _ in outs] == [0, 0]
    assert sum(int(re.search(r"(\d+) made", out)[1]) for _, out in outs) == 2
    assert Path(file + ".count").read_text() == "xx"
    one, two = (json.loads((tmp_path / f"report-{n}" / "results.json").read_text()) for n in range(2))
    assert one["methods"] == two["methods"] and set(one["methods"]) == {"lora", "counting"}


def test_four_processes_of_one_session_train_each_run_once_and_make_one_report(tmp_path, dying):
    alive, dead = dying("counting"), dying("killed")
    code, out = ended(start(*command(tmp_path, "--method", f"lora,{alive},{dead}", "-n", "4", "--fresh")))
    assert code == 1 and "2 made, 0 reused" in out and "1 dead" in out, out
    assert Path(alive + ".count").read_text() == "xx"
    assert Path(dead + ".count").read_text() == "x"
    found = json.loads((tmp_path / "report" / "results.json").read_text())
    assert set(found["methods"]) == {"lora", "counting"}
