"""The frontier of costs: only what a test finds higher is worth more."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from bakeoff.stats.frontier import frontier


def test_a_dearer_row_needs_a_test_on_its_side():
    means = {"cheap": 1.0, "same": 3.0, "dear": 2.0}
    cost = {"cheap": 1, "same": 2, "dear": 3}
    assert frontier(cost, means, {}) == ["cheap"]
    assert frontier(cost, means, {frozenset(("cheap", "dear")): "dear"}) == ["cheap", "dear"]
    assert frontier(cost, means, {frozenset(("cheap", "dear")): "cheap"}) == ["cheap"]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=7))
def test_where_tests_say_what_means_say_it_is_the_pareto_frontier(rows):
    cost = {str(n): float(one) for n, (one, _) in enumerate(rows)}
    means = {str(n): float(one) for n, (_, one) in enumerate(rows)}
    higher = {
        frozenset(pair): max(pair, key=means.__getitem__)
        for pair in combinations(means, 2)
        if means[pair[0]] != means[pair[1]]
    }
    found = frontier(cost, means, higher)
    best = {one: max(means[other] for other in means if cost[other] <= cost[one]) for one in means}
    assert {(cost[one], means[one]) for one in found} == {
        (cost[one], means[one])
        for one in means
        if means[one] == best[one] and all(means[other] < means[one] for other in means if cost[other] < cost[one])
    }
