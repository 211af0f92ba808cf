"""Verdicts on few runs, against SciPy, statsmodels, sign patterns written out, and simulation.

Integrals over the distribution of a deviation are by quadrature with an error below 1e-5, seen against statsmodels' noncentral t.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from nonsmooth import statistics
from nonsmooth.statistics import (
    DECISIONS,
    FAILS,
    HOLDS,
    MAX_RUNS,
    UNDECIDABLE,
    Target,
    Verdict,
    combine,
    interval,
    interval_of_share,
    judge,
    judge_count,
    t_interval,
    t_power,
    welch_interval,
)

quick = settings(deadline=None, derandomize=True, max_examples=60)
INF, NAN = math.inf, math.nan
QUADRATURE = 1e-5

# No ties, so that the order of means is not one of rounding.
samples = st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=9, unique=True).map(
    lambda values: [v / 1e3 for v in values]
)


def sign_flip_p(values: Sequence[float], bound: float, side: int) -> float:
    """Of the hypothesis that the centre is at most (`side` 1) or at least (-1) `bound`, by every sign pattern."""
    distances = [side * (value - bound) for value in values]
    patterns = list(itertools.product((1, -1), repeat=len(values)))
    # A tolerance for sums that are equal but for rounding.
    observed = sum(distances) - 1e-6
    return sum(sum(s * d for s, d in zip(p, distances, strict=True)) >= observed for p in patterns) / len(patterns)


# ------------------------------------------------------------------------------------------------------ intervals


@quick
@given(samples, st.floats(0.5, 0.99))
def test_the_t_interval_is_scipys(values: list[float], confidence: float) -> None:
    expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert interval(values, confidence) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)


def test_equal_values_are_their_interval_and_one_value_has_none() -> None:
    assert interval([0.25, 0.25]) == (0.25, 0.25)
    assert interval([0.25]) == (-INF, INF)


@quick
@given(samples, st.sampled_from([0.05, 0.1, 0.25]))
def test_the_interval_of_sign_flips_is_what_no_sign_pattern_rejects(values: list[float], alpha: float) -> None:
    """Around each end, the p of a bound crosses alpha."""
    low, high = interval(values, 1 - 2 * alpha, is_bimodal=True)
    if 2.0 ** -len(values) > alpha:
        assert (low, high) == (-INF, INF)
        return
    gap = 1e-5
    assert sign_flip_p(values, low - gap, 1) <= alpha < sign_flip_p(values, low + gap, 1)
    assert sign_flip_p(values, high + gap, -1) <= alpha < sign_flip_p(values, high - gap, -1)


def test_the_interval_of_sign_flips_has_its_level() -> None:
    """Of symmetric values with two modes, where t is not exact: at n = 6 each end misses 3 of 64 centres."""
    generator = np.random.default_rng(0)
    draws, n, rank = 4000, 6, math.floor(0.05 * 2**6)
    values = generator.choice([-1.0, 1.0], (draws, n)) + generator.normal(0, 0.1, (draws, n))
    above = sum(interval(row, 0.9, is_bimodal=True)[0] > 0 for row in values)
    assert stats.binomtest(above, draws, rank / 2**n).pvalue > 1e-3


def test_above_twelve_values_subsets_are_sampled() -> None:
    values = np.random.default_rng(1).normal(0.2, 1, 16)
    found = judge(values, Target(low=0.0), is_bimodal=True, plans=False)
    exact = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", alternative="greater", n_resamples=INF
    )
    size = statistics.SAMPLED_SUBSETS + 1
    assert abs(found.p - exact.pvalue) < 4 * math.sqrt(exact.pvalue * (1 - exact.pvalue) / size) + 1 / size
    assert found == judge(values, Target(low=0.0), is_bimodal=True, plans=False)


@quick
@given(samples.filter(lambda values: len(values) > 2), st.sampled_from([0.0, -50.0, 50.0]))
def test_the_p_of_sign_flips_is_that_of_every_sign_pattern(values: list[float], bound: float) -> None:
    bound += 1e-4 / 3  # not a mean of a subset
    found = judge(values, Target(low=bound), is_bimodal=True, plans=False)
    assert found.p == sign_flip_p(values, bound, 1)
    assert found.p_against == sign_flip_p(values, bound, -1)


@quick
@given(st.integers(1, 40), st.data(), st.floats(0.5, 0.99))
def test_the_interval_of_a_share_is_clopper_and_pearsons(n: int, data: st.DataObject, confidence: float) -> None:
    count = data.draw(st.integers(0, n))
    tail = (1 - confidence) / 2
    low, high = interval_of_share(count, n, confidence)
    assert low == pytest.approx(stats.beta.ppf(tail, count, n - count + 1) if count else 0.0, abs=1e-9)
    assert high == pytest.approx(stats.beta.ppf(1 - tail, count + 1, n - count) if count < n else 1.0, abs=1e-9)


@quick
@given(samples, samples)
def test_welchs_interval_is_scipys(first: list[float], second: list[float]) -> None:
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    moments = [[f(values) for values in (first, second)] for f in (np.mean, lambda v: np.std(v, ddof=1), len)]
    assert welch_interval(*moments) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_welchs_interval_of_arrays_and_of_what_has_none() -> None:
    low, high = welch_interval(
        ([1.0, 1.0, 1.0], [0.5, 0.5, 0.5]), ([0.1, NAN, 0.0], [0.2, 0.2, 0.0]), ([3, 1, 3], [4, 4, 4])
    )
    assert (low[2], high[2]) == (0.5, 0.5)
    assert np.isnan([low[1], high[1]]).all()
    assert (low[0], high[0]) == welch_interval((1.0, 0.5), (0.1, 0.2), (3, 4))


# ---------------------------------------------------------------------------------------------------------- power


@pytest.mark.parametrize("n", [2, 3, 6, 10, 40])
@pytest.mark.parametrize(("shift", "std"), [(1, 1), (1, 0.3), (1, 0.05), (0, 1), (-1, 2), (100, 0.01)])
def test_the_power_of_one_end_is_statsmodels(n: int, shift: float, std: float) -> None:
    expected = TTestPower().power(shift / std, n, 0.05, alternative="larger")
    if math.isnan(expected):  # of a very large effect
        expected = 1.0
    assert t_power(Target(low=3.0), 3.0 + shift, std, n, 0.05) == pytest.approx(expected, abs=QUADRATURE)
    assert t_power(Target(high=3.0), 3.0 - shift, std, n, 0.05) == pytest.approx(expected, abs=QUADRATURE)


@pytest.mark.parametrize(
    ("n", "std", "mean"), [(2, 0.1, 0.0), (3, 0.3, 0.0), (6, 1.0, 0.0), (6, 0.7, 0.3), (11, 1.0, -0.5)]
)
def test_the_power_of_two_ends_is_how_often_both_tests_reject(n: int, std: float, mean: float) -> None:
    draws = 200_000
    values = np.random.default_rng(n).normal(mean, std, (draws, n))
    half = stats.t.ppf(0.95, n - 1) * values.std(1, ddof=1) / math.sqrt(n)
    share = np.mean((values.mean(1) - half > -1) & (values.mean(1) + half < 1))
    found = t_power(Target(-1.0, 1.0), mean, std, n, 0.05)
    assert abs(found - share) < 4 * math.sqrt(found * (1 - found) / draws) + QUADRATURE


# -------------------------------------------------------------------------------------------------------- verdicts


@quick
@given(samples, st.floats(0.1, 2000))
def test_two_ends_are_two_one_sided_t_tests(values: list[float], margin: float) -> None:
    found = judge(values, DECISIONS["equivalent"](margin), plans=False)
    assert found.p == pytest.approx(DescrStatsW(values).ttost_mean(-margin, margin)[0], rel=1e-6, abs=1e-12)
    below = stats.ttest_1samp(values, -margin, alternative="less").pvalue
    above = stats.ttest_1samp(values, margin, alternative="greater").pvalue
    assert found.p_against == pytest.approx(min(1, 2 * min(below, above)), rel=1e-6, abs=1e-12)


@quick
@given(samples, st.sampled_from(list(DECISIONS)), st.floats(0.1, 2000), st.booleans())
def test_a_verdict_agrees_with_the_interval(values: list[float], decide: str, margin: float, is_bimodal: bool) -> None:
    target = DECISIONS[decide](margin)
    found = judge(values, target, is_bimodal=is_bimodal, plans=False)
    is_inside = target.low < found.low and found.high < target.high
    assert (found.p <= 0.05) == is_inside
    if found.verdict == HOLDS:
        assert is_inside
    if found.verdict == FAILS:
        assert found.p_against <= 0.05
        assert found.high <= target.low or found.low >= target.high
    if found.verdict != UNDECIDABLE:
        assert found.power >= 0.8


@quick
@given(samples, st.floats(0.1, 2000), st.booleans())
def test_lower_is_higher_in_a_mirror(values: list[float], margin: float, is_bimodal: bool) -> None:
    mirrored = [-value for value in values]
    one = judge(values, DECISIONS["lower"](margin), is_bimodal=is_bimodal, plans=False)
    other = judge(mirrored, DECISIONS["higher"](margin), is_bimodal=is_bimodal, plans=False)
    # Not the power of sign flips, whose resamples are drawn by position, as the order of the values would.
    assert (one.p, one.p_against) == pytest.approx((other.p, other.p_against))
    assert is_bimodal or one.verdict == other.verdict


SPREAD = np.array([-1.0, 0.0, 1.0, -0.5, 0.5, 0.0])


@pytest.mark.parametrize(
    ("decide", "mean", "verdict"),
    [
        ("equivalent", 0.0, HOLDS),
        ("equivalent", -3.0, FAILS),
        ("equivalent", 3.0, FAILS),
        ("equivalent", 1.0, UNDECIDABLE),
        ("lower", -3.0, HOLDS),
        ("lower", 0.5, FAILS),
        ("lower", -1.0, UNDECIDABLE),
        ("higher", 3.0, HOLDS),
        ("higher", -0.5, FAILS),
        ("higher", 1.0, UNDECIDABLE),
        ("not_lower", 1.0, HOLDS),
        ("not_lower", -3.0, FAILS),
        ("not_lower", -1.0, UNDECIDABLE),
    ],
)
def test_every_decision_can_come_out_in_three_ways(decide: str, mean: float, verdict: str) -> None:
    found = judge(mean + 0.2 * SPREAD, DECISIONS[decide](1.0))
    assert found.verdict == verdict
    assert math.isnan(found.runs_needed) == (verdict != UNDECIDABLE)


def test_a_significant_difference_without_power_is_no_verdict() -> None:
    """Three runs that spread as far as the margin: p is below 0.05, and a repetition would often not say so."""
    values = [-1.8, -2.6, -3.4]
    found = judge(values, DECISIONS["lower"](1.0))
    assert found.p < 0.05
    assert found.power < 0.8
    assert found.verdict == UNDECIDABLE
    assert judge(values, DECISIONS["lower"](1.0), power=0).verdict == HOLDS


def test_the_runs_needed_have_the_power_and_one_less_has_not() -> None:
    values = [0.9, -1.1, 0.2]
    std = np.std(values, ddof=1)
    for decide, mean in (("equivalent", 0.0), ("lower", -2.0)):
        target = DECISIONS[decide](1.0)
        needed = int(judge(values, target).runs_needed)
        assert t_power(target, mean, std, needed, 0.05) >= 0.8 > t_power(target, mean, std, needed - 1, 0.05)


def test_where_the_power_is_there_the_runs_needed_are_those_of_the_observed_mean() -> None:
    values = 0.9 + 0.2 * SPREAD
    target = DECISIONS["equivalent"](1.0)
    needed = int(judge(values, target).runs_needed)
    std = values.std(ddof=1)
    assert needed > len(values)
    assert t_power(target, 0.9, std, needed, 0.05) >= 0.8 > t_power(target, 0.9, std, needed - 1, 0.05)
    assert judge(1.0 + 0.2 * SPREAD - 0.2 * SPREAD.mean(), target).runs_needed == INF  # on the end itself


def test_one_run_says_nothing() -> None:
    assert judge([-100.0], DECISIONS["lower"](1.0)).verdict == UNDECIDABLE
    assert judge([-100.0], DECISIONS["lower"](1.0)).runs_needed == 2
    assert judge([-100.0], DECISIONS["lower"](1.0), is_bimodal=True).runs_needed == 5


def test_equal_differences_say_nothing_of_a_spread() -> None:
    """Signs are flipped, so that they need as many runs as where runs diverged."""
    for n, verdicts in ((2, (UNDECIDABLE, UNDECIDABLE)), (5, (HOLDS, UNDECIDABLE)), (6, (HOLDS, FAILS))):
        found = [judge([value] * n, DECISIONS["equivalent"](1.0)) for value in (0.0, -2.0)]
        assert tuple(each.verdict for each in found) == verdicts
        assert {each.test for each in found} == {"sign flips"}
    assert judge([1.0] * 6, DECISIONS["equivalent"](1.0)).verdict == UNDECIDABLE


@pytest.mark.parametrize(("n", "verdict"), [(3, UNDECIDABLE), (4, UNDECIDABLE), (5, HOLDS), (6, HOLDS)])
def test_signs_need_five_runs_for_one_end(n: int, verdict: str) -> None:
    found = judge(-90 + SPREAD[:n], DECISIONS["lower"](1.0), is_bimodal=True)
    assert found.verdict == verdict
    if n < 5:
        assert found.runs_needed == 5
        assert (found.low, found.high) == (-INF, INF)


def test_the_power_of_signs_is_the_share_of_resamples_that_agree() -> None:
    """Of six runs five diverged: a resample of six agrees if at most one of it did not, by 2^1 / 64 < 0.05 < 2^2 / 64."""
    values = [-90.0, -91.0, -92.0, -93.0, -94.0, 0.0]
    expected = stats.binom.cdf(1, 6, 1 / 6)
    found = judge(values, DECISIONS["lower"](1.0), is_bimodal=True)
    assert found.p == 2 / 64
    assert abs(found.power - expected) < 4 * math.sqrt(expected * (1 - expected) / statistics.RESAMPLES)
    # Of seven two may not have: 2^2 / 128 < 0.05.
    assert (found.verdict, found.runs_needed) == (UNDECIDABLE, 7)


@pytest.mark.parametrize("values", [[], [NAN], [1.0, INF]])
@pytest.mark.parametrize("is_bimodal", [False, True])
def test_values_are_finite_and_there(values: list[float], is_bimodal: bool) -> None:
    with pytest.raises(ValueError, match="finite values, at least one"):
        judge(values, Target(low=0.0), is_bimodal=is_bimodal)


# ---------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize(
    ("count", "n", "diverges", "survives"),
    [
        (5, 5, HOLDS, FAILS),
        (0, 5, FAILS, HOLDS),
        (4, 4, UNDECIDABLE, UNDECIDABLE),
        (0, 4, UNDECIDABLE, UNDECIDABLE),
        (5, 6, UNDECIDABLE, UNDECIDABLE),
        (10, 10, HOLDS, FAILS),
        (9, 10, HOLDS, FAILS),
        (8, 10, UNDECIDABLE, UNDECIDABLE),
        (1, 10, FAILS, HOLDS),
    ],
)
def test_counts_against_a_half(count: int, n: int, diverges: str, survives: str) -> None:
    """By the binomial distribution written out: of 10 runs 9 or more have probability 11 / 1024, 8 or more 56 / 1024."""
    found = judge_count(count, n, Target(low=0.5))
    assert found.verdict == diverges
    assert found.p == pytest.approx(sum(math.comb(n, k) for k in range(count, n + 1)) / 2**n)
    assert found.p_against == pytest.approx(sum(math.comb(n, k) for k in range(count + 1)) / 2**n)
    assert judge_count(count, n, Target(high=0.5)).verdict == survives
    assert (found.low >= 0.5) == (found.verdict == HOLDS)


def test_the_runs_needed_of_counts() -> None:
    assert judge_count(3, 3, Target(low=0.5)).runs_needed == 5
    assert judge_count(3, 6, Target(low=0.5)).runs_needed == INF
    needed = int(judge_count(4, 5, Target(low=0.5)).runs_needed)
    counts = np.arange(needed + 1)
    is_found = stats.binom.sf(counts - 1, needed, 0.5) <= 0.05
    assert stats.binom.pmf(counts, needed, 0.8) @ is_found >= 0.8
    assert needed <= MAX_RUNS


@pytest.mark.parametrize(("count", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_a_count_is_of_n(count: int, n: int) -> None:
    with pytest.raises(ValueError, match="a count from 0 to n"):
        judge_count(count, n, Target(low=0.5))


# ------------------------------------------------------------------------------------------------ several conditions


def verdict(name: str, p: float, p_against: float) -> Verdict:
    return Verdict(name, 6, 0.0, 0.0, 0.0, p, p_against, 1.0, NAN, "t")


YES, NO, MAYBE = verdict(HOLDS, 0.03, 1.0), verdict(FAILS, 1.0, 0.03), verdict(UNDECIDABLE, 0.2, 0.3)
STRONG_YES, STRONG_NO = verdict(HOLDS, 1e-4, 1.0), verdict(FAILS, 1.0, 1e-4)


@pytest.mark.parametrize(
    ("verdicts", "every", "some"),
    [
        ([YES], HOLDS, HOLDS),
        ([NO], FAILS, FAILS),
        ([MAYBE], UNDECIDABLE, UNDECIDABLE),
        ([YES, YES, YES], HOLDS, UNDECIDABLE),  # Holm: 3 * 0.03 > 0.05
        ([NO, NO, NO], UNDECIDABLE, FAILS),
        ([YES, MAYBE], UNDECIDABLE, UNDECIDABLE),
        ([STRONG_YES, MAYBE], UNDECIDABLE, HOLDS),
        ([STRONG_NO, MAYBE], FAILS, UNDECIDABLE),
        ([STRONG_NO, STRONG_YES], FAILS, HOLDS),
        ([YES, NO], UNDECIDABLE, UNDECIDABLE),
    ],
)
def test_quantifiers(verdicts: list[Verdict], every: str, some: str) -> None:
    assert combine(verdicts, "every")[0] == every
    assert combine(verdicts, "some")[0] == some
    p, against = [v.p for v in verdicts], [v.p_against for v in verdicts]
    assert combine(verdicts, "every")[1:] == (max(p), min(multipletests(against, method="holm")[1]))
    assert combine(verdicts, "some")[1:] == (min(multipletests(p, method="holm")[1]), max(against))


def test_a_significant_condition_without_power_does_not_count() -> None:
    weak = verdict(UNDECIDABLE, 1.0, 1e-6)
    assert combine([YES, weak], "every")[0] == UNDECIDABLE


@pytest.mark.parametrize(("verdicts", "quantifier"), [([], "every"), ([YES], "most")])
def test_what_cannot_be_combined(verdicts: list[Verdict], quantifier: str) -> None:
    with pytest.raises(ValueError, match="'every' or 'some'"):
        combine(verdicts, quantifier)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
@settings(deadline=None)
def test_the_mean_and_its_interval_for_tables_are_scipys(values: list[float]) -> None:
    mean, low, high = t_interval(values)
    assert mean == pytest.approx(np.mean(values), abs=1e-15)
    expected = stats.ttest_1samp(values, 0).confidence_interval() if len(set(values)) > 1 else (mean, mean)
    assert (low, high) == pytest.approx(tuple(expected), abs=1e-12)


def test_tables_have_no_interval_of_one_value_and_no_mean_of_none() -> None:
    assert t_interval([0.5])[0] == 0.5
    assert all(np.isnan(t_interval([0.5])[1:]))
    assert all(np.isnan(t_interval([])))
    assert t_interval([0.25] * 3) == (0.25, 0.25, 0.25)
