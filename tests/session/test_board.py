"""The board of a bake-off's runs: states, bars, and the time left by what was measured."""

import dataclasses

import pytest
from rich.console import Console

from bakeoff.runs.records import RunSpec
from bakeoff.session.board import MANY, Board, clock_time

SPEC = RunSpec(
    method="lora", base="lora", control=False, method_file="lora.py", hyperparameters={}, seed=7, model={}, task={},
    training={}, generation={}, scoring={}, measure={}, machine={}, hashes={}, versions={},
)  # fmt: skip
SPECS = [dataclasses.replace(SPEC, method=method, seed=seed) for method in ("lora", "full") for seed in (1, 2)]
CONTROL = dataclasses.replace(SPEC, method="zero-shot", control=True)


class Clock:
    """Seconds that the test decides."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def board(clock):
    made = Board(clock)
    made.expect([*SPECS, CONTROL], lambda fingerprint: fingerprint == SPECS[1].fingerprint)
    return made


def step(number, of=10):
    return {"phase": "training", "epoch": 1, "epochs": 2, "step": number, "steps": of, "loss": 2.5, "tokens": 900,
            "seconds": 3.0}  # fmt: skip


def drawn(board):
    console = Console(width=100)
    with console.capture() as shown:
        console.print(board.render())
    return shown.get()


def test_every_run_has_a_line_with_its_state_from_the_start(board):
    lines = drawn(board).splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["waiting", "stored", "waiting", "waiting", "waiting"]
    assert "zero-shot" in lines[4] and lines[5].strip() == "1 of 5 runs done, 4 waiting"
    assert all(len(line) <= 100 for line in lines)


def test_nothing_is_said_of_the_time_left_until_something_is_measured(board, clock):
    assert board.left() is None
    board.start(SPECS[0])
    clock.now += 5
    assert board.left() is None
    board.hear(SPECS[0], step(1))
    assert board.left() is None and "left" not in drawn(board)  # one step has no pace
    clock.now += 4
    board.hear(SPECS[0], step(3))
    assert board.left() == (pytest.approx(4 / 2 * 7), False)  # its own steps alone, not the other runs
    assert "at least 0:14 left" in drawn(board)


def test_the_only_run_is_judged_by_its_steps_which_are_not_all_of_it(clock):
    board = Board(clock)
    board.start(SPECS[0])
    for number in (1, 6):
        board.hear(SPECS[0], step(number))
        clock.now += 5
    assert board.left() == (pytest.approx(10 / 5 * 4), False)


def test_runs_that_are_made_at_once_share_the_time(board, clock):
    board.start(SPECS[0])
    clock.now += 60
    board.end(SPECS[0], "done")
    board.end(CONTROL, "stored")
    assert board.left() == (120.0, True)
    board.at_once = 2
    assert board.left() == (60.0, True)
    board.at_once = 8
    assert board.left() == (60.0, True)  # no run is shorter for the others


def test_finished_runs_tell_how_long_the_others_take(board, clock):
    for spec, seconds in ((SPECS[0], 60), (CONTROL, 10)):
        board.start(spec)
        clock.now += seconds
        board.end(spec, "done")
    assert board.left() == (120.0, True)  # two runs of another method, as long as that of lora
    board.start(SPECS[2])
    clock.now += 100
    board.end(SPECS[2], "done")
    assert board.left() == (100.0, True)  # the last one is of the same method
    board.start(SPECS[3])
    clock.now += 30
    assert board.left() == (70.0, True)
    board.end(SPECS[3], "dead")
    assert board.left() is None


def test_a_resumed_run_is_judged_by_the_steps_that_it_makes_now(board, clock):
    board.start(SPECS[0])
    board.hear(SPECS[0], step(81, 100))
    clock.now += 10
    board.hear(SPECS[0], step(91, 100))
    seconds, _ = board.left()
    assert seconds == pytest.approx(9)


def test_a_reused_run_costs_no_time_and_counts_as_done(board, clock):
    board.end(SPECS[0], "stored")
    assert board.lines[SPECS[0].fingerprint].seconds is None
    assert "2 of 5 runs done" in board.summary()


def test_of_many_runs_those_that_run_died_and_come_next_are_shown(clock):
    board, many = Board(clock), [dataclasses.replace(SPEC, seed=seed) for seed in range(MANY + 1)]
    board.expect(many, lambda fingerprint: False)
    for spec, state in zip(many, ("done", "dead"), strict=False):
        board.start(spec)
        board.end(spec, state)
    board.start(many[2])
    assert [line.state for line in board.shown()] == ["dead", "running", "waiting", "waiting", "waiting"]
    text = drawn(board)
    assert "1 of 13 runs done, 1 running, 10 waiting, 1 dead" in text
    assert f"  done: {SPEC.method}\n" in text and f"  waiting: {SPEC.method} x7\n" in text  # the others, together


def test_seconds_are_printed_as_a_clock_does():
    assert [clock_time(seconds) for seconds in (0, 59.6, 61, 3723)] == ["0:00", "1:00", "1:01", "1:02:03"]
