"""The model of documents and seeds against SciPy, by simulation, and at its edges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bakeoff.stats.contrasts import Contrast, SeedVariance, components, contrast, detectable, needed, pool

DRAW = np.random.default_rng(0)
A, B = DRAW.uniform(0, 1, (3, 40)), DRAW.uniform(0, 1, (5, 40))


def simulated(draw, seeds, documents, shared, *, spread, mean=0.4):
    """One side: document, method x document, seed and residual, all normal."""
    own = draw.normal(0, 0.03, documents)
    return mean + shared + own + draw.normal(0, spread, (seeds, 1)) + draw.normal(0, 0.06, (seeds, documents))


def test_mean_squares_are_those_of_a_two_way_analysis_of_variance():
    found = components(A)
    grand, seeds, documents = A.mean(), A.mean(axis=1), A.mean(axis=0)
    residual = ((A - grand) ** 2).sum() - 40 * ((seeds - grand) ** 2).sum() - 3 * ((documents - grand) ** 2).sum()
    assert found.ms_seed == pytest.approx(40 * ((seeds - grand) ** 2).sum() / 2)
    assert found.ms_res == pytest.approx(residual / (2 * 39))
    assert (found.df, found.df_res) == (2, 78)


def test_one_seed_or_one_document_has_no_components():
    assert components(A[:1]) is components(A[:, :1]) is None


def test_the_variance_is_that_of_the_model():
    one, two = components(A), components(B)
    ms_seed = (2 * one.ms_seed + 4 * two.ms_seed) / 6
    ms_res = (2 * one.ms_res + 4 * two.ms_res) / 6
    d, c = A.mean(axis=0) - B.mean(axis=0), 1 / 3 + 1 / 5
    v = max(d.var(ddof=1) / 40 + max(0, ms_seed - ms_res) * c / 40, ms_seed * c / 40)
    found = contrast(A, B)
    assert (found.difference, found.error) == pytest.approx((d.mean(), math.sqrt(v)))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(d.mean()) / math.sqrt(v), found.df))
    half = stats.t.ppf(0.975, found.df) * math.sqrt(v)
    assert (found.low, found.high) == pytest.approx((d.mean() - half, d.mean() + half))
    assert found.df >= 6 and found.kind == "documents and seeds"


@pytest.mark.parametrize("spread", [None, SeedVariance(0.0, 0.0, 4, 40)], ids=["unknown", "zero"])
def test_one_seed_a_side_without_variance_between_seeds_is_scipys_paired_t_test(spread):
    found = contrast(A[:1], B[:1], spread=spread)
    expected = stats.ttest_rel(A[0], B[0])
    low, high = expected.confidence_interval()
    assert (found.p, found.low, found.high, found.df) == pytest.approx((expected.pvalue, low, high, 39))
    assert found.kind == ("documents and seeds" if spread else "documents only")


def test_documents_only_agrees_with_scipys_permutation_test_and_bootstrap():
    found = contrast(A[:1], A[1:2] + 0.05)
    permuted = stats.permutation_test((A[0], A[1] + 0.05), lambda x, y: np.mean(x - y), permutation_type="samples",
                                      n_resamples=9_999, rng=1)  # fmt: skip
    drawn = stats.bootstrap((A[0] - A[1] - 0.05,), np.mean, rng=1).confidence_interval
    assert found.p == pytest.approx(permuted.pvalue, abs=0.02)
    width = found.high - found.low
    assert (found.low, found.high) == pytest.approx((drawn.low, drawn.high), abs=0.1 * width)


def test_one_seed_takes_its_spread_from_elsewhere():
    elsewhere = SeedVariance(0.9, 0.1, 4, 40, "calibration")
    bare, known = contrast(A[:1], B[:1]), contrast(A[:1], B[:1], spread=elsewhere)
    assert known.error**2 == pytest.approx(bare.error**2 + 0.8 * 2 / 40)
    assert known.variance.source == "calibration"
    assert contrast(A, B, spread=elsewhere) == contrast(A, B)


def test_a_side_that_no_seed_changes_adds_no_noise_of_seeds():
    found = contrast(A, B[:1], fixed=(False, True))
    own = components(A)
    assert found.seeds == (3, 0) and found.variance == own
    v_doc = (A.mean(axis=0) - B[0]).var(ddof=1) / 40
    assert found.error**2 == pytest.approx(v_doc + max(0, own.ms_seed - own.ms_res) / 3 / 40)


def test_a_spread_measured_on_other_documents_keeps_its_deviation():
    found = SeedVariance(0.5, 0.1, 4, 40)
    assert found.on(400).deviation == pytest.approx(found.deviation)
    assert SeedVariance(0.05, 0.1, 4, 40).on(400).ms_seed == 0.05


def test_pooled_variances_are_weighted_by_their_degrees_of_freedom():
    found = pool([SeedVariance(1.0, 0.1, 1, 40), SeedVariance(2.0, 0.4, 3, 40)], 40)
    assert (found.ms_seed, found.ms_res, found.df) == pytest.approx((1.75, 0.325, 4))
    assert pool([], 40) is None


@pytest.mark.parametrize("value", [0.0, 0.5])
@pytest.mark.filterwarnings("error")
def test_identical_scores_differ_by_nothing(value):
    found = contrast(np.full((2, 5), value), np.full((2, 5), value))
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert contrast(A, A).difference == 0.0 and contrast(A, A).p == 1.0


@pytest.mark.filterwarnings("error")
def test_a_constant_difference_without_noise_has_no_test():
    found = contrast([[0.5] * 5], [[0.25] * 5])
    assert (found.difference, found.low, found.high, found.p, found.error) == (0.25, None, None, 1.0, 0.0)


@pytest.mark.parametrize("documents, p", [(2, 0.5), (5, 0.0625), (20, 2**-19)])
@pytest.mark.filterwarnings("error")
def test_without_noise_over_seeds_the_signs_of_documents_are_flipped(documents, p):
    """SciPy's exact permutation test finds the same."""
    found = contrast(np.full((3, documents), 0.5), np.full((1, documents), 0.25))
    assert (found.difference, found.low, found.high, found.p) == (0.25, 0.25, 0.25, p)
    if documents < 10:
        test = stats.permutation_test(
            (np.full(documents, 0.5), np.full(documents, 0.25)), lambda a, b, axis: (a - b).mean(axis=axis),
            permutation_type="samples", vectorized=True, n_resamples=np.inf,
        )  # fmt: skip
        assert test.pvalue == pytest.approx(p)


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_document_has_a_difference_and_no_test(seeds):
    found = contrast([[0.5]] * seeds, [[0.25]])
    assert (found.difference, found.low, found.p, found.kind) == (0.25, None, 1.0, "documents only")
    assert detectable(found) is needed(found) is None


