"""One run in several processes: the losses of one process, killed and resumed, and what a lost process means."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from baking import SMALL, adapter

from bakeoff.config import hardware, presets
from bakeoff.config.schema import Computation, EngineSettings, MachineSettings
from bakeoff.core.errors import UsageError
from bakeoff.core.events import silent
from bakeoff.data.encoding import Encoded
from bakeoff.runs import pipeline, ranks
from bakeoff.runs.checkpoints import Checkpointer
from bakeoff.runs.ranks import Alone, Ranks
from bakeoff.runs.resources import Clock
from bakeoff.session import plan, worker
from bakeoff.session.progress import Progress
from bakeoff.session.session import Session
from bakeoff.session.store import Store

RECIPE = ["training.batch_size=4", "training.micro_batch_size=1", "training.epochs=2", "task.train=7"]


def session_of(store, ranks, method, *changes):
    worker.start_server(offline=True)
    asked = [*SMALL, *RECIPE, f"machine.threads={ranks}", f"machine.ranks={ranks}", *changes]
    chosen = presets.load("smoke", seeds="1", changes=asked)
    return Session(plan.make(chosen, [method], store), store, Progress(None, live=False))


def test_where_weights_are_sharded_every_rank_computes_as_many_documents():
    documents = [Encoded(tuple(range(length)), 1) for length in (9, 4, 7, 3)]
    shares = [Ranks(rank, 3, sharded=True).share(documents) for rank in range(3)]
    assert [[len(one.ids) for one in share] for share in shares] == [[3, 9], [4, 3], [7, 3]]
    labels = [len(one.ids) - one.prompt for share in shares for one in share]
    assert sum(labels) == sum(len(one.ids) - one.prompt for one in documents)


def processes():
    """The processes of other ranks, by their command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"bakeoff.runs.ranks" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


def test_one_process_computes_every_document_as_it_stands():
    documents = [Encoded((1, 2, 3), 1), Encoded((1, 2), 1)]
    assert Alone().share(documents) is documents


def test_a_connection_that_is_reset_is_a_lost_rank(monkeypatch, capfd):
    """What gloo raises in rank 0 may come before the thread that waits for the lost rank wakes."""
    monkeypatch.setattr(ranks, "watch", lambda *given: None)
    monkeypatch.setattr(ranks, "joined", lambda *given: contextlib.nullcontext(Alone()))

    @contextlib.contextmanager
    def dead(*given):
        with subprocess.Popen([sys.executable, "-c", "print('ready', flush=True); raise SystemExit(3)"],
                              stdout=subprocess.PIPE, text=True) as process:  # fmt: skip
            yield process

    monkeypatch.setattr(ranks, "started", dead)
    monkeypatch.setattr(ranks.os, "_exit", sys.exit)
    spec = SimpleNamespace()
    monkeypatch.setattr(ranks, "asdict", vars)
    where = Computation(device="cpu", precision="fp32", attention="eager", threads=2, engine="plain", ranks=2)
    with pytest.raises(SystemExit) as ended, ranks.assembled(spec, where, Path("cache")):
        raise RuntimeError("Connection reset by peer")
    assert ended.value.code == ranks.LOST
    assert "rank 1 ended with exit code 3 while the run was made" in capfd.readouterr().err


def test_what_a_library_prints_before_a_rank_is_ready_is_passed_over(monkeypatch):
    monkeypatch.setattr(ranks, "joined", lambda *given: contextlib.nullcontext(Alone()))
    monkeypatch.setattr(ranks, "asdict", vars)

    @contextlib.contextmanager
    def talkative(*given):
        code = "import sys; print('a banner'); print('ready', flush=True); sys.stdin.read()"
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True) as process:  # fmt: skip
            yield process
            process.kill()

    monkeypatch.setattr(ranks, "started", talkative)
    where = Computation(device="cpu", precision="fp32", attention="eager", threads=2, engine="plain", ranks=2)
    with ranks.assembled(SimpleNamespace(), where, Path("cache")) as found:
        assert isinstance(found, Alone)


class Slow(Checkpointer):
    """As on a disk that takes seconds for a checkpoint."""

    def save(self, state):
        time.sleep(4)


@pytest.mark.slow
def test_other_ranks_stay_until_the_first_has_written_what_all_made(tmp_path, furnished, monkeypatch):
    lost = []
    monkeypatch.setattr(ranks, "end", lambda *given: lost.append(given))
    store = Store(furnished(tmp_path / "store"))
    [spec] = session_of(store, 2, "lora").plan.specs["lora"]
    result, _ = pipeline.run(spec, tmp_path, store.models, silent, Clock(), Slow())
    assert len(result.epochs) == 3 and lost == [] and not processes()


