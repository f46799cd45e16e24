"""Runs elsewhere: on a Ray cluster and as jobs of submitit, with the results that this machine would give."""

import dataclasses
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from baking import SMALL, adapter, whole

from bakeoff.config import presets
from bakeoff.core.errors import UsageError
from bakeoff.session import executors, plan, worker
from bakeoff.session.executors import cluster, remote, slurm
from bakeoff.session.executors.api import Job
from bakeoff.session.progress import Progress
from bakeoff.session.session import Session
from bakeoff.session.store import Store


def planned(store, methods, seeds="1"):
    worker.start_server(offline=True)
    return plan.make(presets.load("smoke", seeds=seeds, changes=SMALL), methods, store)


def session_of(store, methods, executor=None, seeds="1"):
    found = planned(store, methods, seeds)
    return Session(found, store, Progress(None, live=False), executor=executor and executor(found))


@pytest.fixture(scope="module")
def here(tmp_path_factory, furnished):
    """A session of this machine, which makes the runs that a test asks it for."""
    return session_of(Store(furnished(tmp_path_factory.mktemp("here") / "store")), ["all"])


@pytest.fixture(autouse=True)
def node(tmp_path_factory, monkeypatch):
    """Another machine's store."""
    home = tmp_path_factory.mktemp("node")
    monkeypatch.setenv("BAKEOFF_NODE_STORE", str(home))
    return home


def same(here, there, methods):
    """Asserts that two sessions make the same runs, to the bit."""
    for method in methods:
        [first], [second] = here.runs(method), there.runs(method)
        assert first.fingerprint == second.fingerprint and first.scores == second.scores
        assert first.steps == second.steps and first.spec == second.spec
        assert here.store.predictions(first.fingerprint) == there.store.predictions(second.fingerprint)
        if not first.spec["control"]:
            assert adapter(here.store, first) == adapter(there.store, second)


