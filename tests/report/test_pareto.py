"""ROUGE against cost: the frontier is what corrected tests find, not what means suggest."""

import pytest
from factories import run, settings

from bakeoff.report.comparison import compare
from bakeoff.report.plots import pareto


def compared(seeds=3, **methods):
    """Methods as name = (mean, trained parameters)."""
    results = {
        name: [run(name, mean, seed=seed, trained=trained, documents=60) for seed in range(seeds)]
        for name, (mean, trained) in methods.items()
    }
    return compare(settings(seeds=tuple(range(seeds))), results)


def test_a_dearer_method_joins_the_frontier_only_if_a_test_finds_it_better():
    found = compared(cheap=(0.2, 10), near=(0.201, 100), better=(0.4, 1000), dear=(0.3, 10_000), best=(0.6, 100_000))
    assert pareto.frontier(found, pareto.costs(found)["parameters"]) == ["cheap", "better", "best"]
    assert "Frontier by trained parameters: cheap, better, best." in pareto.caption(found)


def test_the_cheapest_alone_is_a_frontier_where_nothing_is_better():
    found = compared(cheap=(0.4, 10), other=(0.4, 100), worse=(0.1, 1000))
    assert pareto.frontier(found, pareto.costs(found)["parameters"]) == ["cheap"]


def test_without_tests_there_is_no_frontier_and_the_caption_says_so():
    found = compared(1, cheap=(0.2, 10), best=(0.6, 100))
    assert pareto.frontier(found, pareto.costs(found)["parameters"]) is None
    assert "No frontier is drawn" in pareto.caption(found)


def test_a_cost_that_a_method_lacks_or_that_all_share_has_no_panel():
    found = compared(a=(0.2, 10), b=(0.3, 10))
    assert "parameters" not in pareto.costs(found) and "forgetting" not in pareto.costs(found)
    figure = pareto.draw(found, str)
    assert [ax.get_xlabel() for ax in figure.axes if ax.get_visible()] == [
        pareto.COSTS[name][0] for name in pareto.costs(found)
    ]


def test_forgetting_is_the_rise_of_the_loss_on_other_text():
    told = {"before": 3.0, "after": 3.25, "divergence": 0.5}
    rows = {name: [run(name, 0.3, seed=s, forgetting={**told, "after": after}) for s in (1, 2)]
            for name, after in (("a", 3.25), ("b", 2.9))}  # fmt: skip
    found = pareto.costs(compare(settings(seeds=(1, 2)), rows))["forgetting"]
    assert found == {"a": pytest.approx(0.25), "b": pytest.approx(-0.1)}


def test_names_of_many_methods_cover_neither_each_other_nor_is_one_of_the_frontier_left_out():
    near = {f"method-{number}": (0.3 + number / 10_000, 100 + number) for number in range(12)}
    found = compared(**near, best=(0.6, 100_000))
    figure = pareto.draw(found, str)
    for ax in (ax for ax in figure.axes if ax.get_visible()):
        boxes = [text.get_window_extent() for text in ax.texts]
        assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
        assert "best" in [text.get_text() for text in ax.texts] and len(ax.texts) < len(found.methods)
    assert "Names without room are left out." in pareto.caption(found)


def test_few_methods_all_have_their_names_and_stand_as_asked_and_many_by_their_means():
    found = compared(a=(0.3, 10), b=(0.3001, 10), c=(0.3002, 11))
    assert {len(ax.texts) for ax in pareto.draw(found, str).axes if ax.get_visible()} == {3}
    assert [row.name for row in found.ordered] == ["a", "b", "c"]
    many = compared(**{f"m{number}": (0.1 + number / 20, 10) for number in range(9)})
    assert [row.name for row in many.ordered] == [f"m{number}" for number in reversed(range(9))]
