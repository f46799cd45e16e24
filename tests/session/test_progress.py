"""What a user sees while runs are made."""

import io

import pytest

from bakeoff.runs.records import RunSpec
from bakeoff.session.progress import Progress
from bakeoff.session.worker import Died

SPEC = RunSpec(
    method="lora", base="lora", control=False, method_file="lora.py", hyperparameters={}, seed=7, model={}, task={},
    training={}, generation={}, scoring={}, measure={}, machine={}, hashes={}, versions={},
)  # fmt: skip
NEWS = [
    {"phase": "setup"},
    {"phase": "training", "epoch": 1, "epochs": 2, "step": 3, "steps": 8, "loss": 2.5, "tokens": 900, "seconds": 3.0},
    {"phase": "validation", "epoch": 1, "epochs": 2, "training_loss": 2.75, "validation_loss": 2.25},
    {"phase": "evaluation", "done": 0, "documents": 6},
    {"phase": "evaluation", "done": 4, "documents": 6},
]


def told(live):
    file = io.StringIO()
    with Progress(file, live=live).run(SPEC) as tell:
        for news in NEWS:
            tell(news)
    return file.getvalue()


def test_without_a_terminal_there_is_a_line_for_each_epoch_and_no_control_character():
    assert told(live=False).splitlines() == [
        "  lora (seed 7): epoch 1/2, training loss 2.7500, validation loss 2.2500",
        "  lora (seed 7): writing 6 summaries",
    ]


def test_in_a_terminal_the_board_is_drawn_and_taken_away(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")
    drawn = told(live=True)
    assert "1 of 1 runs done" in drawn and "\x1b[2K" in drawn  # each line is erased


def test_a_reused_run_says_so_and_how_to_train_anew():
    file = io.StringIO()
    Progress(file, live=False).reused(SPEC)
    assert "lora (seed 7): not trained again" in file.getvalue() and "--fresh" in file.getvalue()


def test_a_dead_run_says_how_it_ended():
    file = io.StringIO()
    Progress(file, live=False).dead(SPEC, Died("training", "out of memory"))
    assert file.getvalue().strip() == "lora (seed 7): dead: out of memory (during training)"


@pytest.mark.parametrize("live", [False, True])
def test_without_a_file_there_is_silence(live, capfd):
    with Progress(None, live=live).run(SPEC) as tell:
        for news in NEWS:
            tell(news)
    assert capfd.readouterr() == ("", "")