def a_job(store, spec, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    durability = dataclasses.asdict(presets.load("smoke").durability)
    return Job(spec, folder, store.partial(spec.fingerprint), store.models, tmp_path / "log", durability, 0.0)


@pytest.mark.parametrize(("change", "expected"), [
    ({"torch": "1.0"}, "where the bake-off was planned"),
    ({"processor": "another"}, "so its runs would not be comparable"),
    ({"compiler": "gcc (GCC) 3.2"}, "gcc (GCC) 3.2 where the bake-off was planned"),
    ({"bitsandbytes": "0.1"}, "0.1 where the bake-off was planned"),
])  # fmt: skip
def test_a_machine_with_other_versions_refuses_a_run(here, tmp_path, node, change, expected):
    [spec] = here.plan.specs["lora"]
    other = dataclasses.replace(spec, versions={**spec.versions, **change})
    [(kind, text)] = list(remote.make(remote.parcel(a_job(here.store, other, tmp_path)), node, tmp_path))
    assert kind == "usage" and expected in text and f"{next(iter(change))} is " in text and "\n" not in text


def test_a_machine_with_fewer_cards_than_ranks_refuses_a_run(here, tmp_path, node, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    [spec] = here.plan.specs["lora"]
    two = dataclasses.replace(spec, machine={**spec.machine, "device": "cuda", "ranks": 2})
    [(kind, text)] = list(remote.make(remote.parcel(a_job(here.store, two, tmp_path)), node, tmp_path))
    assert kind == "usage" and "machine.ranks = 2: each needs a GPU, and 1 are visible there" in text


def test_a_machine_with_another_bakeoff_refuses_a_run(here, tmp_path, node, monkeypatch):
    monkeypatch.setattr(plan, "source_sha256", lambda: "0")
    [spec] = here.plan.specs["lora"]
    [(kind, text)] = list(remote.make(remote.parcel(a_job(here.store, spec, tmp_path)), node, tmp_path))
    assert kind == "usage" and "Bakeoff's own files differ there" in text


def test_runs_that_begin_on_a_machine_at_once_bring_one_method_file(here, node):
    [spec] = here.plan.specs["lora"]
    together = threading.Barrier(8)

    def bring(_):
        together.wait(10)
        return remote.here(spec, "# a method", node).method_file

    with ThreadPoolExecutor(8) as pool:
        [file] = set(pool.map(bring, range(8)))
    assert Path(file).read_text() == "# a method"


@pytest.mark.parametrize("elsewhere", ["ray", "slurm"])
def test_what_a_machine_raises_is_how_the_run_died(here, tmp_path, monkeypatch, elsewhere):
    """A home that is a file stands for every accident."""
    home = tmp_path / "home"
    home.touch()
    monkeypatch.setenv("BAKEOFF_NODE_STORE", str(home))
    job = a_job(here.store, here.plan.specs["lora"][0], tmp_path)
    if elsewhere == "ray":
        *_, (kind, value) = cluster.task(remote.parcel(job))
    else:
        kind, value = slurm.task(remote.parcel(job), str(home), str(job.folder), str(tmp_path / "news"))
    _, cause, stack, diverged = value
    assert kind == "died" and "NotADirectoryError" in cause and "Traceback" in stack and not diverged


def test_a_run_elsewhere_has_a_network_only_where_the_user_named_a_hub(here, tmp_path):
    job = a_job(here.store, here.plan.specs["lora"][0], tmp_path)
    hub = dataclasses.replace(job.spec, model={**job.spec.model, "name": "someone/some-model"})
    assert remote.parcel(job).offline and not remote.parcel(dataclasses.replace(job, spec=hub)).offline


def test_files_arrive_as_they_were_sent(here, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "CHUNK", 7)
    sent = tmp_path / "sent"
    (sent / "adapter").mkdir(parents=True)
    for name, data in (("adapter/a", bytes(range(50))), ("b", b""), ("c", b"1234567")):
        (sent / name).write_bytes(data)
    [spec] = here.plan.specs["lora"]
    job = a_job(here.store, spec, tmp_path)
    for kind, value in remote.files(sent):
        remote.receive(kind, value, job)
    found = {
        path.relative_to(job.folder).as_posix(): path.read_bytes() for path in job.folder.rglob("*") if path.is_file()
    }
    assert found == {"adapter/a": bytes(range(50)), "b": b"", "c": b"1234567"}


def test_a_file_can_not_leave_its_folder(here, tmp_path):
    [spec] = here.plan.specs["lora"]
    with pytest.raises(worker.Died, match="another machine sent a file called"):
        remote.receive("file", ("../outside", b"x"), a_job(here.store, spec, tmp_path))


@pytest.mark.parametrize("fresh", [True, False])
def test_a_run_that_is_to_be_fresh_is_so_wherever_it_is_made(here, tmp_path, node, monkeypatch, fresh):
    job = dataclasses.replace(a_job(here.store, here.plan.specs["lora"][0], tmp_path), fresh=fresh)
    left = node / "partial" / job.spec.fingerprint / "checkpoint"
    left.mkdir(parents=True)
    monkeypatch.setattr(remote, "outcome", lambda job, said: ("usage", "no"))
    list(remote.make(remote.parcel(job), node, tmp_path))
    assert left.exists() is not fresh


class Endless:
    """A job of Slurm that never ends by itself."""

    cancelled = 0

    def done(self):
        return False

    def cancel(self, check):
        assert not check  # one that scancel does not know any more leaves no other one running
        self.cancelled += 1


class Queue:
    """submitit's executor with such jobs."""

    def __init__(self, folder, cluster):
        self.jobs = []

    def update_parameters(self, **given):
        pass

    def submit(self, *given):
        self.jobs.append(Endless())
        return self.jobs[-1]


@pytest.fixture
def queue(here, monkeypatch):
    """Slurm with such a queue."""
    monkeypatch.setattr(slurm, "load", lambda: SimpleNamespace(AutoExecutor=Queue))
    monkeypatch.setattr(slurm, "EVERY", 0.01)
    return slurm.Slurm(here.store, 2, here.plan.found["machine"])


def test_a_job_that_nobody_waits_for_any_more_is_cancelled(here, tmp_path, queue, monkeypatch):
    job = a_job(here.store, here.plan.specs["lora"][0], tmp_path)

    def interrupted(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(Endless, "done", interrupted)
    with pytest.raises(KeyboardInterrupt):
        queue.make(job, print)
    assert [one.cancelled for one in queue.executor.jobs] == [1]


def test_after_a_stop_jobs_are_cancelled_and_none_is_submitted(here, tmp_path, queue):
    job = a_job(here.store, here.plan.specs["lora"][0], tmp_path)
    with ThreadPoolExecutor() as pool:
        going = pool.submit(queue.make, job, print)
        while not queue.executor.jobs:
            time.sleep(0.01)
        with queue.slot(lambda: None):
            queue.stop()
            with pytest.raises(worker.Stopped):
                queue.make(job, print)
        assert isinstance(going.exception(10), worker.Stopped)
    [one] = queue.executor.jobs
    assert one.cancelled and not queue.jobs


def test_a_job_that_slurm_does_not_take_is_a_run_that_died(here, tmp_path, queue, monkeypatch):
    def refuse(self, *given):
        raise RuntimeError("\nsbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed")

    monkeypatch.setattr(Queue, "submit", refuse)
    job = a_job(here.store, here.plan.specs["lora"][0], tmp_path)
    with pytest.raises(worker.Died, match=r"took no job: sbatch: error: QOSMax.+; if the queue .+ --parallel 1 "):
        queue.make(job, print)


def test_two_bake_offs_that_ask_a_machine_for_the_same_run_get_it_one_after_the_other(here, tmp_path, monkeypatch):
    """Each on a store of its own, so that nothing but the machine holds them apart."""
    inside, most = [], []

    def make(sent, home, folder):
        inside.append(folder)
        most.append(len(inside))
        assert not list(folder.iterdir())
        (folder / "adapter").touch()
        remote.kept(home, here.plan.specs["lora"][0].fingerprint).mkdir(parents=True)
        time.sleep(0.2)
        yield "result", None
        inside.pop()

    monkeypatch.setattr(remote, "make", make)
    sent = remote.parcel(a_job(here.store, here.plan.specs["lora"][0], tmp_path))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: [kind for kind, _ in cluster.task(sent)], range(2)))
    assert found == [["file", "result"]] * 2 and most == [1, 1]


def test_a_task_of_ray_that_begins_while_all_are_stopped_is_cancelled(here, tmp_path):
    job, cancelled = a_job(here.store, here.plan.specs["lora"][0], tmp_path), []
    made = cluster.Cluster.__new__(cluster.Cluster)
    made.streams, made.stopped, made.needs = set(), False, {}

    def begin(sent):
        made.stop()  # looks at the streams before this one is there
        return iter(())

    ray = SimpleNamespace(remote=lambda task: SimpleNamespace(options=lambda **given: SimpleNamespace(remote=begin)),
                          cancel=lambda stream, force: cancelled.append(stream))  # fmt: skip
    made.ray = ray
    with pytest.raises(worker.Stopped):
        made.follow(job, print)
    assert len(cancelled) == 1 and not made.streams


def test_a_run_for_which_no_machine_is_left_says_so_once_and_goes_on_when_one_comes(monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0)
    made, news = cluster.Cluster.__new__(cluster.Cluster), []
    waits = iter([[], [], ["first"], ["second"]])
    there = iter([[{"Alive": True, "Resources": {"CPU": 4.0}}], [{"Alive": False, "Resources": {"CPU": 4.0}}]])
    made.needs, made.needed = {"num_cpus": 3}, "3 processors"
    made.ray = SimpleNamespace(wait=lambda streams, timeout: (next(waits), streams), nodes=lambda: next(there))
    assert list(made.arriving(iter(["first", "second"]), news.append)) == ["first", "second"]
    assert news == [{"resumed": "waits: no machine of the cluster is left that has 3 processors"}]


@pytest.mark.parametrize(("name", "module"), [("ray", cluster), ("slurm", slurm)])
def test_an_executor_that_is_not_installed_is_one_line(monkeypatch, name, module):
    monkeypatch.setitem(__import__("sys").modules, "ray" if name == "ray" else "submitit", None)
    with pytest.raises(UsageError, match=f"--executor {name}: .* is not installed; type pip install"):
        executors.named(name, 0)


@pytest.mark.slow
def test_jobs_of_submitit_give_this_machine_s_runs(here, tmp_path, furnished):
    store = Store(furnished(tmp_path / "store"))
    there = session_of(store, ["lora"], lambda found: slurm.Slurm(store, 2, found.found["machine"], "local"))
    there.expected = ["lora", "lead-1"]
    same(here, there, there.expected)


def test_news_of_a_job_are_read_once_and_line_by_line(tmp_path):
    file, told = tmp_path / "news", []
    tell = lambda start: slurm.Slurm.tell(None, file, start, told.append)  # noqa: E731
    assert tell(0) == 0
    file.write_text(json.dumps({"phase": "setup"}) + "\n" + '{"phase": "tr')
    end = tell(0)
    assert told == [{"phase": "setup"}] and tell(end) == end
    file.write_text(file.read_text() + 'aining"}\n')
    tell(end)
    assert told[1:] == [{"phase": "training"}]


@pytest.fixture
def nodes(ray_cluster, node):
    """A cluster of Ray whose head computes nothing."""
    return ray_cluster(0)


@pytest.mark.slow
@pytest.mark.alone  # Ray takes a busy machine for a lost one
def test_two_machines_of_a_cluster_give_this_machine_s_runs(here, nodes, tmp_path, furnished):
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    store = Store(furnished(tmp_path / "store"))
    there = session_of(store, ["all"], lambda found: cluster.Cluster("ray", 0, found.found["machine"]))
    there.expected = list(here.plan.specs)
    assert there.executor.count == 2
    same(here, there, there.expected)


@pytest.mark.slow
@pytest.mark.alone  # Ray takes a busy machine for a lost one
def test_a_run_whose_machine_is_lost_is_made_again_on_another(here, nodes, tmp_path, furnished):
    lost, store, news = nodes.add_node(num_cpus=1), Store(furnished(tmp_path / "store")), []
    nodes.wait_for_nodes()
    there = session_of(store, ["lora"], lambda found: cluster.Cluster("ray", 1, found.found["machine"]))
    told = there._told

    def listen(spec, emit, event):
        if not news:
            nodes.remove_node(lost)
            nodes.add_node(num_cpus=1)
        news.append(event)
        told(spec, emit, event)

    there._told = listen
    [second] = there.runs("lora")
    [first] = here.runs("lora")
    assert any("lost" in event.get("resumed", "") for event in news)
    assert first.steps == second.steps and adapter(here.store, first) == adapter(store, second)


@pytest.mark.slow
@pytest.mark.alone  # Ray takes a busy machine for a lost one
def test_a_stop_ends_the_runs_of_a_cluster_and_their_processes(nodes, tmp_path, furnished):
    nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    store, heard = Store(furnished(tmp_path / "store")), threading.Event()
    lasting = f"Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
    (tmp_path / "slow.py").write_text(whole("slow", step=lasting))
    method = str(tmp_path / "slow.py")
    there = session_of(store, [method], lambda found: cluster.Cluster("ray", 1, found.found["machine"]))
    there._told = lambda spec, emit, event: heard.set()
    with ThreadPoolExecutor() as pool:
        going = pool.submit(there.runs, "slow")
        assert heard.wait(120)
        end = time.monotonic() + 60
        while not (tmp_path / "pid").exists() and time.monotonic() < end:
            time.sleep(0.1)
        process = int((tmp_path / "pid").read_text())
        there.executor.stop()
        assert isinstance(going.exception(60), worker.Stopped)
    end = time.monotonic() + 30
    while Path(f"/proc/{process}").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(f"/proc/{process}").exists() and not list((store.root / "runs").iterdir())


@pytest.mark.slow
@pytest.mark.alone  # Ray takes a busy machine for a lost one
def test_a_cluster_without_what_a_run_needs_is_one_line(nodes):
    for _ in range(2):
        nodes.add_node(num_cpus=2)
    nodes.wait_for_nodes()
    # Four processors, and no machine has three of them.
    two = "0 GPUs and 2 processors"  # the head has none, and Ray names machines in any order
    with pytest.raises(UsageError, match=f"a run needs 3 processors of one machine, .*{two}.*{two}"):
        cluster.Cluster("ray", 0, {"device": "cpu", "threads": 3, "ranks": 1})
    assert cluster.Cluster("ray", 0, {"device": "cpu", "threads": 2, "ranks": 1}).count == 2
