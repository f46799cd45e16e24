"""Statistics against SciPy, and at the edges: one document, one seed, all equal, NaN."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bakeoff.stats import intervals

DRAW = np.random.default_rng(0)
SCORES = DRAW.uniform(0, 1, (3, 40))


def test_interval_is_scipys_t_interval_over_documents_of_the_mean_over_seeds():
    documents = SCORES.mean(axis=0)
    low, high = stats.t.interval(0.95, 39, loc=documents.mean(), scale=stats.sem(documents))
    found = intervals.interval(SCORES)
    assert (found.mean, found.low, found.high) == pytest.approx((SCORES.mean(), low, high))


def test_interval_agrees_with_scipys_confidence_interval_at_another_level():
    found = intervals.interval(SCORES[:1], level=0.8)
    expected = stats.ttest_1samp(SCORES[0], 0).confidence_interval(0.8)
    assert (found.low, found.high) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_document_has_a_mean_and_no_bounds(seeds):
    assert intervals.interval([[0.25]] * seeds) == intervals.Interval(0.25, None, None)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_scores_have_an_interval_without_width(value):
    assert intervals.interval([[value] * 5]) == intervals.Interval(value, value, value)


def test_the_order_of_seeds_and_documents_changes_no_interval():
    found, other = intervals.interval(SCORES), intervals.interval(SCORES[::-1, ::-1])
    assert (other.mean, other.low, other.high) == pytest.approx((found.mean, found.low, found.high))


def test_intervals_that_touch_overlap():
    low, middle, high = (intervals.Interval(x, x - 1, x + 1) for x in (0.0, 2.0, 2.5))
    assert low.overlaps(middle) and middle.overlaps(low)
    assert not low.overlaps(high) and not high.overlaps(low)


def test_an_interval_without_bounds_neither_overlaps_nor_does_not():
    bare = intervals.Interval(0.5, None, None)
    assert bare.overlaps(intervals.Interval(0.5, 0.4, 0.6)) is None


def test_spread_is_the_standard_deviation_of_the_seeds_means():
    assert intervals.spread(SCORES) == pytest.approx(stats.tstd(SCORES.mean(axis=1)))


def test_one_seed_has_no_spread():
    assert intervals.spread(SCORES[:1]) is None


def test_equal_seeds_have_the_spread_0():
    assert intervals.spread([[0.5, 0.25], [0.5, 0.25]]) == 0.0


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_paired_is_scipys_paired_t_test(alternative):
    expected = stats.ttest_rel(SCORES[0], SCORES[1], alternative=alternative).pvalue
    assert intervals.paired(SCORES[0], SCORES[1], alternative) == pytest.approx(expected)


def test_better_asks_whether_the_first_is_above_the_second():
    above = SCORES[1] + 0.1 + 0.01 * SCORES[0]
    assert intervals.better(above, SCORES[1]) < 1e-6
    assert intervals.better(SCORES[1], above) > 1 - 1e-6


@pytest.mark.parametrize("shift", [0.0, 0.1])
@pytest.mark.filterwarnings("error")
def test_differences_that_are_all_equal_give_p_1(shift):
    assert intervals.paired(SCORES[0] + shift, SCORES[0]) == 1.0
    assert intervals.better(SCORES[0] + shift, SCORES[0]) == 1.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("function", [intervals.interval, intervals.spread, intervals.mean_over_seeds])
def test_what_is_not_finite_is_refused(function, bad):
    with pytest.raises(ValueError, match="not finite"):
        function([[0.5, bad]])


@pytest.mark.parametrize(
    "a, b", [([0.5], [0.5]), ([], []), ([0.1, 0.2], [0.1, 0.2, 0.3]), ([0.1, float("nan")], [0.1, 0.2])]
)
def test_a_paired_test_refuses_what_is_not_the_same_two_or_more_documents(a, b):
    with pytest.raises(ValueError):
        intervals.paired(a, b)


@pytest.mark.parametrize("scores", [[], [[]], [0.5, 0.5], [[0.1], [0.1, 0.2]]])
def test_what_is_not_seeds_by_documents_is_refused(scores):
    with pytest.raises(ValueError):
        intervals.mean_over_seeds(scores)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30))
def test_p_values_lie_between_0_and_1_and_the_two_sides_add_up(pairs):
    a, b = (list(side) for side in zip(*pairs, strict=True))
    both, up, down = intervals.paired(a, b), intervals.better(a, b), intervals.better(b, a)
    assert all(0 <= p <= 1 for p in (both, up, down))
    assert both == pytest.approx(min(1, 2 * min(up, down)), abs=1e-9)


def test_holm_multiplies_the_smallest_by_all_and_never_falls():
    assert intervals.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert intervals.holm([0.5, 0.9]) == [1.0, 1.0] and intervals.holm([]) == []
    with pytest.raises(ValueError):
        intervals.holm([float("nan")])


def test_letters_of_a_chain_overlap():
    assert intervals.letters(intervals.groups("abc", [("a", "c")])) == {"a": "a", "b": "ab", "c": "b"}
    assert intervals.letters(intervals.groups("ab", [])) == {"a": "a", "b": "a"}


def spelled(text):
    """The letters that `a-dg` stands for."""
    parts = re.findall(r"([a-z]\d*)(?:-([a-z]\d*))?", text)
    order = [intervals.letter(number) for number in range(100)]
    return {one for low, high in parts for one in order[order.index(low) : order.index(high or low) + 1]}


@given(
    st.integers(1, 8).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))))
    )
)
def test_two_names_share_a_letter_exactly_where_they_are_not_different(drawn):
    count, pairs = drawn
    names = [f"m{n}" for n in range(count)]
    different = {(names[x], names[y]) for x, y in pairs if x < y}
    found = intervals.letters(intervals.groups(names, different))
    for x in range(count):
        assert found[names[x]]
        for y in range(x + 1, count):
            shared = spelled(found[names[x]]) & spelled(found[names[y]])
            assert bool(shared) == ((names[x], names[y]) not in different)


def test_wins_ties_and_losses_are_counted_over_the_mean_of_the_seeds():
    assert intervals.wins_ties_losses([[0.5, 0.5, 0.1], [0.5, 0.7, 0.1]], [[0.5, 0.5, 0.2]]) == (1, 1, 1)
    with pytest.raises(ValueError):
        intervals.wins_ties_losses([[0.5]], [[0.5, 0.5]])


def test_many_letters_in_a_row_are_a_range():
    assert intervals.ranges([0, 1, 2, 3, 5]) == "a-df" and intervals.ranges([0, 1, 2]) == "abc"
    assert intervals.ranges([24, 25, 26, 27]) == "y-b1" and spelled("y-b1") == {"y", "z", "a1", "b1"}


def test_letters_that_tell_nothing_are_left_out():
    columns = [("a", "b", "c"), ("b", "c", "d"), ("a", "c", "d"), ("a", "b", "d")]
    assert len(intervals.cover(columns)) < len(columns)
    kept = intervals.sweep([("a", "b", "c"), ("b", "c", "d"), ("b", "c")])
    assert [set(column) for column in kept if len(column) > 1] == [{"a", "b", "c"}, {"b", "c", "d"}] or len(kept) == 2


@pytest.mark.parametrize("count", [1, 7, 100])
def test_the_interval_of_a_rate_is_wilsons(count):
    for hits in {0, 1, count // 3, count}:
        theirs = stats.binomtest(hits, count).proportion_ci(method="wilson")
        ours = intervals.wilson(hits / count, count)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    for wrong in ((0.5, 0), (-0.1, 3), (1.1, 3)):
        with pytest.raises(ValueError):
            intervals.wilson(*wrong)
