"""Runs on this machine: one at a time, on shares of the processor, or one on each card."""

import importlib
import io
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from baking import SMALL, adapter, whole
from rich.console import Console

from bakeoff.config import hardware, presets
from bakeoff.config.schema import EngineSettings, MachineSettings
from bakeoff.core.errors import UsageError
from bakeoff.session import executors, plan, worker
from bakeoff.session.executors import local
from bakeoff.session.progress import Progress
from bakeoff.session.session import Session
from bakeoff.session.store import Store


@pytest.fixture
def store(tmp_path, furnished):
    return Store(furnished(tmp_path / "store"))


def session_of(store, methods=("lora", "lead-1"), seeds="1,2", count=1):
    worker.start_server(offline=True)
    chosen = presets.load("smoke", seeds=seeds, changes=SMALL)
    planned = plan.make(chosen, methods, store)
    return Session(planned, store, Progress(None, live=False), executor=local.shares(store, count))


def inside(executor, people, seconds=0.05):
    """How many of so many threads, each of which wants a slot, had one at a time at most."""
    now, most = [], []

    def enter():
        with executor.slot(lambda: None) as slot:
            now.append(slot)
            most.append(len(now))
            time.sleep(seconds)
            now.remove(slot)

    threads = [threading.Thread(target=enter) for _ in range(people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(most)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_as_many_runs_are_made_at_once_as_there_are_slots(store, count):
    assert inside(local.shares(store, count), 6) == count


def test_another_bake_off_waits_until_the_last_share_of_the_processor_is_free(store):
    ours, waits = local.shares(store, 2), []
    other = local.shares(Store(store.root), 2)

    def theirs():
        with other.slot(lambda: waits.append("waits")):
            waits.append("has it")

    with ours.slot(lambda: None):
        with ours.slot(lambda: None):
            thread = threading.Thread(target=theirs)
            thread.start()
            while not waits:
                time.sleep(0.01)
        assert set(waits) == {"waits"}
    thread.join()
    assert list(dict.fromkeys(waits)) == ["waits", "has it"]


def test_two_cards_are_two_devices_and_a_card_is_one(store):
    ours, other = local.cards(store, {"0": "a", "1": "b"}), local.cards(Store(store.root), {"GPU-b": "b", "2": "c"})
    waits = []
    with ours.slot(waits.append) as zero, ours.slot(waits.append) as one:
        assert [zero.name, one.name] == ["card 0", "card 1"]
        free = threading.Event()

        def theirs():
            with other.slot(lambda: (waits.append("card 1"), free.set())):
                pass

        thread = threading.Thread(target=theirs)
        thread.start()
        assert free.wait(10)
    thread.join()
    assert set(waits) == {"card 1"}


def test_cards_are_locked_in_one_order_however_they_are_named(store, monkeypatch):
    taken, held = [], local.Shared.held
    monkeypatch.setattr(local.Shared, "held", lambda self, waiting: (taken.append(self.device), held(self, waiting))[1])
    for visible in (["0", "1"], ["1", "0"]):
        with local.cards(store, {name: name for name in visible}, ranks=2).slot(lambda: None) as slot:
            assert slot.environment == {"CUDA_VISIBLE_DEVICES": ",".join(visible)}
    assert taken == ["cuda-0", "cuda-1"] * 2


@pytest.mark.parametrize("count", [1, 2])
def test_runs_that_wait_for_another_bake_off_say_so_once_and_can_be_stopped(store, monkeypatch, count):
    monkeypatch.setattr("bakeoff.session.store.LOOKS_EVERY", 0.02)
    console = Console(file=io.StringIO(), width=200)
    session = session_of(Store(store.root), methods=["lora"], count=count)
    session.progress.console = console
    ended = []

    def make(spec):
        with pytest.raises(worker.Stopped):
            session.run(spec)
        ended.append(spec.seed)

    with store.computing():
        threads = [threading.Thread(target=make, args=[spec], daemon=True) for spec in session.plan.specs["lora"]]
        for thread in threads:
            thread.start()
        time.sleep(0.5)  # long enough to look at the lock many times
        assert not ended
        session.executor.stop()
        for thread in threads:
            thread.join(10)
    assert sorted(ended) == [1, 2]
    assert 1 <= console.file.getvalue().count("waits for another bake-off") <= count


def seen(emit):
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_the_process_of_a_run_sees_its_card_alone(tmp_path, store):
    worker.start_server(offline=True)
    [place] = [local.cards(store, {"3": "d"}).free.get()]
    assert worker.call(seen, log=tmp_path / "log", given=place.environment) == "3"


@pytest.mark.parametrize(("visible", "names"), [
    (None, ["0", "2"]), ("4,GPU-8932f937,7", ["4", "7"]), ("1", ["0", "2"]), ("MIG-a,1,MIG-c", ["MIG-a", "MIG-c"]),
])  # fmt: skip
def test_cards_of_another_kind_are_left_out(monkeypatch, visible, names):
    kinds = [SimpleNamespace(name=name, total_memory=80, uuid=f"{name}-{number}")
             for number, name in enumerate(("H100", "T4", "H100"))]  # fmt: skip
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: kinds[number])
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    uuids = [name if name.startswith("MIG-") else f"H100-{number}" for name, number in zip(names, (0, 2), strict=True)]
    assert hardware.cards("cuda") == dict(zip(names, uuids, strict=True)) and hardware.cards("cpu") == {}


def test_runs_beside_each_other_share_the_threads(monkeypatch):
    monkeypatch.setattr(hardware, "available_threads", lambda: 8)
    threads = [hardware.resolve(MachineSettings(device="cpu"), EngineSettings(), n).threads for n in (1, 2, 3, 16)]
    assert threads == [8, 4, 2, 1]
    assert hardware.resolve(MachineSettings(device="cpu", threads=5), EngineSettings(), 2).threads == 5


@pytest.mark.parametrize(("text", "parallel", "expected"), [
    ("rya", 0, "--executor rya: not an executor; type local, ray, ray://HOST:PORT or slurm"),
    ("slurm://x", 0, "--executor slurm://x: not an executor"),
    ("local", 4096, "--parallel 4096: this process may use"),
])  # fmt: skip
def test_what_no_machine_can_do_is_one_line(text, parallel, expected):
    with pytest.raises(UsageError) as refused:
        executors.named(text, parallel)
    assert str(refused.value).startswith(expected)


def test_cards_of_several_kinds_that_are_too_few_of_each_are_refused(store):
    found = {"machine": {"device": "cuda", "ranks": 2}, "cards": {"0": "a"}}
    for parallel in (0, 1):
        with pytest.raises(
            UsageError, match=r"machine.ranks = 2: each needs a GPU, and 1 of one kind are visible; type --set"
        ):
            executors.choose("local", parallel, store, found)


def test_processors_limit_the_runs_on_a_processor_and_not_those_on_cards(monkeypatch, store):
    choose = importlib.import_module("bakeoff.session.executors.choose")  # the package has a function of that name
    monkeypatch.setattr(choose, "available_threads", lambda: 1)
    monkeypatch.setattr(choose, "expects_card", lambda device: device != "cpu")
    executors.named("local", 8, "auto")
    cards = {"machine": {"device": "cuda", "ranks": 1}, "cards": dict.fromkeys("01234567", "a")}
    assert executors.choose("local", 8, store, cards).count == 8
    for refused in (lambda: executors.named("local", 8, "cpu"),
                    lambda: executors.choose("local", 8, store, {"machine": {"device": "cpu"}})):  # fmt: skip
        with pytest.raises(UsageError, match="this process may use 1 processors; type --parallel 1"):
            refused()


def test_no_run_begins_after_the_stop_that_found_it_about_to(store, tmp_path):
    worker.start_server(offline=True)
    ours = local.shares(store, 2)
    with ours.slot(lambda: None) as place:
        ours.stop()
        with pytest.raises(worker.Stopped):
            worker.call(seen, log=tmp_path / "log", stopped=place.stopped)
    assert not (tmp_path / "log").exists()


def test_more_runs_than_cards_are_refused_and_all_cards_are_used(store):
    found = {"machine": {"device": "cuda", "ranks": 1}, "cards": {"0": "a", "1": "b"}}
    assert executors.choose("local", 0, store, found).count == 2
    assert executors.choose("local", 1, store, found).count == 1
    with pytest.raises(UsageError, match="--parallel 3: a card makes one run at a time, and 2 are visible"):
        executors.choose("local", 3, store, found)


@pytest.mark.slow
def test_runs_made_at_once_are_those_made_one_after_another(store, tmp_path, furnished):
    one, two = session_of(store), session_of(Store(furnished(tmp_path / "other")), count=2)
    two.expected = ["lora", "lead-1"]
    for method in ("lora", "lead-1"):
        for first, second in zip(one.runs(method), two.runs(method), strict=True):
            assert first.fingerprint == second.fingerprint and first.scores == second.scores
            assert first.steps == second.steps
            assert one.store.predictions(first.fingerprint) == two.store.predictions(second.fingerprint)
            if method == "lora":
                assert adapter(one.store, first) == adapter(two.store, second)
    assert "runs" not in first.environment and second.environment["runs"] == "2 at a time on one processor"


MEETING = """
if tokenizer is not None and not list(Path(self.place).glob("*.met")):
    here = Path(self.place, f"{time.time_ns()}.here")
    here.touch()
    end = time.monotonic() + 60
    while len(list(Path(self.place).glob("*.here"))) < 2:
        assert time.monotonic() < end, "nobody else is computing"
        time.sleep(0.05)
    Path(self.place, "both.met").touch()
"""


class Watched(Progress):
    """Keeps how many seconds each run had a slot."""

    def __init__(self):
        super().__init__(None, live=False)
        self.seconds = []

    @contextmanager
    def run(self, spec):
        begun = time.monotonic()
        with super().run(spec) as emit:
            yield emit
        self.seconds.append(time.monotonic() - begun)


def side_by_side():
    """The time of two processes at once as a share of that of one after the other: a half where each has a core."""

    def seconds(count):
        begun = time.monotonic()
        busy = [subprocess.Popen([sys.executable, "-c", "sum(n * n for n in range(10_000_000))"]) for _ in range(count)]
        assert not any(process.wait() for process in busy)
        return time.monotonic() - begun

    return seconds(2) / (seconds(1) + seconds(1))


@pytest.mark.slow
@pytest.mark.alone  # measures time
@pytest.mark.skipif(hardware.available_threads() < 2, reason="there is one processor")
def test_two_slots_halve_eight_runs(tmp_path, furnished):
    """Or nearly so, as far as this machine gives two processes two cores: others may compute on them."""

    def seconds(name, count):
        made = session_of(Store(furnished(tmp_path / name)), ["lora", "full"], "1,2,3,4", count)
        made.expected, made.progress = ["lora", "full"], Watched()
        begun = time.monotonic()
        assert sum(len(made.runs(method)) for method in made.expected) == 8
        whole = time.monotonic() - begun
        assert sum(made.progress.seconds) > 0.75 * count * whole, "slots were empty"
        return whole

    found = []  # of each try what two processes took, and what two slots did
    while len(found) < 4 and not any(share <= 1.2 * possible and share < 0.9 for possible, share in found):
        before = side_by_side()
        share = seconds(f"two {len(found)}", 2) / seconds(f"one {len(found)}", 1)
        found.append((max(before, side_by_side()), share))
    assert any(share <= 1.2 * possible and share < 0.9 for possible, share in found), found


@pytest.mark.slow
def test_two_runs_compute_at_the_same_time(store, tmp_path):
    """Each waits inside of its run until the other is there."""
    (tmp_path / "meeting.py").write_text(whole("meeting", MEETING))
    changes = [*SMALL, f"methods.meeting.place={tmp_path}"]
    worker.start_server(offline=True)
    chosen = presets.load("smoke", seeds="1,2", changes=changes)
    planned = plan.make(chosen, [str(tmp_path / "meeting.py")], store)
    session = Session(planned, store, Progress(None, live=False), executor=local.shares(store, 2))
    assert len(session.runs("meeting")) == 2


@pytest.mark.slow
def test_the_runs_of_expected_methods_begin_with_the_first(store, monkeypatch):
    session = session_of(store, ["lora", "full"], "1", count=2)
    both = threading.Barrier(2, timeout=30)
    monkeypatch.setattr(session, "run", lambda spec: (both.wait(), spec.method)[1])
    session.expected = ["lora", "full"]
    assert session.runs("lora") == ["lora"] and session.runs("full") == ["full"]


def test_a_session_that_is_stopped_ends_its_runs_and_buries_none(store, monkeypatch):
    session, begun = session_of(store, ["lora"], "1,2,3", count=2), threading.Semaphore(0)
    monkeypatch.setattr(worker, "run_job", linger)
    monkeypatch.setattr(session, "_told", lambda spec, emit, news: begun.release())
    asking = threading.Thread(target=ended, args=(session,))
    asking.start()
    assert begun.acquire(timeout=60) and begun.acquire(timeout=60)
    since = time.monotonic()
    assert "type the same command to go on" in session.interrupted()
    asking.join(20)
    assert time.monotonic() - since < 20 and not asking.is_alive()
    assert session.ledger.count("dead") == 0 and not session.deaths
    assert not list((store.root / "runs").glob("*"))


def ended(session):
    """Asks a session that will be stopped."""
    with pytest.raises((worker.Stopped, CancelledError)):
        session.runs("lora")


def linger(*given):
    given[-1]({"phase": "setup"})
    time.sleep(600)
