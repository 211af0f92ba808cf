"""How often the rule of `nonsmooth.statistics` errs: verdicts on simulated differences whose true mean is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import pandas as pd

from nonsmooth.statistics import DECISIONS, FAILS, HOLDS, UNDECIDABLE, interval_of_share, judge

# In margins: the standard deviation of differences without divergence, their mean, and what a diverged run loses.
SPREADS = (0.1, 0.3, 1.0)
EFFECTS = (0.0, 0.5, 1.0, 2.0, 4.0)
LOSS = 100.0
RUNS = (3, 6, 10)
# The probability that a run diverges, where both sides do alike.
DIVERGING = 0.5

Drawn = tuple[np.ndarray, bool]


def _normal(generator: np.random.Generator, n: int, spread: float, effect: float) -> Drawn:
    return generator.normal(-effect, spread, n), False


def _both_diverge(generator: np.random.Generator, n: int, spread: float, effect: float) -> Drawn:
    """Each side diverges with the same probability, so that differences are symmetric about the effect."""
    diverged = generator.random((2, n)) < DIVERGING
    differences = generator.normal(-effect, spread, n) + LOSS * (diverged[1] * 1.0 - diverged[0])
    return differences, bool(diverged.any())


def _one_diverges(generator: np.random.Generator, n: int, spread: float, effect: float) -> Drawn:
    """The whole effect comes from runs of one side that diverge, rarely: q = effect / loss."""
    diverged = generator.random(n) < effect / LOSS
    return generator.normal(0, spread, n) - LOSS * diverged, bool(diverged.any())


# How differences are distributed. The last one is asymmetric, and no rule can see what did not happen in its runs.
DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int, float, float], Drawn]] = {
    "normal": _normal,
    "both_diverge": _both_diverge,
    "one_diverges_rarely": _one_diverges,
}


def simulate(repeats: int, alpha: float = 0.05, power: float = 0.8, seed: int = 0) -> pd.DataFrame:
    """Verdicts on `repeats` samples of every case.

    Returns:
        A row per decision, distribution, n, spread and effect (both in margins; an effect of 2 is a mean of -2 margins): `is_true`
        (whether the claim is), the shares `holds`, `fails` and `undecidable`; `wrong` (holds although false, or fails although true) with
        its exact 95 % interval `wrong_low` to `wrong_high`; and `repeats`.
    """
    return pd.DataFrame(list(_cases(repeats, alpha, power, np.random.default_rng(seed))))


def _cases(repeats: int, alpha: float, power: float, generator: np.random.Generator) -> Iterator[dict]:
    decisions = ("equivalent", "lower")
    for decide, (name, draw), n, spread, effect in product(decisions, DISTRIBUTIONS.items(), RUNS, SPREADS, EFFECTS):
        target = DECISIONS[decide](1.0)
        verdicts = []
        for _ in range(repeats):
            differences, is_bimodal = draw(generator, n, spread, effect)
            verdicts.append(judge(differences, target, alpha, power, is_bimodal, plans=False).verdict)
        counts = {verdict: verdicts.count(verdict) for verdict in (HOLDS, FAILS, UNDECIDABLE)}
        is_true = target.contains(-effect)
        wrong = counts[FAILS if is_true else HOLDS]
        low, high = interval_of_share(wrong, repeats)
        yield {
            "decide": decide,
            "distribution": name,
            "n": n,
            "spread": spread,
            "effect": effect,
            "is_true": is_true,
            **{verdict: count / repeats for verdict, count in counts.items()},
            "wrong": wrong / repeats,
            "wrong_low": low,
            "wrong_high": high,
            "repeats": repeats,
        }
