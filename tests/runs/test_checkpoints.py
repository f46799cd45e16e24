"""An interrupted run goes on to the bit, from files that are what was written."""

import dataclasses
import os
import random
import shutil
import threading

import numpy
import pytest
import torch
from computing import fine_tune, summarise
from safetensors.torch import load_file

from bakeoff.config.schema import DurabilitySettings, GenerationSettings, TaskSettings, TrainingSettings
from bakeoff.data.encoding import Encoder
from bakeoff.methods.selection import select
from bakeoff.runs import checkpoints, training
from bakeoff.runs.checkpoints import Checkpointer, Chunk, seal, unseal
from bakeoff.runs.resources import Clock, Memory

METHODS = {entry.name: entry for entry in select(["all"])}
EVERY_TWO = DurabilitySettings(checkpoint_seconds=0, checkpoint_steps=2)


class Killed(BaseException):
    """Stands for SIGKILL."""


def seeded():
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def train(tiny, encoded, fp32):
    """Trains a tiny LoRA with dropout for 3 epochs of 4 steps; dies after `steps` steps where given."""

    def run(partial, steps=None, method="lora", hyperparameters=None):
        seeded()
        model, tokenizer = tiny()
        values = {"dropout": 0.3} if method == "lora" else {}
        model = METHODS[method].kind(**values).attach(model, tokenizer)
        recipe = TrainingSettings(batch_size=2, micro_batch_size=1, epochs=3, learning_rate=1e-2)

        def tell(news):
            random.random(), numpy.random.rand()  # a method may draw from any of them
            if steps is not None and news["phase"] == "training" and news["step"] == steps + 1:
                raise Killed

        try:
            curves = fine_tune(model, encoded, encoded[:3], recipe, fp32, seed=7, pad=256, clock=Clock(), emit=tell,
                               checkpointer=partial)  # fmt: skip
        finally:
            partial.beside.shutdown()  # what it still writes or removes
        weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        return vars(curves), weights, (random.random(), numpy.random.rand(), torch.rand(1).item())

    return run


def same(one, other):
    assert one[0] == other[0] and one[2] == other[2]
    assert one[1].keys() == other[1].keys()
    return all(torch.equal(value, other[1][name]) for name, value in one[1].items())


@pytest.mark.parametrize("steps", range(12))
def test_training_killed_after_any_step_ends_as_if_it_had_not_been(train, tmp_path, steps):
    whole = train(Checkpointer())
    with pytest.raises(Killed):
        train(Checkpointer(tmp_path, EVERY_TWO), steps)
    again = Checkpointer(tmp_path, EVERY_TWO)
    assert same(train(again), whole)
    assert again.repeated(12) == steps % 2 + 1  # since the last checkpoint, the unfinished one included


@pytest.mark.parametrize("method", ["full", "last-layer", "soft-prompt"])
def test_every_method_goes_on(train, tmp_path, method):
    whole = train(Checkpointer(), method=method)
    for steps in (3, 7, 8):
        with pytest.raises(Killed):
            train(Checkpointer(tmp_path, EVERY_TWO), steps, method)
    last = Checkpointer(tmp_path, EVERY_TWO)
    assert same(train(last, method=method), whole)
    assert last.repeated(12) == 2 + 2 + 1  # it went on, each time from the last even step


def test_steps_computed_again_are_counted_over_all_processes(train, tmp_path):
    for steps in (1, 5, 5, 11):
        with pytest.raises(Killed):
            train(Checkpointer(tmp_path, DurabilitySettings(checkpoint_seconds=0)), steps)
    last = Checkpointer(tmp_path, DurabilitySettings(checkpoint_seconds=0))
    train(last)
    # Checkpoints stand at 4 and 8 steps only; steps 2, 6, 6 and 12 died unfinished: 2 - 0, 6 - 4, 6 - 4, 12 - 8.
    assert last.repeated(12) == 2 + 2 + 2 + 4


