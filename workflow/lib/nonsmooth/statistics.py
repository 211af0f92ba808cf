"""Statistics that suit few runs: paired differences and counts, judged against a region that was fixed beforehand.

A verdict needs both a significant test and enough power at the observed spread; without them it is `undecidable`.
docs/methods.md has the rules in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, inf, isfinite, nan, sqrt

import numpy as np
from scipy.integrate import fixed_quad
from scipy.special import chdtr, chdtri, ndtr, stdtr, stdtrit
from scipy.stats import binom, binomtest
from statsmodels.stats.multitest import multipletests

HOLDS, FAILS, UNDECIDABLE = "holds", "fails", "undecidable"

# Up to this many differences all subsets are used, above it a sample of them.
ALL_SUBSETS = 12
SAMPLED_SUBSETS = 4095
RESAMPLES = 400
SEED = 0
# A number of runs beyond this is reported as infinite.
MAX_RUNS = 500


@dataclass(frozen=True)
class Target:
    """The open region `low` to `high` that a claim says the mean (or share) is in, at least one end of which is finite.

    Attributes:
        low, high: in the units of the values; infinite where the region has no such end.
        shift: the distance from a single end at which the test should have its power.
    """

    low: float = -inf
    high: float = inf
    shift: float = 0.0

    @property
    def is_bounded(self) -> bool:
        return isfinite(self.low) and isfinite(self.high)

    @property
    def tails(self) -> int:
        """At how many ends the mean can be outside; the level of `fails` is split among them."""
        return 2 if self.is_bounded else 1

    def contains(self, mean: float) -> bool:
        return self.low < mean < self.high


# What can be said of a mean difference, by name: the region for a margin.
DECISIONS: dict[str, Callable[[float], Target]] = {
    "equivalent": lambda margin: Target(-margin, margin, margin),
    "lower": lambda margin: Target(high=-margin, shift=margin),
    "higher": lambda margin: Target(low=margin, shift=margin),
    "not_lower": lambda margin: Target(low=-margin, shift=margin),
}


@dataclass(frozen=True)
class Verdict:
    """What the runs say of a claim.

    Attributes:
        verdict: `holds`, `fails` or `undecidable`.
        n: number of differences (of minibatches or runs, where they are counted).
        mean, low, high: the mean with its 1 - 2 alpha interval; infinite where there is none.
        p: the smallest alpha at which the claim would hold; `p_against`: at which it would fail.
        power: of the verdict, or, where there is none, of the claim if it is true.
        runs_needed: the smallest n that has the power; NaN where there is a verdict, infinite beyond `MAX_RUNS`.
        test: its name.
    """

    verdict: str
    n: int
    mean: float
    low: float
    high: float
    p: float
    p_against: float
    power: float
    runs_needed: float
    test: str


def judge(
    values: Sequence[float],
    target: Target,
    alpha: float = 0.05,
    power: float = 0.8,
    is_bimodal: bool = False,
    plans: bool = True,
) -> Verdict:
    """Whether the mean that `values` are a sample of lies in `target`.

    It does (`holds`) if the 1 - 2 alpha interval lies inside, as two one-sided tests say, and does not (`fails`) if a test of
    level alpha rejects that it does; for a region with two ends that is one of level alpha / 2 for each.

    Args:
        values: paired differences, or one value per seed, all finite.
        is_bimodal: whether they are not nearly normal, as where some run diverged; then, and where all values are equal and say
            nothing of a spread (accuracies are multiples of one image), signs are flipped; otherwise it is Student's t.
        plans: whether power and runs needed are looked for where there is no verdict, which takes longest; NaN if not.

    Raises ValueError if there are no values, or if one is not finite.
    """
    has_no_spread = len(values) > 1 and np.ptp(values) == 0
    return _judge((_SignFlip if is_bimodal or has_no_spread else _StudentT)(values), target, alpha, power, plans)


def judge_count(count: int, n: int, target: Target, alpha: float = 0.05, power: float = 0.8) -> Verdict:
    """Whether the probability of which `count` of `n` is a sample lies in `target`, by exact binomial tests.

    Its power is 1 where some outcome of n would be a verdict, and otherwise 0; the interval is Clopper and Pearson's.
    """
    return _judge(_Counts(count, n), target, alpha, power)


def interval(values: Sequence[float], confidence: float = 0.95, is_bimodal: bool = False) -> tuple[float, float]:
    """The two-sided confidence interval of the mean.

    Student's t, or, where `is_bimodal`, by flipping signs: with the values symmetric about a centre, the means of all
    2^n - 1 subsets cut the line into 2^n parts that are equally likely to have it (Hartigan, J. Am. Stat. Assoc. 64, 1303,
    1969, theorem 1). Equal values have their value as the t interval. Where the values are too few, one for t, or fewer than
    log2(2 / (1 - confidence)) for signs, the interval is the line.

    Raises ValueError if there are no values, or if one is not finite.
    """
    return (_SignFlip if is_bimodal else _StudentT)(values).interval((1 - confidence) / 2)


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """The mean of independent values and its two-sided interval by Student's t, for tables: NaN where there are fewer than two
    values, and for none a mean that is NaN, too."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return (float(values.mean()) if len(values) else nan), nan, nan
    return float(values.mean()), *interval(values, confidence)


