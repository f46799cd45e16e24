"""The speed lab: it counts what torch counts, refuses unequal work, and documents take no memory."""

import functools
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy
import pytest
import torch
from computing import fine_tune
from torch.utils.flop_counter import FlopCounterMode

from bakeoff.config.hardware import has_bf16
from bakeoff.config.presets import load
from bakeoff.config.schema import TrainingSettings
from bakeoff.data.encoding import Encoded
from bakeoff.engine.virtual import virtual_tokens
from bakeoff.methods.selection import select
from bakeoff.runs.resources import Clock
from bakeoff.shipped import ROOT
from lab.growth import documents as growth
from lab.speed import measure, opponents, report, work
from lab.speed.flops import training_flops

METHODS = {entry.name: entry.kind for entry in select(["all"])}


def attached(tiny, name):
    model, tokenizer = tiny()
    torch.manual_seed(0)
    return METHODS[name](**({"untie": True} if name == "last-layer" else {})).attach(model, tokenizer)


@pytest.mark.parametrize("name", ["lora", "soft-prompt", "last-layer", "full"])
def test_derived_flops_are_what_torch_counts(tiny, name):
    model = attached(tiny, name)
    labelled = torch.zeros(1, 40, dtype=torch.bool)
    labelled[0, 29:39] = True
    with FlopCounterMode(display=False) as counter:
        keep = torch.nn.functional.pad(labelled, (virtual_tokens(model), 0))
        model(input_ids=torch.zeros(1, 40).long(), logits_to_keep=keep, use_cache=False).logits.sum().backward()
    assert training_flops(model, [(40, 10)], causal=False) == counter.get_total_flops()


def test_a_frozen_trunk_is_counted_once_over_the_epochs(tiny):
    model = attached(tiny, "last-layer")
    one, two, three = (training_flops(model, [(40, 10)], epochs) for epochs in (1, 2, 3))
    assert three - two == two - one == 2 * (2 * 10 * 257 * 32)


@pytest.mark.parametrize("name", ["lora", "soft-prompt", "last-layer"])
@pytest.mark.parametrize("micro", [2, 4])
def test_trainer_takes_the_same_steps_in_fp32(tiny, encoded, fp32, tmp_path, name, micro):
    recipe = TrainingSettings(epochs=2, batch_size=4, micro_batch_size=micro, learning_rate=1e-2)
    ours, theirs = attached(tiny, name), attached(tiny, name)
    curves = fine_tune(ours, encoded, encoded[:1], recipe, fp32, seed=3, pad=256, clock=Clock())
    bench = SimpleNamespace(model=theirs, recipe=recipe, train=encoded, validation=encoded[:1], seed=3, where=fp32,
                            tokenizer=SimpleNamespace(pad_token_id=256))  # fmt: skip
    losses, tokens = opponents.train(bench, bf16=False, grouped=False, folder=str(tmp_path))
    assert tokens == curves.tokens
    grouped, tokens = opponents.train(bench, bf16=False, grouped=True, folder=str(tmp_path))
    assert len(grouped) == len(losses) and tokens == curves.tokens
    assert work.same_curve(name, [step["loss"] for step in curves.steps], losses, bf16=False) < work.EXACT
    bench.model, bench.seed = attached(tiny, name), 4
    other, _ = opponents.train(bench, bf16=False, grouped=False, folder=str(tmp_path))
    with pytest.raises(work.Unequal, match="losses of step"):
        work.same_curve(name, other, losses, bf16=False)


@pytest.mark.parametrize("ours", [[3.0, 2.0002], [3.0, float("nan")], [3.0], []])
def test_another_loss_curve_is_refused(ours):
    with pytest.raises(work.Unequal, match=r"lora: (losses of step 2|\d optimizer steps)"):
        work.same_curve("lora", ours, [3.0, 2.0], bf16=False)


def test_other_logits_texts_and_token_counts_are_refused():
    logits = numpy.log(numpy.full((2, 4), 0.25))
    assert work.same_logits("lora", logits, logits + 1e-6, bf16=False) < 1e-5
    with pytest.raises(work.Unequal, match="log-probabilities"):
        work.same_logits("lora", logits, logits + 2 * work.BF16_LOGITS, bf16=True)
    with pytest.raises(work.Unequal, match="text 2 is 'b' and 'c'"):
        work.same_texts("lora", ["a", "b"], ["a", "c"])
    with pytest.raises(work.Unequal, match="lora, tokens: 90 against 100"):
        work.same_number("lora, tokens", 90, 100, within=0.05)


def test_a_ratio_has_its_median_minimum_and_interval():
    theirs, ours = [[arm(seconds, round=n) for n, seconds in some] for some in (
        [(1, 2.0), (2, 4.0), (4, 6.0)], [(1, 1.0), (2, 1.0), (3, 9.0), (4, 2.0)])]  # fmt: skip
    found = report.ratio(theirs, ours, "seconds")
    assert (found["median"], found["minimum"], found["rounds"]) == (3.0, 2.0, 3)
    assert found["low"] < found["median"] < found["high"]
    assert report.ratio(theirs[:1], ours, "seconds")["low"] is None


def arm(seconds, others=0.0, **more):
    found = {"seconds": seconds, "training": seconds, "peak": 10**6, "flops": 5e9, "round": 1, "losses": [2.0, 1.0]}
    return {**found, "load": {"others": others}, **more}


