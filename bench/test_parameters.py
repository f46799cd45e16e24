"""How many parameters: counted four ways, which agree."""

from bakeoff import published
from bakeoff.parameters import ParameterCounts


def test_closed_form_is_what_requires_grad_says(runs):
    for run in runs:
        assert run.parameters["expected"] == run.parameters["requires_grad"]


def test_the_optimizer_holds_exactly_the_trainable_parameters(runs):
    for run in runs:
        assert run.parameters["optimizer"] == run.parameters["expected"]["trainable"]


def test_exactly_the_trainable_parameters_are_saved(runs):
    for run in runs:
        assert run.parameters["saved"] == run.parameters["expected"]["trainable"]


def test_counts_are_those_that_were_published(runs, bakeoff):
    settings = bakeoff.plan.settings
    if settings.changes:
        return  # another method than the published one
    for table in published.beside(settings):
        if runs[0].spec["method"] in table.methods:
            counts = ParameterCounts(**runs[0].parameters["requires_grad"])
            assert table.mismatches(runs[0].spec["method"], counts) == []