def interval_of_share(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of the probability of which `count` of `n` is a sample."""
    return _Counts(count, n).interval((1 - confidence) / 2)


def combine(verdicts: Sequence[Verdict], quantifier: str, alpha: float = 0.05) -> tuple[str, float, float]:
    """The verdict over several conditions, with its p and p against it.

    `every` holds if all hold (an intersection-union test, which needs no correction) and fails if one does, after Holm's
    correction; `some` is the mirror image.

    Raises ValueError for another quantifier or no verdict.
    """
    if quantifier not in ("every", "some") or not verdicts:
        raise ValueError(
            f"quantifier must be 'every' or 'some', of at least one verdict, got {quantifier!r} of {verdicts!r}"
        )
    names = [verdict.verdict for verdict in verdicts]
    p, against = [verdict.p for verdict in verdicts], [verdict.p_against for verdict in verdicts]
    one, other, p_one, p_other = (FAILS, HOLDS, against, p) if quantifier == "every" else (HOLDS, FAILS, p, against)
    adjusted = multipletests(p_one, alpha=alpha, method="holm")[1]
    if all(name == other for name in names):
        found = other
    elif any(name == one and value <= alpha for name, value in zip(names, adjusted, strict=True)):
        found = one
    else:
        found = UNDECIDABLE
    p_all, p_any = max(p_other), float(min(adjusted))
    return (found, p_all, p_any) if quantifier == "every" else (found, p_any, p_all)


def welch_interval(means, stds, runs, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The confidence interval of the first mean less the second, of two independent samples of unequal variance, elementwise.

    Args:
        means, stds, runs: each a pair of numbers or of arrays of one shape: means, sample standard deviations, numbers of runs.

    Returns:
        low, high: float64; NaN where a sample has one run, whose deviation is unknown; the difference where no run deviates.
    """
    means, stds, runs = (np.asarray(pair, float) for pair in (means, stds, runs))
    difference = means[0] - means[1]
    parts = stds**2 / runs
    variance = parts.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Welch and Satterthwaite's degrees of freedom
        freedom = variance**2 / (parts**2 / (runs - 1)).sum(0)
        half = np.where(variance == 0, 0.0, stdtrit(freedom, 0.5 + confidence / 2) * np.sqrt(variance))
    half = np.where(runs.min(0) < 2, np.nan, half)
    return difference - half, difference + half


def _judge(
    test: _StudentT | _SignFlip | _Counts, target: Target, alpha: float, power: float, plans: bool = True
) -> Verdict:
    low, high = test.interval(alpha)
    p, p_against = _p_values(test, target)
    found = HOLDS if p <= alpha else FAILS if p_against <= alpha else UNDECIDABLE
    reached = test.power(found, target, alpha) if plans or found != UNDECIDABLE else nan
    is_decided = found != UNDECIDABLE and reached >= power
    return Verdict(
        verdict=found if is_decided else UNDECIDABLE,
        n=test.n,
        mean=test.mean,
        low=low,
        high=high,
        p=p,
        p_against=p_against,
        power=reached,
        runs_needed=test.runs_needed(found, target, alpha, power) if plans and not is_decided else nan,
        test=test.name,
    )


def _p_values(test: _StudentT | _SignFlip | _Counts, target: Target) -> tuple[float, float]:
    p, against = [], []
    if isfinite(target.low):
        p.append(test.p_above(target.low))
        against.append(test.p_below(target.low))
    if isfinite(target.high):
        p.append(test.p_below(target.high))
        against.append(test.p_above(target.high))
    return max(p), min(1.0, target.tails * min(against))


def _finite(values: Sequence[float]) -> np.ndarray:
    values = np.asarray(values, float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"a list of finite values, at least one, is needed, got {values.tolist()}")
    return values


class _StudentT:
    """Student's t for the mean of nearly normal values."""

    name = "t"

    def __init__(self, values: Sequence[float]) -> None:
        values = _finite(values)
        self.n = len(values)
        self.mean = float(values.mean())
        self.std = float(values.std(ddof=1)) if self.n > 1 else nan

    def interval(self, alpha: float) -> tuple[float, float]:
        if self.n == 1:
            return -inf, inf
        half = stdtrit(self.n - 1, 1 - alpha) * self.std / sqrt(self.n)
        return float(self.mean - half), float(self.mean + half)

    def p_above(self, bound: float) -> float:
        """Of the hypothesis that the mean is at most `bound`."""
        return self._p(self.mean - bound)

    def p_below(self, bound: float) -> float:
        return self._p(bound - self.mean)

    def _p(self, distance: float) -> float:
        if self.n == 1:
            return 1.0
        if self.std == 0:
            return 0.0 if distance > 0 else 1.0
        return float(stdtr(self.n - 1, -distance * sqrt(self.n) / self.std))

    def power(self, found: str, target: Target, alpha: float) -> float:
        """At the observed spread: of a region with two ends if the mean is its centre; of a single end for a mean that is
        `target.shift` beyond it, or as far as the observed one if that is more."""
        if self.n == 1:
            return 0.0
        if found == FAILS:
            return self._one_sided(max(target.shift, -self._inside(target)), self.n, alpha / target.tails)
        if found == HOLDS and not target.is_bounded:
            return self._one_sided(max(target.shift, self._inside(target)), self.n, alpha)
        return self._planned(target, self.n, alpha)

    def runs_needed(self, found: str, target: Target, alpha: float, power: float) -> float:
        """To have the power; where that is there and the mean is near an end, to have it for the observed mean."""
        if self.n == 1:
            return 2.0
        if self._planned(target, self.n, alpha) < power:
            return _smallest(lambda n: self._planned(target, n, alpha) >= power, self.n + 1)
        if target.contains(self.mean):
            return _smallest(lambda n: t_power(target, self.mean, self.std, n, alpha) >= power, self.n + 1)
        level = alpha / target.tails
        return _smallest(lambda n: self._one_sided(-self._inside(target), n, level) >= power, self.n + 1)

    def _inside(self, target: Target) -> float:
        """How far inside the nearest end the mean is; negative outside."""
        return min(self.mean - target.low, target.high - self.mean)

    def _planned(self, target: Target, n: int, alpha: float) -> float:
        if target.is_bounded:
            return t_power(target, (target.low + target.high) / 2, self.std, n, alpha)
        return self._one_sided(target.shift, n, alpha)

    def _one_sided(self, shift: float, n: int, alpha: float) -> float:
        return t_power(Target(low=0.0), shift, self.std, n, alpha)


def t_power(target: Target, mean: float, std: float, n: int, alpha: float) -> float:
    """The probability that t tests of level `alpha`, one for each end of `target`, find that the mean of n values is inside.

    Exact: given the sample's deviation s, the sample's mean has to be t s / sqrt(n) inside of each end; that probability is
    integrated over the distribution of s (for two ends: Phillips, J. Pharmacokinet. Biopharm. 18, 137, 1990).

    Args:
        mean, std: the true ones.
    """
    if std == 0:
        return float(target.contains(mean))
    freedom, error = n - 1, std / sqrt(n)
    critical = stdtrit(freedom, 1 - alpha)
    # Of the distribution of s, what leaves room for a mean between the ends.
    room = freedom * ((target.high - target.low) / 2 / critical / error) ** 2
    largest = chdtr(freedom, room) if isfinite(room) else 1.0

    def inside(quantile: np.ndarray) -> np.ndarray:
        half = critical * error * np.sqrt(chdtri(freedom, 1 - quantile) / freedom)
        return ndtr((target.high - half - mean) / error) - ndtr((target.low + half - mean) / error)

    return min(1.0, float(fixed_quad(inside, 0, largest, n=100)[0]))


class _SignFlip:
    """Sign flips: exact for values that are symmetric about their centre, whatever their distribution.

    The p of "the centre is at most b" is the share of the 2^n sign patterns under which the sum of values - b is as large as it
    is, which are the identity and those whose flipped subset has a mean of at most b.
    """

    name = "sign flips"

    def __init__(self, values: Sequence[float]) -> None:
        self.values = _finite(values)
        self.n = len(self.values)
        self.mean = float(self.values.mean())
        self.subset_means = self.values @ _subsets(self.n)

    def interval(self, alpha: float) -> tuple[float, float]:
        means = np.sort(self.subset_means)
        # Guards a product such as 0.05 * 20 against being just below an integer.
        rank = floor(alpha * (len(means) + 1) * (1 + 1e-12))
        return (-inf, inf) if rank == 0 else (float(means[rank - 1]), float(means[-rank]))

    def p_above(self, bound: float) -> float:
        return float(_share(self.subset_means <= bound))

    def p_below(self, bound: float) -> float:
        return float(_share(self.subset_means >= bound))

    def power(self, found: str, target: Target, alpha: float) -> float:
        """The share of resamples of the values that come to the verdict; where there is none, to the likelier one."""
        return self._reached(found, target, alpha, self.n)

    def runs_needed(self, found: str, target: Target, alpha: float, power: float) -> float:
        return _smallest(lambda n: self._reached(found, target, alpha, n) >= power, self.n + 1)

    def _reached(self, found: str, target: Target, alpha: float, n: int) -> float:
        samples = np.random.default_rng(SEED).choice(self.values, (RESAMPLES, n))
        means = samples @ _subsets(n)
        holds, fails = np.ones(RESAMPLES, bool), np.zeros(RESAMPLES, bool)
        level = alpha / target.tails
        if isfinite(target.low):
            holds &= _share(means <= target.low) <= alpha
            fails |= _share(means >= target.low) <= level
        if isfinite(target.high):
            holds &= _share(means >= target.high) <= alpha
            fails |= _share(means <= target.high) <= level
        reached = {HOLDS: holds.mean(), FAILS: fails.mean()}
        return float(reached.get(found, max(reached.values())))


def _share(flipped: np.ndarray) -> np.ndarray:
    """Of the sign patterns, those whose flipped subset is counted, and the identity; along the last axis."""
    return (1 + flipped.sum(-1)) / (1 + flipped.shape[-1])


@lru_cache(maxsize=64)
def _subsets(n: int) -> np.ndarray:
    """Weights whose product with n values are the means of non-empty subsets: of all, or of a fixed sample."""
    if n <= ALL_SUBSETS:
        members = np.arange(1, 2**n) >> np.arange(n)[:, None] & 1
    else:
        members = np.random.default_rng(SEED).integers(0, 2, (n, SAMPLED_SUBSETS))
        members[0, members.sum(0) == 0] = 1
    return members / members.sum(0)


class _Counts:
    """Exact binomial tests of a share."""

    name = "binomial"

    def __init__(self, count: int, n: int) -> None:
        if not 0 <= count <= n or n < 1:
            raise ValueError(f"a count from 0 to n, which is at least 1, is needed, got {count} of {n}")
        self.count, self.n = int(count), int(n)
        self.mean = self.count / self.n

    def interval(self, alpha: float) -> tuple[float, float]:
        found = binomtest(self.count, self.n).proportion_ci(1 - 2 * alpha, "exact")
        return float(found.low), float(found.high)

    def p_above(self, bound: float) -> float:
        return float(binom.sf(self.count - 1, self.n, bound))

    def p_below(self, bound: float) -> float:
        return float(binom.cdf(self.count, self.n, bound))

    def power(self, found: str, target: Target, alpha: float) -> float:
        outcomes = [_p_values(_Counts(count, self.n), target) for count in (0, self.n)]
        return float(found != UNDECIDABLE or any(min(p) <= alpha for p in outcomes))

    def runs_needed(self, found: str, target: Target, alpha: float, power: float) -> float:
        """To come to a verdict with the power if the observed share is the true one."""

        def reached(n: int) -> float:
            counts = np.arange(n + 1)
            p = np.array([_p_values(_Counts(count, n), target) for count in counts])
            return float((binom.pmf(counts, n, self.mean) @ (p <= alpha)).max())

        return _smallest(lambda n: reached(n) >= power, self.n + 1)


def _smallest(is_enough: Callable[[int], bool], start: int) -> float:
    """The smallest n from `start` on that is enough, given that every larger one is, too; infinite beyond `MAX_RUNS`."""
    low, high = start - 1, start
    while not is_enough(high):
        if high >= MAX_RUNS:
            return inf
        low, high = high, min(2 * high, MAX_RUNS)
    while high - low > 1:
        middle = ceil((low + high) / 2)
        if is_enough(middle):
            high = middle
        else:
            low = middle
    return float(high)