@pytest.mark.parametrize("bad", [[[0.5, float("nan")]], [[0.5, 0.5], [0.5]], [0.5, 0.5], [[0.5, 0.5, 0.5]], []])
def test_scores_that_are_ragged_not_finite_or_of_other_documents_are_refused(bad):
    for sides in ((bad, [[0.5, 0.6]]), ([[0.5, 0.6]], bad)):
        with pytest.raises(ValueError):
            contrast(*sides)


@pytest.mark.parametrize("spread", [0.0, 0.0065])
@pytest.mark.parametrize("seeds", [(1, 5), (3, 5), (5, 5)])
def test_false_alarms_stay_at_alpha(seeds, spread):
    draw, alarms, rounds = np.random.default_rng(1), 0, 600
    for _ in range(rounds):
        shared = draw.normal(0, 0.12, 100)
        a, b = (simulated(draw, count, 100, shared, spread=spread) for count in seeds)
        alarms += contrast(a, b).p < 0.05
    assert stats.binomtest(alarms, rounds).proportion_ci().low <= 0.05
    assert alarms / rounds < 0.08


@pytest.mark.parametrize("seeds", [(1, 5), (3, 5), (5, 5)])
def test_where_seeds_add_nothing_the_interval_is_not_much_wider_than_it_says(seeds):
    draw, held, rounds = np.random.default_rng(2), 0, 2000
    for _ in range(rounds):
        shared = draw.normal(0.4, 0.13, 40)
        a, b = (shared + draw.normal(0, 0.055, (count, 40)) for count in seeds)
        found = contrast(a, b)
        held += found.low <= 0 <= found.high
    assert 0.93 < held / rounds < 0.98


def test_a_test_over_documents_alone_would_raise_far_more():
    draw, alarms = np.random.default_rng(1), 0
    for _ in range(300):
        shared = draw.normal(0, 0.12, 100)
        a, b = (simulated(draw, 3, 100, shared, spread=0.0065).mean(axis=0, keepdims=True) for _ in range(2))
        alarms += contrast(a, b).p < 0.05
    assert alarms / 300 > 0.1


@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.04])
def test_the_detectable_drop_is_found_in_80_percent_of_cases(tolerance):
    draw, rounds = np.random.default_rng(2), 20_000
    drop = detectable(Contrast(0.0, None, None, 1.0, 8.0, 0.01, "documents only", 9, (1, 1)), tolerance=tolerance)
    error = 0.01 * np.sqrt(draw.chisquare(8, rounds) / 8)
    seen = draw.normal(drop, 0.01, rounds)
    found = (seen > tolerance) & (2 * stats.t.sf(np.abs(seen) / error, 8) < 0.05)
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_without_a_tolerance_the_detectable_drop_is_that_of_the_noncentral_t():
    found = detectable(Contrast(0.0, None, None, 1.0, 8.0, 0.01, "documents only", 9, (1, 1)), alpha=0.01, power=0.9)
    assert stats.nct.sf(stats.t.isf(0.005, 8), 8, found / 0.01) == pytest.approx(0.9, abs=0.001)


def test_what_carries_the_variance_settles_the_difference():
    seeds = Contrast(
        -0.02, None, None, 0.4, 8.0, 0.02, "documents and seeds", 100, (3, 3), SeedVariance(0.06, 1e-5, 4, 100)
    )
    more = needed(seeds)
    assert seeds.seed_share > 0.9 and more.seeds > 3 and more.documents == 100
    only = Contrast(-0.02, None, None, 0.4, 99.0, 0.02, "documents only", 100, (1, 1))
    assert (needed(only).seeds, needed(only).documents > 100) == (1, True)
    assert needed(only, tolerance=0.02) is None


@settings(deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(2, 6), st.randoms(use_true_random=False)
)  # fmt: skip
def test_turning_the_sides_round_turns_the_contrast_round(first, second, documents, draw):
    a, b = ([[draw.choice([0, 0.25, 0.5, 1]) for _ in range(documents)] for _ in range(n)] for n in (first, second))
    found, other = contrast(a, b), contrast(b, a)
    assert found.difference == pytest.approx(-other.difference, abs=1e-12)
    assert found.p == pytest.approx(other.p) and 0 <= found.p <= 1
    if found.low is not None:
        assert (found.low, found.high) == pytest.approx((-other.high, -other.low), abs=1e-9)
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high) or found.p == pytest.approx(0.05)
    if found.variance is not None and found.error:
        assert found.df >= found.variance.df and 0 <= found.seed_share <= 1