def test_a_checkpoint_is_due_by_steps_or_by_seconds(train, tmp_path):
    for name, due, expected in (
        ("never", DurabilitySettings(checkpoint_seconds=0), 3),
        ("steps", DurabilitySettings(checkpoint_seconds=0, checkpoint_steps=3), 6),
        ("seconds", DurabilitySettings(checkpoint_seconds=1e-9), 15),
    ):
        train(Checkpointer(tmp_path / name, due))
        [*_, newest] = sorted((tmp_path / name).glob("checkpoint-*.json"))
        assert newest.stem == f"checkpoint-{expected:08}"
        assert len(list((tmp_path / name).glob("checkpoint-*"))) == 2 * checkpoints.KEPT


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_the_best_weights_are_known_whenever_they_were_written(train, tmp_path, monkeypatch, epoch):
    losses = iter([3.0, *(1.0 if number == epoch else 2.0 for number in (1, 2, 3))] * 5)
    monkeypatch.setattr(training, "mean_loss", lambda *arguments: next(losses))
    whole = train(Checkpointer(tmp_path, DurabilitySettings(checkpoint_seconds=0)))
    assert [row["epoch"] for row in whole[0]["epochs"] if row["best"]] == [epoch]
    held = [{name.split(".")[0] for name in load_file(file)} for file in sorted(tmp_path.glob("*.safetensors"))]
    assert held == [{"kept", "optimizer", "trained"}, {"kept", "trained"}]  # of the epochs before, where they ended
    assert same(train(Checkpointer(tmp_path, DurabilitySettings(checkpoint_seconds=0))), whole)  # from the last
    for file in tmp_path.glob("checkpoint-00000003.*"):
        file.unlink()
    losses = iter([1.0 if epoch == 3 else 2.0])
    assert same(train(Checkpointer(tmp_path, DurabilitySettings(checkpoint_seconds=0))), whole)  # from the one before


def test_tensors_are_written_while_validation_computes(train, tmp_path, monkeypatch):
    validated, written = threading.Event(), []

    def validation(*arguments, real=training.mean_loss):
        found = real(*arguments)
        validated.set()
        return found

    def writing(*arguments, real=checkpoints.save_tensors):
        written.append(validated.wait(60))
        validated.clear()
        return real(*arguments)

    whole = train(Checkpointer())
    monkeypatch.setattr(training, "mean_loss", validation)
    monkeypatch.setattr(checkpoints, "save_tensors", writing)
    assert same(train(Checkpointer(tmp_path, DurabilitySettings(checkpoint_seconds=0))), whole)
    assert written == [True] * 3


@pytest.mark.parametrize("kind", ["json", "safetensors"])
@pytest.mark.parametrize("damage", ["flip", "tear", "empty", "lose"])
def test_a_damaged_checkpoint_is_not_believed_and_the_one_before_is(train, tmp_path, kind, damage):
    whole = train(Checkpointer())
    with pytest.raises(Killed):
        train(Checkpointer(tmp_path, EVERY_TWO), 7)
    [*_, newest] = sorted(tmp_path.glob(f"checkpoint-*.{kind}"))
    content = newest.read_bytes()
    if damage == "lose":
        newest.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        newest.write_bytes({"flip": flipped, "tear": content[:-1], "empty": b""}[damage])
    said = []
    again = Checkpointer(tmp_path, EVERY_TWO, emit=said.append)
    assert same(train(again), whole)
    assert again.repeated(12) == 4  # 5 to 8, from 4 instead of 6
    assert damage == "lose" or "is damaged and not believed" in said[0]["resumed"]


@pytest.mark.parametrize("damage", ["no page", "a torn page"])
def test_what_is_not_believed_takes_no_checkpoint_s_place(train, tmp_path, damage):
    whole = train(Checkpointer())
    with pytest.raises(Killed):
        train(Checkpointer(tmp_path, EVERY_TWO), 5)  # after the checkpoints of step 4 and of the epoch's end
    [*_, newest] = sorted(tmp_path.glob("checkpoint-*.json"))
    newest.unlink() if damage == "no page" else newest.write_bytes(newest.read_bytes()[1:])
    with pytest.raises(Killed):
        train(Checkpointer(tmp_path, EVERY_TWO), 7)  # goes on from step 4 and writes one more
    [*_, newest] = sorted(tmp_path.glob("checkpoint-*.json"))
    newest.write_bytes(b"")
    again = Checkpointer(tmp_path, EVERY_TWO)
    before = again.computed()
    assert same(train(again), whole)
    assert again.computed() - before == 12 - 4  # not all 12


def test_without_a_checkpoint_to_believe_training_starts_again(train, tmp_path):
    whole = train(Checkpointer())
    with pytest.raises(Killed):
        train(Checkpointer(tmp_path, EVERY_TWO), 7)
    for file in tmp_path.glob("checkpoint-*.json"):
        file.write_bytes(file.read_bytes()[1:])
    again = Checkpointer(tmp_path, EVERY_TWO)
    assert same(train(again), whole) and again.repeated(12) == 8


def test_a_checkpoint_of_another_run_or_schema_is_not_believed(train, tmp_path, monkeypatch):
    with pytest.raises(Killed):
        train(Checkpointer(tmp_path / "one", EVERY_TWO), 7)
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    assert list(Checkpointer(tmp_path / "one")._checkpoints()) and not list(
        Checkpointer(tmp_path / "other")._checkpoints()
    )
    monkeypatch.setattr(checkpoints, "SCHEMA", checkpoints.SCHEMA + 1)
    assert not list(Checkpointer(tmp_path / "one")._checkpoints())