def test_the_report_holds_ratios_utilisation_and_doubts(tmp_path):
    arms = {"train/quick/lora/bakeoff/bf16/all": [arm(1.0), arm(1.1, round=2)],
            "train/quick/lora/trainer/bf16/all": [arm(3.0), arm(6.0, others=0.4, round=2)]}  # fmt: skip
    peaks = {"quick": {number: {"4096 x 4096 x 4096": 1e10} for number in (1, 2)}}
    lab = SimpleNamespace(found=arms, peaks=peaks, checks=[], precision="bf16", left_out=["round 1: writing"])
    text = report.write(tmp_path, lab, [])
    result = json.loads((tmp_path / "results.json").read_text())
    assert {row["phase"] for row in result["ratios"]} == {"train", "memory"}
    mfu = {"method": "lora", "shape": "quick", "steps": 2, "value": pytest.approx(0.477, abs=0.01)}
    assert result["mfu"] == [mfu]
    assert "left out for lack of time: round 1: writing" in text
    assert "others used up to 40%" in text and "its rounds took 3.0 to 6.0 s" in text
    assert (tmp_path / "ratios.png").stat().st_size > 0 and "MFU" in (tmp_path / "report.md").read_text()


def test_utilisation_is_that_of_a_methods_longest_training():
    short, long = arm(1.0), arm(4.0, flops=3e10, losses=[1.0] * 9)
    arms = {f"train/quick/lora/bakeoff/bf16/{part}": [found] for part, found in (("all", short), ("whole", long))}
    peaks = {"quick": {1: {"4096 x 4096 x 4096": 1e10, "1440 x 576 x 576": 1.5e10}}}
    for found in (arms, dict(reversed(arms.items()))):
        assert report.utilisation(found, peaks, "bf16") == [
            {"method": "lora", "shape": "quick", "steps": 9, "value": pytest.approx(0.5)}
        ]


class Timed:
    """A lab whose clock is what its comparisons say they take."""

    def __init__(self, seconds):
        self.round, self.left_out, self.now, self.done, self.costs = 0, [], 0, [], seconds

    def elapsed(self):
        return self.now

    def run(self, what):
        self.now += self.costs[what]
        self.done.append(f"{self.round} {what}")


@pytest.mark.parametrize(
    ("seconds", "done", "left_out"),
    [
        (100, "1 utilisation,1 training, a,1 training, b,1 switch,2 utilisation,2 training, a,2 training, b", []),
        (90, "1 utilisation,1 training, a,1 training, b,1 switch", []),
        (
            70,
            "1 utilisation,1 training, a,1 training, b",
            ["round 1: switch"],
        ),  # as long as the longest so far
        (
            50,
            "1 utilisation,1 training, a",
            ["round 1: training, b", "round 1: switch"],
        ),  # as its kind
    ],
)
def test_what_would_take_longer_than_is_left_is_left_out(monkeypatch, seconds, done, left_out):
    lab = Timed({"utilisation": 1, "training, a": 25, "training, b": 20, "switch": 8})

    def one_round(lab, shapes, methods, phases, first):
        names = ["utilisation", "training, a", "training, b", *["switch"] * first]
        return [(name, functools.partial(lab.run, name)) for name in names]

    monkeypatch.setattr(measure, "one_round", one_round)
    measure.compare(lab, [], [], [], 5, seconds)
    assert ",".join(lab.done) == done
    assert lab.left_out == left_out


@pytest.mark.slow
def test_the_short_lab_runs_from_end_to_end_and_times_nothing_in_earnest(tmp_path, furnished):
    furnished(tmp_path / "store")
    reports = tmp_path / "reports"
    typed = ["-m", "lab.speed", "--short", "--store", str(tmp_path / "store"), "--reports", str(reports)]
    subprocess.run([sys.executable, *typed], cwd=ROOT, check=True, timeout=600)
    result = json.loads((reports / "results.json").read_text())
    assert {"train", "generate", "memory"} == {row["phase"] for row in result["ratios"]}
    own = result["precision"]
    assert own == ("bf16" if has_bf16("cpu") else "fp32")
    wanted = {"trainer fp32", f"trainer {own}", f"generate-2 {own}", f"without fused {own}", f"without compiled {own}"}
    assert wanted <= {row["opponent"] for row in result["ratios"]}
    assert len(result["growth"]) == 2 and result["scored"]["same"] == result["scored"]["compared"] == 100


@pytest.mark.slow
@pytest.mark.alone
def test_ten_times_the_documents_take_no_more_memory_and_no_quadratic_time(tmp_path):
    sizes = (1_000, 10_000)
    rows = growth.measure(tmp_path, tmp_path, tmp_path / "log", sizes, load("smoke").model)
    assert rows[1]["resident_bytes"] - rows[0]["resident_bytes"] < 20e6
    assert growth.linear(rows) < 1.7  # 2 would be quadratic; a busy machine moves it
    assert rows[1]["tokens"] > 9 * rows[0]["tokens"]


def test_a_padded_batch_of_the_trainer_masks_and_labels_nothing_behind_a_text():
    rows = [opponents.row(Encoded([5, 6, 7], 2)), opponents.row(Encoded([8, 9], 1))]
    batch = opponents.collate(rows, pad=9)
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 7], [-100, 9, -100]]
