"""Training: it learns, it leaves the base alone, and what it saves loads."""


def test_the_loss_fell(runs):
    for run in runs:
        before, *epochs = run.epochs
        if run.spec["training"]["learning_rate"] == 0:
            assert {epoch["validation_loss"] for epoch in epochs} == {before["validation_loss"]}
            continue
        assert min(epoch["validation_loss"] for epoch in epochs) < before["validation_loss"]
        assert len(epochs) == 1 or epochs[-1]["training_loss"] < epochs[0]["training_loss"]


def test_weights_that_are_not_trained_are_bit_identical(runs):
    for run in runs:
        assert run.evidence["frozen_changed"] == []
        assert run.evidence["frozen_before"] == run.evidence["frozen_after"]


def test_the_reloaded_adapter_writes_the_same_summaries(runs):
    for run in runs:
        assert run.evidence["reloaded"]
        for row in run.evidence["reloaded"]:
            assert row["again"] == row["summary"], row["id"]