@pytest.mark.parametrize("broken", ["save_tensors", "write_whole", "arrive"])
def test_a_checkpoint_that_can_not_be_written_leaves_the_older_ones_and_no_rest(train, tmp_path, monkeypatch, broken):
    whole = train(Checkpointer())
    with pytest.raises(Killed):
        train(Checkpointer(tmp_path, EVERY_TWO), 5)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    partial = Checkpointer(tmp_path, EVERY_TWO)
    found = list(partial._checkpoints())
    with monkeypatch.context() as patch:
        patch.setattr(partial, "_checkpoints", lambda: iter(found))
        patch.setattr(checkpoints, broken, full)
        with pytest.raises(OSError, match="No space left"):
            train(partial)
    assert not list(tmp_path.glob(".*"))
    assert same(train(Checkpointer(tmp_path, EVERY_TWO)), whole)


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    (tmp_path / ".checkpoint-00000001.safetensors.new").write_bytes(b"half")
    Checkpointer(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_resumed_run_books_what_counts_and_keeps_its_peak(train, tmp_path):
    class Level:
        def __init__(self):
            self.before = {}

        def read(self):
            return {"max_resident": 5}

        def raise_to(self, peaks):
            self.before = peaks

    first = Checkpointer(tmp_path, EVERY_TWO, Clock())
    first.memory = Level()
    first.clock.seconds["training"] = 100.0
    with pytest.raises(Killed):
        train(first, 3)
    second = Checkpointer(tmp_path, EVERY_TWO, Clock())
    second.memory = Level()
    train(second)
    assert 100 <= second.clock.seconds["training"] < 150
    assert second.memory.before == {"max_resident": 5}


@pytest.fixture
def write(tiny, task, fp32):
    """Writes summaries of eight documents in four chunks; dies after `chunks` of them where given."""

    padded = dataclasses.replace(fp32, packing=False)

    def run(partial, chunks=None, weights="w"):
        model, tokenizer = tiny()
        encoder = Encoder(tokenizer, task, TaskSettings(max_input_tokens=96))
        prompts = [encoder.prompt(example)[0] for example in task.examples.train]
        decoded = []

        def keep(number, chunk):
            if chunks is not None and len(decoded) == chunks:
                raise Killed
            decoded.append(number)
            partial.keep(weights, number, chunk)

        cut = set()
        found = summarise(model, tokenizer, prompts, 8, GenerationSettings(batch_size=2), padded,
                          done=partial.summaries(weights), keep=keep, cut=cut)  # fmt: skip
        return (*found, cut), decoded

    return run


@pytest.mark.parametrize("chunks", range(4))
def test_finished_summaries_are_not_written_again(write, tmp_path, chunks):
    whole, _ = write(Checkpointer())
    with pytest.raises(Killed):
        write(Checkpointer(tmp_path), chunks)
    assert write(Checkpointer(tmp_path)) == (whole, list(range(chunks, 4)))


@pytest.mark.parametrize("damage", ["flip", "tear"])
def test_a_damaged_line_of_summaries_is_written_again(write, tmp_path, damage):
    whole, _ = write(Checkpointer(tmp_path))
    journal = tmp_path / "summaries.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    content = journal.read_bytes()
    if damage == "flip":
        place = len(lines[0]) + 90
        journal.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    else:
        journal.write_bytes(content[:-1])
    assert write(Checkpointer(tmp_path)) == (whole, [1] if damage == "flip" else [3])
    assert write(Checkpointer(tmp_path)) == (whole, [])


def test_summaries_of_other_weights_are_not_believed(write, tmp_path):
    write(Checkpointer(tmp_path))
    assert write(Checkpointer(tmp_path), weights="others")[1] == [0, 1, 2, 3]


def test_every_flipped_bit_of_a_sealed_line_is_noticed():
    line = seal({"chunk": 0, "texts": {"0": "Ré\u2028sumé"}, "seconds": 0.1})
    assert unseal(line) == {"chunk": 0, "texts": {"0": "Ré\u2028sumé"}, "seconds": 0.1}
    for bit in range(8 * len(line)):
        flipped = bytearray(line)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError):
            unseal(bytes(flipped))


def test_a_partial_without_a_folder_keeps_nothing(train, write):
    partial = Checkpointer()
    train(partial)
    partial.keep("w", 0, Chunk({0: ""}, 0))
    assert partial.summaries("w") == {} and partial.repeated(0) == 0


def test_peaks_of_an_earlier_process_are_taken_over():
    memory = Memory("cpu")
    memory.raise_to({"max_resident": 2**40, "resident": 2**40})
    assert memory.read()["max_resident"] == 2**40 > memory.read()["resident"]