def test_documents_are_dealt_out_to_ranks_by_length():
    documents = [Encoded(tuple(range(length)), 1) for length in (9, 4, 7, 3, 5)]
    shares = [[len(one.ids) for one in Ranks(rank, 3).share(documents)] for rank in range(3)]
    assert shares == [[3, 7], [4, 9], [5]]


def test_ranks_are_those_of_the_machine_that_makes_the_run(monkeypatch):
    """The one that plans may be another: a cluster's front end has one card, or a processor of many threads."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **given: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(hardware, "available_threads", lambda: 128)
    found = hardware.resolve(MachineSettings(device="cuda", ranks=3), EngineSettings())
    assert (found.ranks, found.threads) == (3, hardware.BESIDE)
    assert hardware.resolve(MachineSettings(device="cuda", threads=99), EngineSettings()).threads == 99


@pytest.mark.parametrize("asked, said", [
    ({"sharded": True}, r"machine.sharded: there is one rank; type --set machine.ranks=2"),
    ({"sharded": True, "ranks": 2, "engine": "cpu"}, r"machine.engine = 'cpu': weights that are sharded take 'plain'"),
])  # fmt: skip
def test_what_weights_that_are_sharded_need_is_asked_for_at_once(asked, said):
    with pytest.raises(UsageError, match=said):
        hardware.resolve(MachineSettings(device="cpu", **asked), EngineSettings())


@pytest.mark.slow
def test_four_ranks_have_the_losses_of_one(tmp_path, furnished):
    """AdaLoRA has a penalty, which one rank alone may add; seven documents leave a last step of three."""
    [one] = session_of(Store(furnished(tmp_path / "one")), 1, "adalora").runs("adalora")
    [four] = session_of(Store(furnished(tmp_path / "four")), 4, "adalora").runs("adalora")
    assert one.fingerprint != four.fingerprint and len(one.steps) == len(four.steps) == 4
    for first, second in zip(one.steps, four.steps, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
        assert first["gradient_norm"] == pytest.approx(second["gradient_norm"], rel=1e-4)
    for first, second in zip(one.epochs, four.epochs, strict=True):
        assert first["validation_loss"] == pytest.approx(second["validation_loss"], rel=1e-5)
    assert not processes()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("phase, more", [("training", ()), ("evaluation", ("machine.sharded=true",))])
def test_a_run_of_two_ranks_goes_on_to_the_bit_and_dies_with_one_of_them(tmp_path, furnished, phase, more):
    """Where the weights are shared, all ranks write, so that a rank is missed then, too."""
    changes = ("methods.lora.dropout=0.5", "durability.checkpoint_steps=1", "generation.batch_size=1", *more)
    whole = session_of(Store(furnished(tmp_path / "whole")), 2, "lora", *changes)
    [expected] = whole.runs("lora")
    broken = session_of(Store(furnished(tmp_path / "broken")), 2, "lora", *changes)
    told, steps = broken._told, []

    def listen(spec, emit, news):
        told(spec, emit, news)
        if news.get("phase") == phase:
            steps.append(news)
            if len(steps) == 2:
                for process in processes():
                    os.kill(process, signal.SIGKILL)

    broken._told = listen
    with pytest.raises(worker.Died, match="exit code 70"):
        broken.runs("lora")
    again = session_of(Store(tmp_path / "broken"), 2, "lora", *changes)
    resumed = []
    again.progress.say = lambda spec, text: resumed.append(text)
    [found] = again.runs("lora")
    assert any("goes on after step" in text for text in resumed)
    assert again.store.predictions(found.fingerprint) == whole.store.predictions(expected.fingerprint)
    assert found.steps == expected.steps and found.epochs == expected.epochs
    assert adapter(again.store, found) == adapter(whole.store, expected)
    assert not processes()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "soft-prompt", "last-layer"])
def test_two_ranks_that_share_the_weights_give_the_run_of_one(tmp_path, furnished, method):
    """Forgetting and inference are measured, too; a checkpoint and texts come from the ranks together."""
    asked = ("machine.engine=plain", "measure.forgetting=2", "measure.inference=1")
    [one] = session_of(Store(furnished(tmp_path / "one")), 1, method, *asked).runs(method)
    two = session_of(Store(furnished(tmp_path / "two")), 2, method, *asked, "machine.sharded=true")
    [shared] = two.runs(method)
    for first, second in zip(one.steps, shared.steps, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
    assert one.forgetting == pytest.approx(shared.forgetting, rel=1e-4)
    assert one.parameters == shared.parameters and shared.inference
    assert shared.evidence["frozen_before"] == shared.evidence["frozen_after"] == one.evidence["frozen_after"]
    assert shared.evidence["trained"] == shared.evidence["reloaded_trained"]
    assert [row["summary"] == row["again"] for row in shared.evidence["reloaded"]] == [True] * 3
    assert not processes()
