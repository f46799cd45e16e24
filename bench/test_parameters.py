"""How many parameters: counted four ways, which agree."""

import pytest

from bakeoff.methods.parameters import ParameterCounts
from bakeoff.report import published


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
    settings, method = bakeoff.plan.settings, runs[0].spec["method"]
    if settings.changes:
        pytest.skip("--set changed the settings: counts are published of others")
    tables = [table for table in published.beside(settings) if method in table.methods]
    if not tables:
        pytest.skip(f"bench/published/ has no counts of {method} under the preset {settings.preset}")
    for table in tables:
        assert table.mismatches(method, ParameterCounts(**runs[0].parameters["requires_grad"])) == []
