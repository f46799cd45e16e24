"""Runs that are killed in the middle go on to the same bits, wherever they are made."""

import pytest
from baking import SMALL, adapter, whole

from bakeoff.config import presets
from bakeoff.session import plan, worker
from bakeoff.session.executors import cluster, local, slurm
from bakeoff.session.progress import Progress
from bakeoff.session.session import Session
from bakeoff.session.store import Store

pytestmark = pytest.mark.slow

MORTAL = """
if step == 3 and len(list(Path(self.place).iterdir())) < 2:
    Path(self.place, str(os.getpid())).touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
EXECUTORS = {
    "local": lambda store, machine: local.shares(store, 2),
    "slurm": lambda store, machine: slurm.Slurm(store, 2, machine, "local"),
    "ray": lambda store, machine: cluster.Cluster("ray", 2, machine),
}
ALONE = pytest.param("ray", marks=pytest.mark.alone)  # Ray takes a busy machine for a lost one


@pytest.fixture
def session(tmp_path, monkeypatch, furnished, executor, request):
    """A function that makes a session of two runs on a store, each of which is killed at its third step, once."""
    if executor == "ray":  # before the sessions, which end before the cluster does
        request.getfixturevalue("ray_cluster")(2)
    (tmp_path / "mortal.py").write_text(whole("mortal", step=MORTAL))
    (tmp_path / "deaths").mkdir()
    monkeypatch.setenv("BAKEOFF_NODE_STORE", str(tmp_path / "node"))
    worker.start_server(offline=True)
    changes = [*SMALL, "training.epochs=3", "training.batch_size=2", "durability.checkpoint_steps=1",
               f"methods.mortal.place={tmp_path / 'deaths'}"]  # fmt: skip

    made = []

    def make(name, executor=None):
        store = Store(furnished(tmp_path / name))
        planned = plan.make(presets.load("smoke", seeds="1,2", changes=changes), [str(tmp_path / "mortal.py")], store)
        chosen = executor and EXECUTORS[executor](store, planned.found["machine"])
        made.append(Session(planned, store, Progress(None, live=False), executor=chosen))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.mark.parametrize("executor", ["local", "slurm", ALONE])
def test_killed_runs_are_dead_as_on_one_machine_and_go_on_to_the_bit(session, executor):
    first, said = session("there", executor), []
    for run in first.asked("mortal"):
        with pytest.raises(worker.Died, match="killed by signal 9"):
            run()
    first.stop()
    again = session("there", executor)
    again.progress.say = lambda spec, text: said.append(text)
    found = again.runs("mortal")
    again.stop()
    assert sum("goes on after step" in text for text in said) == 2
    for one, other in zip(found, session("here").runs("mortal"), strict=True):
        assert one.fingerprint == other.fingerprint and one.steps == other.steps and one.scores == other.scores
        assert adapter(again.store, one) == adapter(session("here").store, other)
