"""The gate's cases as tests name them."""

from types import SimpleNamespace

import pytest

from bakeoff.session.gatekeeper import Gatekeeper


@pytest.mark.parametrize("metric", ["rouge1", "my-metric"])
@pytest.mark.parametrize("method", ["lora", "soft-prompt"])
def test_every_case_is_found_by_its_name_whatever_hyphens_it_has(method, metric):
    asked = []
    keeper = Gatekeeper.__new__(Gatekeeper)
    keeper.session, keeper.update, keeper.strict, keeper.remedy = (
        SimpleNamespace(runs=lambda name: None),
        False,
        False,
        "",
    )
    keeper.methods, keeper.metrics = ["lora", "soft-prompt"], ("rouge1", "my-metric")
    keeper.judged = SimpleNamespace(refusals={method: "it is new"}, verdict=lambda *given: asked.append(given))
    assert keeper.check(f"{method}-{metric}").failure == f"{method}: it is new"
    keeper.judged.refusals = {}
    with pytest.raises(AssertionError):
        keeper.check(f"{method}-{metric}")
    assert asked == [(method, metric)]
