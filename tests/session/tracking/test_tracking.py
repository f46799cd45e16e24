"""Trackers: real MLflow and TensorBoard files are read back, and what fails is a line that stops nothing."""

import io
import threading

import pytest
from factories import run

from bakeoff.config import presets
from bakeoff.core.errors import UsageError
from bakeoff.runs.records import RunSpec
from bakeoff.session import plan, tracking, worker
from bakeoff.session.progress import Progress
from bakeoff.session.session import Session
from bakeoff.session.store import Store
from bakeoff.session.tracking import Tracking, trackers

SPEC = RunSpec(
    method="lora:rank=8", base="lora", control=False, method_file="lora.py", hyperparameters={"rank": 8}, seed=42,
    model={"name": "random"}, task={"name": "aclsum/outcome"}, training={"epochs": 1}, generation={}, scoring={},
    measure={}, machine={"device": "cpu"}, hashes={}, versions={},
)  # fmt: skip
SMALL = ["task.train=4", "task.validation=2", "task.test=3", "task.max_target_tokens=8", "machine.threads=1"]


def feed(tracked, report):
    """What a session says of a run of three steps, of one that dies, and of its report."""
    tracked.begun(SPEC)
    for step in (1, 2, 3):
        tracked.told(SPEC, {"phase": "training", "step": step, "loss": 4.0 - step, "tokens": 10 * step, "seconds": 1.0})
    tracked.told(SPEC, {"phase": "validation", "epoch": 1, "epochs": 1, "training_loss": 2.0, "validation_loss": 1.5})
    tracked.told(SPEC, {"phase": "evaluation", "done": 0, "documents": 3})
    tracked.finished(SPEC, run("lora"))
    tracked.begun(SPEC)
    tracked.died(SPEC)
    tracked.reported({"lora/rouge1": 0.37}, {"preset": "smoke"}, report)
    tracked.close()
    return tracked.complained()


@pytest.fixture
def report(tmp_path):
    """A folder as a report is."""
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.md").write_text("# Bake-off\n")
    return tmp_path / "report"


