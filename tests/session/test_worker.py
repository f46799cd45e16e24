"""A process for every run: its answer, its news, and why it died."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jobs
import pytest

from bakeoff.core.errors import UsageError
from bakeoff.session import worker
from bakeoff.session.worker import Died, call, cause_of
from bakeoff.shipped import ROOT


@pytest.fixture(autouse=True, scope="module")
def server():
    """The forkserver that the whole session shares."""
    worker.start_server(offline=True)


@pytest.fixture
def log(tmp_path):
    """A log whose path has spaces and letters beyond ASCII."""
    return tmp_path / "a läg 日本.log"


def death(job, *arguments, log):
    with pytest.raises(Died) as caught:
        call(job, *arguments, log=log)
    assert "\n" not in caught.value.cause
    return caught.value.phase, caught.value.cause


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_job_answers_from_a_process_of_its_own_that_then_ends(log):
    found = call(jobs.answer, "é\u2028", log=log)
    assert found["value"] == "é\u2028" and found["pid"] != os.getpid()
    end = time.monotonic() + 10  # nobody waits for it
    while alive(found["pid"]) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(found["pid"])


def test_a_log_that_can_not_be_written_is_named(tmp_path):
    phase, cause = death(jobs.answer, "x", log=tmp_path)
    assert phase == "start" and cause.startswith("IsADirectoryError")


def test_a_process_begins_with_peft_and_without_bitsandbytes(log):
    assert "peft" in call(jobs.loaded, "peft", log=log)
    assert call(jobs.loaded, "bitsandbytes", log=log) == []


@pytest.mark.cuda
def test_a_process_begins_where_cuda_was_not_started(log):
    assert not call(jobs.forked_from_cuda, log=log)


def test_a_process_that_stays_after_its_answer_is_ended_before_the_next_one_starts(log):
    stayed = call(jobs.stay, log=log)
    assert alive(stayed)
    assert call(jobs.answer, stayed, log=log)["pid"] != stayed
    assert not alive(stayed)


def test_news_arrive_in_order(log):
    news = []
    assert call(jobs.count, log=log, emit=news.append) == "done"
    assert [item["step"] for item in news] == list(range(100))


def test_all_that_is_printed_goes_to_the_log_of_the_last_process(log, capfd):
    for _ in range(2):
        call(jobs.shout, log=log)
    assert capfd.readouterr() == ("", "")
    assert sorted(log.read_bytes().splitlines()) == sorted(["printed é".encode(), b"from a child", b"raw \xff bytes"])


@pytest.mark.parametrize(
    "error, cause",
    [
        ("value", "ValueError: no"),
        ("silent", "ValueError: "),
        ("diverged", "step 3"),
        ("memory", "out of memory (MemoryError: )"),
        ("exit", "SystemExit: 3"),
    ],
)
def test_a_job_that_raises_is_dead_with_its_phase_and_cause(log, error, cause):
    assert death(jobs.raise_after, "validation", error, log=log) == ("validation", cause)
    assert ("Traceback" in log.read_text()) == (error != "diverged")


def test_a_job_that_ends_before_its_first_news_died_at_the_start(log):
    assert death(jobs.unspeakable, log=log)[0] == "start"


def test_a_usage_error_passes_through(log):
    with pytest.raises(UsageError, match=r"^mend it$"):
        call(jobs.raise_after, "setup", "usage", log=log)


@pytest.mark.parametrize(
    "number, name", [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV"), (signal.SIGTERM, "SIGTERM")]
)
def test_a_killed_job_is_dead_by_its_signal(log, number, name):
    phase, cause = death(jobs.kill_itself, int(number), log=log)
    assert phase == "training"
    assert cause.startswith(f"killed by signal {int(number)} ({name}")


def test_a_job_killed_in_the_middle_of_a_message_is_dead_by_its_signal(log):
    phase, cause = death(jobs.kill_itself_mid_message, log=log)
    assert phase == "evaluation" and cause.startswith("killed by signal 9")


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_that_exits_without_an_answer_is_dead(log, code):
    assert death(jobs.exit_at_once, code, log=log) == ("validation", f"ended with exit code {code} and no answer")


@pytest.mark.skipif(sys.platform != "linux", reason="address-space limits hold on Linux")
@pytest.mark.parametrize("hungry", ["python", "torch"])
def test_a_job_beyond_its_address_space_is_out_of_memory(log, hungry):
    phase, cause = death(jobs.starve, hungry, log=log)
    assert phase == "training" and cause.startswith("out of memory (")


def test_an_abort_for_lack_of_memory_is_called_that(log):
    assert death(jobs.abort_for_memory, log=log)[1].startswith("out of memory (killed by signal 6 (SIGABRT)")


def test_an_earlier_log_does_not_explain_a_later_death(log):
    death(jobs.abort_for_memory, log=log)
    assert death(jobs.exit_at_once, 3, log=log)[1] == "ended with exit code 3 and no answer"


@pytest.mark.parametrize("job", [jobs.unspeakable, jobs.unspeakable_news])
def test_what_can_not_be_sent_is_a_cause_of_death(log, job):
    assert "pickle" in death(job, log=log)[1].lower()


def test_every_signal_has_words(tmp_path):
    for number in range(1, 65):
        assert cause_of(-number, tmp_path / "none").startswith(f"killed by signal {number} (")


@pytest.mark.parametrize("deaf", [False, True])
def test_ctrl_c_leaves_no_child_behind(log, monkeypatch, deaf):
    monkeypatch.setattr(worker, "PATIENCE", 0.5)
    seen = []

    def interrupt(news):
        seen.append(news["pid"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(jobs.linger, deaf, log=log, emit=interrupt)
    assert not alive(seen[0])


def test_a_job_whose_time_is_over_is_ended_and_says_where_it_stood(log):
    with pytest.raises(Died) as caught:
        call(jobs.hang, log=log, timeout=2.0)
    assert (caught.value.phase, caught.value.cause) == ("training", "ended after 2 s (--run-timeout)")
    assert "in a_place_where_nothing_ends" in caught.value.stack and "in a_place_where_nothing_ends" in log.read_text()


def test_a_job_within_its_time_is_left_alone(log):
    assert call(jobs.count, log=log, timeout=60.0) == "done"


@pytest.mark.skipif(sys.platform == "win32", reason="file-size limits are POSIX")
def test_a_disk_without_room_is_called_that(log, tmp_path):
    phase, cause = death(jobs.fill_the_disk, str(tmp_path / "big"), log=log)
    assert phase == "checks" and cause.startswith("disk full (OSError: [Errno 27] File too large")


@pytest.mark.slow
def test_a_job_ends_with_the_process_that_asked_for_it(tmp_path):
    pid = tmp_path / "pid"
    program = f"import jobs; jobs.orphan({str(pid)!r}, {str(tmp_path / 'log')!r})"
    path = os.pathsep.join([str(Path(jobs.__file__).parent), str(ROOT)])
    with subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}) as parent:
        while not (pid.exists() and pid.read_text()):
            assert parent.poll() is None
            time.sleep(0.05)
        assert alive(int(pid.read_text()))
        parent.kill()
    end = time.monotonic() + 5
    while alive(int(pid.read_text())) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(int(pid.read_text()))


@pytest.mark.slow
def test_who_reads_a_command_s_output_does_not_wait_for_imports_that_nobody_needs_any_more():
    took = []
    for program in (
        "from bakeoff.session import worker; worker.start_server(offline=True)",
        "import bakeoff.session.preload",
    ):
        begun = time.monotonic()
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True)  # to the pipe's end
        took.append(time.monotonic() - begun)
    assert took[0] < took[1] / 2


def test_a_job_runs_in_the_callers_folder_and_offline(tmp_path, log, monkeypatch):
    folder = tmp_path / "wörk ing"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert call(jobs.where, log=log) == {"folder": str(folder), "offline": "1", "cublas": ":4096:8"}


def test_the_main_module_is_as_it_was(log):
    main = sys.modules["__main__"]
    before = main.__dict__.get("__file__"), main.__dict__.get("__spec__")
    call(jobs.answer, 1, log=log)
    assert (main.__dict__.get("__file__"), main.__dict__.get("__spec__")) == before


def test_the_environment_is_as_it_was(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    before = dict(os.environ)
    worker.start_server(offline=True)
    assert dict(os.environ) == before
