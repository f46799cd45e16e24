"""How many parameters: counted four ways, which agree."""


def test_closed_form_is_what_requires_grad_says(runs):
    for run in runs:
        assert run.parameters["expected"] == run.parameters["requires_grad"]


def test_the_optimizer_holds_exactly_the_trainable_parameters(runs):
    for run in runs:
        assert run.parameters["optimizer"] == run.parameters["expected"]["trainable"]


def test_exactly_the_trainable_parameters_are_saved(runs):
    for run in runs:
        assert run.parameters["saved"] == run.parameters["expected"]["trainable"]
