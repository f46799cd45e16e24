"""Training: it learns, it leaves the base alone, and what it saves loads."""

import pytest

from bakeoff.core.errors import one_line


def test_the_loss_fell(runs):
    for run in runs:
        before, *epochs = run.epochs
        if not epochs:
            pytest.skip("0 epochs: nothing was trained")
        if run.spec["training"]["learning_rate"] == 0:
            assert {epoch["validation_loss"] for epoch in epochs} == {before["validation_loss"]}
            continue
        assert min(epoch["validation_loss"] for epoch in epochs) < before["validation_loss"]
        assert len(epochs) == 1 or epochs[-1]["training_loss"] < epochs[0]["training_loss"]


def test_weights_that_are_not_trained_are_bit_identical(runs):
    if runs[0].parameters["requires_grad"]["frozen"] == 0:
        pytest.skip("every weight is trained")
    for run in runs:
        assert run.evidence["frozen_changed"] == []
        assert run.evidence["frozen_before"] == run.evidence["frozen_after"]


def test_the_reloaded_adapter_writes_the_same_summaries(runs):
    for run in runs:
        assert run.evidence["reloaded"]
        assert run.evidence["reloaded_trained"] == run.evidence["trained"]
        # Not the texts: pytest would print what a model wrote as it is.
        assert [one_line(row["id"]) for row in run.evidence["reloaded"] if row["again"] != row["summary"]] == []
