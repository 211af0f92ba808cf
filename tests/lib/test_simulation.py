"""How often the rule of decision errs: at most at its level, where its assumptions are met."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from nonsmooth import simulation
from nonsmooth.simulation import LOSS, simulate
from nonsmooth.statistics import FAILS, HOLDS, UNDECIDABLE

REPEATS = 120
ALPHA = 0.05


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return simulate(REPEATS, ALPHA)


def test_every_case_is_there(table: pd.DataFrame) -> None:
    assert len(table) == 2 * 3 * 3 * 3 * 5
    assert not table.duplicated(["decide", "distribution", "n", "spread", "effect"]).any()
    assert table[[HOLDS, FAILS, UNDECIDABLE]].sum(axis="columns").tolist() == pytest.approx([1] * len(table))
    is_true = {"equivalent": table.effect < 1, "lower": table.effect > 1}
    for decide, expected in is_true.items():
        chosen = table.decide == decide
        assert (table.is_true == expected)[chosen].all()
    wrong = table[FAILS].where(table.is_true, table[HOLDS])
    assert (table.wrong == wrong).all()


def test_a_seed_is_a_table() -> None:
    one, other = simulate(2, seed=3), simulate(2, seed=3)
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("distribution", ["normal", "both_diverge"])
def test_wrong_verdicts_are_at_most_as_frequent_as_the_level(table: pd.DataFrame, distribution: str) -> None:
    """In every case, within what the number of repeats leaves open over all cases."""
    chosen = table[table.distribution == distribution]
    assert len(chosen) == 90
    largest = binom.isf(0.001 / len(chosen), REPEATS, ALPHA)
    assert (chosen.wrong * REPEATS <= largest).all(), chosen[chosen.wrong * REPEATS > largest]


def test_a_verdict_is_reached_where_the_spread_is_small(table: pd.DataFrame) -> None:
    """False negatives: with a spread of a tenth of the margin three runs decide every effect but the margin itself."""
    certain = table[(table.distribution == "normal") & (table.spread == 0.1) & (table.effect != 1)]
    assert len(certain) == 2 * 3 * 4
    assert (certain[UNDECIDABLE] < 0.05).all()
    hopeless = table[(table.distribution == "both_diverge") & (table.n == 3) & (table.decide == "lower")]
    # Signs do not decide with three runs; where none of the six diverged it is t.
    assert (hopeless[[HOLDS, FAILS]].sum(axis="columns") * REPEATS <= binom.isf(1e-6, REPEATS, 0.5**6)).all()


def test_a_rare_divergence_is_seen_as_often_as_it_happens(table: pd.DataFrame) -> None:
    """Without one, the runs look equivalent: the limit that docs/methods.md states."""
    rare = table[(table.distribution == "one_diverges_rarely") & (table.spread == 0.1) & (table.decide == "equivalent")]
    for row in rare.itertuples():
        unseen = (1 - row.effect / LOSS) ** row.n
        # Equivalent if, and nearly only if, no run diverged.
        low, high = binom.ppf([1e-5, 1 - 1e-5], REPEATS, unseen)
        assert low - 0.05 * REPEATS <= row.holds * REPEATS <= high


def test_the_distributions_have_the_effect_as_their_mean() -> None:
    for draw in simulation.DISTRIBUTIONS.values():
        values, _ = draw(np.random.default_rng(0), 200_000, 1.0, 4.0)
        assert abs(values.mean() + 4) < 5 * values.std() / len(values) ** 0.5