@pytest.mark.slow
def test_mlflow_and_tensorboard_hold_curves_scores_and_the_report(tmp_path, report, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert feed(Tracking(["mlflow", "tensorboard"], "smoke-1", tmp_path / "tracking"), report) == []

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{(tmp_path / 'tracking' / 'mlflow' / 'mlflow.db').as_posix()}")
    found = client.search_runs([client.get_experiment_by_name("bakeoff").experiment_id])
    by_status = {(one.info.run_name, one.info.status): one for one in found}
    assert set(by_status) == {("lora:rank=8-seed42", "FINISHED"), ("lora:rank=8-seed42", "FAILED"),
                              ("report", "FINISHED")}  # fmt: skip
    made = by_status["lora:rank=8-seed42", "FINISHED"]
    history = client.get_metric_history(made.info.run_id, "training/loss")
    assert [(one.step, one.value) for one in history] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    [validation] = client.get_metric_history(made.info.run_id, "validation/loss")
    assert (validation.step, validation.value) == (3, 1.5) and made.data.params["hyperparameters.rank"] == "8"
    assert made.data.metrics["scores/rouge1"] == pytest.approx(sum(run("lora").scores["rouge1"]) / 20)
    kept = by_status["report", "FINISHED"]
    assert kept.data.metrics == {"lora/rouge1": 0.37}
    assert [one.path for one in client.list_artifacts(kept.info.run_id, "report")] == ["report/report.md"]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    def read(name):
        files = EventAccumulator(str(tmp_path / "tracking" / "tensorboard" / "smoke-1" / name))
        return {tag: [(one.step, make_ndarray(one.tensor_proto).item()) for one in files.Reload().Tensors(tag)]
                for tag in files.Reload().Tags()["tensors"]}  # fmt: skip

    curves = read("lora-rank-8-seed42")
    assert curves["training/loss"] == [(1, 3.0), (2, 2.0), (3, 1.0)] and curves["validation/loss"] == [(3, 1.5)]
    assert read("report")["report/text_summary"] == [(0, b"# Bake-off\n")]


class Broken:
    """A tracker that raises at the call of a name."""

    def __init__(self, at, calls):
        self.at, self.calls = at, calls
        self._call("open")

    def _call(self, name, *given, **more):
        self.calls.append(name)
        if name == self.at:
            raise SystemExit("no\nsecond line \x1b[31m")

    def __getattr__(self, name):
        return lambda *given, **more: self._call(name, *given, **more)


@pytest.mark.parametrize("at", ["open", "begin", "log", "end", "report", "close"])
def test_a_tracker_that_raises_at_any_call_is_one_line_and_the_other_goes_on(monkeypatch, tmp_path, report, at):
    broken, whole = [], []
    monkeypatch.setitem(trackers.TRACKERS, "wandb", lambda group, place: Broken(at, broken))
    monkeypatch.setitem(trackers.TRACKERS, "trackio", lambda group, place: Broken("", whole))
    [line] = feed(Tracking(["wandb", "trackio"], "g", tmp_path), report)
    assert line == "--track wandb failed and is off for the rest of this bake-off: SystemExit: no"
    assert broken[-1] == at and broken.count(at) == 1
    assert whole == ["open", "begin", *["log"] * 4, "end", "begin", "end", "report", "close"]


def test_a_tracker_that_hangs_delays_the_end_and_nothing_else(monkeypatch, tmp_path, report):
    stuck = threading.Event()
    monkeypatch.setattr(tracking, "CLOSING", 0.1)
    monkeypatch.setattr(tracking, "OPENING", 0.1)
    monkeypatch.setitem(trackers.TRACKERS, "wandb", lambda group, place: stuck.wait(60))
    tracked = Tracking(["wandb"], "g", tmp_path)
    tracked.wait()
    assert feed(tracked, report) == ["--track wandb: not everything was written in 0.1 s"]
    stuck.set()


def test_a_name_that_is_not_known_or_not_installed_is_refused_with_what_to_type(monkeypatch):
    with pytest.raises(UsageError, match=r"--track 'mlfow' is not known; did you mean 'mlflow'\?"):
        tracking.chosen(["tensorboard,mlfow"])
    monkeypatch.setitem(tracking.NEEDED, "wandb", ("a_module_that_nobody_has", "pip install 'wandb>=0.31,<0.32'"))
    with pytest.raises(UsageError, match=r"--track wandb: it is not installed; type pip install 'wandb>="):
        tracking.chosen(["wandb"])
    assert tracking.chosen(["mlflow, tensorboard", "mlflow"]) == ["mlflow", "tensorboard"]


@pytest.mark.slow
def test_a_bake_off_without_its_server_ends_as_without_a_tracker(tmp_path, monkeypatch, furnished):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    worker.start_server(offline=True)
    store, printed = Store(furnished(tmp_path / "store")), io.StringIO()
    planned = plan.make(presets.load("smoke", changes=SMALL), ["lora"], store)
    tracked = Tracking(["mlflow", "tensorboard"], "smoke-1", tmp_path / "tracking")
    session = Session(planned, store, Progress(printed, live=False), tracking=tracked)
    [made] = session.runs("lora")
    text = session.report(tmp_path / "report")
    assert printed.getvalue().count("--track mlflow failed and is off") + text.count("--track mlflow failed") == 1
    assert len(list((tmp_path / "tracking" / "tensorboard" / "smoke-1" / "lora-seed42").iterdir())) == 2
    assert (tmp_path / "history" / "smoke.jsonl").read_text().count("\n") == 1
    [again] = Session(planned, Store(furnished(tmp_path / "other")), Progress(None, live=False)).runs("lora")
    assert again.fingerprint == made.fingerprint and again.scores == made.scores
