"""The factorial experiment: effects against a least-squares fit seed by seed, planted ones recovered, cells recomputed."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nonsmooth.factorial import (
    CELL_COLUMNS,
    CROSSED,
    DESIGNS,
    EFFECT_COLUMNS,
    EXPERIMENT,
    cells_of,
    cells_table,
    contrasts,
    effects_table,
    experiments,
)
from nonsmooth.programs import FACTORS, PARTS, PROGRAMS, levels
from nonsmooth.rules import EVALUATIONS, Evaluation, Hybrid

CONDITION = {"dataset": "mnist_5k", "architecture": "lenet5", "normalization": "none", "optimizer": "sgd",
             "precision": "float16", "relu_derivative": 0.0}  # fmt: skip
assert (*CONDITION, "beta") == EXPERIMENT
MODIFIED = {
    "R": [name for name, found in CROSSED.items() if found.unlimited and not found.wide],
    "W": [name for name, found in CROSSED.items() if found.wide and not found.unlimited],
}


def run(name: str, beta: float, seed: int, accuracy: float, diverged: bool = False, **factors) -> dict:
    is_native = name == "native"
    return {**CONDITION, "rule": "native" if is_native else str(Hybrid(beta, name)), "beta": 0.0 if is_native else beta,
            "evaluation": "" if is_native else name, "seed": seed, "test_accuracy": accuracy, "diverged": diverged,
            **factors}  # fmt: skip


def random_runs(names, seeds=(0, 1, 2), betas=(10.0,), generator=None, **factors) -> pd.DataFrame:
    """Runs of native once and of the other programs at each beta."""
    generator = generator or np.random.default_rng(0)
    wanted = [(name, beta) for name in names for beta in (betas[:1] if name == "native" else betas)]
    return pd.DataFrame(
        [
            run(name, beta, seed, generator.random(), bool(generator.random() < 0.3), **factors)
            for (name, beta), seed in itertools.product(wanted, seeds)
        ]
    )


def fitted(runs: pd.DataFrame, beta: float, design: str, response: str) -> dict[str, list[float]]:
    """Twice the coefficients, seed by seed, of a least-squares fit in all products of factors coded -1 and 1."""
    factors = design.split(",")
    subsets = [s for size in range(len(factors) + 1) for s in itertools.combinations(factors, size)]
    estimates: dict[str, list[float]] = {":".join(subset): [] for subset in subsets[1:]}
    for seed in sorted(set(runs.seed)):
        rows, values = [], []
        for cell in itertools.product((0, 1), repeat=len(factors)):
            at = dict(zip(factors, cell, strict=True))
            F, B, J = (bool(at[part]) for part in PARTS)
            wanted = Evaluation(F, B, J, unlimited=at.get("R") == 0 and (F or B), wide=at.get("W") == 1 and B)
            (name,) = [name for name, found in {"native": Evaluation(), **EVALUATIONS}.items() if found == wanted]
            (value,) = [row[response] for row in runs.to_dict("records")
                        if (row["evaluation"] or "native") == name and row["seed"] == seed
                        and row["beta"] in (0.0 if name == "native" else beta,)]  # fmt: skip
            rows.append([math.prod(2 * at[factor] - 1 for factor in subset) for subset in subsets])
            values.append(float(value))
        coefficients = np.linalg.lstsq(np.array(rows, float), np.array(values), rcond=None)[0]
        for subset, coefficient in zip(subsets[1:], coefficients[1:], strict=True):
            estimates[":".join(subset)].append(2 * coefficient)
    return estimates


@pytest.mark.parametrize("design", DESIGNS)
def test_effects_are_those_of_a_least_squares_fit_per_seed(design: str) -> None:
    names = [*PROGRAMS, *MODIFIED.get(design[-1], [])]
    runs = random_runs(names, seeds=(4, 0, 9, 2), betas=(10.0, 1000.0))
    table = effects_table(runs)
    assert tuple(table.columns) == EFFECT_COLUMNS
    assert set(table.design) == {"F,B,J", design}
    for beta, response in itertools.product((10.0, 1000.0), ("test_accuracy", "diverged")):
        expected = fitted(runs, beta, design, response)
        found = table[(table.beta == beta) & (table.response == response) & (table.design == design)]
        assert found.effect.tolist() == list(expected)
        for row in found.itertuples():
            values = expected[row.effect]
            half = stats.t.ppf(0.975, 3) * statistics.stdev(values) / 2
            assert row.n == 4
            assert row.estimate == pytest.approx(statistics.fmean(values), abs=1e-14)
            assert (row.low, row.high) == pytest.approx((row.estimate - half, row.estimate + half), abs=1e-13)
    for name, value in CONDITION.items():
        assert (table[name] == value).all()


def planted(at: dict[str, int], effects: dict[str, float]) -> float:
    """An accuracy with these effects: half of each, with the sign of its factors."""
    return 0.5 + sum(
        size / 2 * math.prod(2 * at[factor] - 1 for factor in effect.split(":")) for effect, size in effects.items()
    )


@given(st.lists(st.floats(-0.1, 0.1), min_size=7, max_size=7), st.floats(-0.2, 0.2))
@settings(deadline=None, max_examples=20)
def test_planted_effects_are_recovered(sizes: list[float], of_seed: float) -> None:
    """Whatever all runs of a seed have in common."""
    effects = dict(zip(contrasts(list(PARTS)), sizes, strict=True))
    runs = pd.DataFrame(
        [
            run(name, 100.0, seed, planted(levels(found), effects) + seed * of_seed)
            for name, found in PROGRAMS.items()
            for seed in range(3)
        ]
    )
    table = effects_table(runs)
    table = table[table.response == "test_accuracy"]
    assert dict(zip(table.effect, table.estimate, strict=True)) == pytest.approx(effects, abs=1e-14)
    # The same for every seed, so that the interval is the point.
    assert (table.high - table.low).max() < 1e-13


def test_one_part_alone_and_an_interaction_alone_can_be_told_apart() -> None:
    """Runs that fail where F and J meet, as with overflow, are half an effect of each and of both."""
    fails = {"forward_jacobian", "composed"}
    runs = pd.DataFrame([run(name, 10.0, seed, 0.1 if name in fails else 0.9, name in fails)
                         for name in PROGRAMS for seed in range(2)])  # fmt: skip
    found = effects_table(runs).pivot_table(index="effect", columns="response", values="estimate")
    for effect, accuracy, diverged in (
        ("F", -0.4, 0.5),
        ("J", -0.4, 0.5),
        ("F:J", -0.4, 0.5),
        ("B", 0, 0),
        ("F:B:J", 0, 0),
    ):
        assert found.test_accuracy[effect] == pytest.approx(accuracy, abs=1e-15)
        assert found.diverged[effect] == pytest.approx(diverged, abs=1e-15)
    only_forward = runs.assign(test_accuracy=runs.evaluation.isin(["forward", "forward_backward", *fails]) * -0.3 + 0.9)
    found = effects_table(only_forward).pivot_table(index="effect", columns="response", values="estimate").test_accuracy
    assert found["F"] == pytest.approx(-0.3)
    assert np.abs(found.drop("F")).max() < 1e-15


def test_what_cannot_overflow_is_the_same_at_both_levels_of_the_range() -> None:
    """A loss that only overflow causes is R, and half of it in each interaction of those that overflow."""
    runs = random_runs([*PROGRAMS, *MODIFIED["R"]])
    overflows = runs.evaluation.isin(["forward", "forward_backward", "forward_jacobian", "composed"])
    table = effects_table(runs.assign(test_accuracy=0.9 - 0.4 * overflows, diverged=overflows))
    found = table[(table.design == "F,B,J,R") & (table.response == "test_accuracy")].set_index("effect").estimate
    assert found["R"] == pytest.approx(-0.2)
    assert found["F:R"] == pytest.approx(-0.2)
    assert found["F"] == pytest.approx(-0.2)
    assert found[["B", "J", "B:R", "J:R", "F:B:R"]].abs().max() < 1e-15


def test_one_seed_has_no_interval() -> None:
    table = effects_table(random_runs(PROGRAMS, seeds=[3]))
    assert table.estimate.notna().all()
    assert table[["low", "high"]].isna().all(axis=None)
    assert set(table.n) == {1}
    cells = cells_table(random_runs(PROGRAMS, seeds=[3]))
    assert cells[["test_accuracy_low", "difference_high"]].isna().all(axis=None)


def test_only_seeds_with_every_program_count() -> None:
    runs = random_runs([*PROGRAMS, *MODIFIED["R"]], seeds=range(5))
    runs = runs[~((runs.evaluation == "forward") & (runs.seed == 1))]
    runs = runs[~((runs.rule == "native") & (runs.seed == 2))]
    runs = runs[~((runs.evaluation == "backward_unlimited") & (runs.seed == 3))]
    table = effects_table(runs)
    assert table.groupby("design").n.first().to_dict() == {"F,B,J": 3, "F,B,J,R": 2}
    kept = runs[runs.seed.isin([0, 3, 4])]
    pd.testing.assert_frame_equal(
        table[table.design == "F,B,J"].reset_index(drop=True),
        effects_table(kept[~kept.evaluation.str.endswith("unlimited")]).reset_index(drop=True),
    )
    assert cells_table(runs).set_index("program").runs[["native", "forward", "backward_unlimited"]].tolist() == [
        3,
        3,
        2,
    ]


@pytest.mark.parametrize("missing", list(PROGRAMS))
def test_without_one_of_the_eight_there_is_no_experiment(missing: str) -> None:
    runs = random_runs([name for name in PROGRAMS if name != missing])
    assert list(experiments(runs)) == []
    assert (tuple(cells_table(runs).columns), len(cells_table(runs))) == (CELL_COLUMNS, 0)
    assert (tuple(effects_table(runs).columns), len(effects_table(runs))) == (EFFECT_COLUMNS, 0)


def test_conditions_are_kept_apart() -> None:
    generator = np.random.default_rng(5)
    factors = [
        {"precision": "float16"},
        {"precision": "bfloat16"},
        {"normalization": "batch_norm"},
        {"relu_derivative": 1.0},
    ]
    parts = [random_runs(PROGRAMS, generator=generator, betas=(1000.0, 10.0), **found) for found in factors]
    table = effects_table(pd.concat(parts, ignore_index=True))
    alone = pd.concat([effects_table(part) for part in parts], ignore_index=True)
    keys = [*EXPERIMENT, "response", "effect"]
    pd.testing.assert_frame_equal(
        table.sort_values(keys, ignore_index=True), alone.sort_values(keys, ignore_index=True)
    )
    assert len(table) == 4 * 2 * 2 * 7


def test_cells_recomputed() -> None:
    names = [*PROGRAMS, *MODIFIED["R"], "composed_wide", "composed_unlimited_wide", "composed_float32"]
    runs = random_runs(names, seeds=range(4), betas=(10.0, 1000.0))
    table = cells_table(runs)
    assert tuple(table.columns) == CELL_COLUMNS
    # A pooling in float32 altogether is a mitigation, not a part.
    assert set(table.program) == set(names) - {"composed_float32"}
    native = {row["seed"]: row["test_accuracy"] for row in runs.to_dict("records") if row["rule"] == "native"}
    for row in table.to_dict("records"):
        mine = [one for one in runs.to_dict("records") if (one["evaluation"] or "native") == row["program"]
                and one["beta"] in (0.0 if row["program"] == "native" else row["beta"],)]  # fmt: skip
        accuracies = [one["test_accuracy"] for one in mine]
        differences = [one["test_accuracy"] - native[one["seed"]] for one in mine]
        assert (row["runs"], row["diverged"]) == (4, sum(one["diverged"] for one in mine))
        assert (row["test_accuracy_min"], row["test_accuracy_max"]) == (min(accuracies), max(accuracies))
        for name, values in (("test_accuracy", accuracies), ("difference", differences)):
            half = stats.t.ppf(0.975, 3) * statistics.stdev(values) / math.sqrt(4)
            mean = row["test_accuracy_mean" if name == "test_accuracy" else name]
            assert mean == pytest.approx(statistics.fmean(values), abs=1e-15)
            assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx((mean - half, mean + half))
        assert [row[factor] for factor in FACTORS] == list(levels(CROSSED[row["program"]]).values())


def test_other_rules_and_missing_evaluations_are_as_if_not_there() -> None:
    """As they are read from a file, where nothing is NaN."""
    runs = random_runs(PROGRAMS)
    others = pd.DataFrame([{**run("native", 0.0, 0, 0.3), "rule": rule, "beta": beta, "evaluation": np.nan}
                           for rule, beta in (("minimal", 1.0), ("norm-1", np.nan))])  # fmt: skip
    read = pd.concat([runs.assign(evaluation=runs.evaluation.replace("", np.nan)), others], ignore_index=True)
    pd.testing.assert_frame_equal(effects_table(read), effects_table(runs))
    pd.testing.assert_frame_equal(cells_table(read), cells_table(runs))


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_contrasts_are_orthogonal(number: int) -> None:
    factors = list("FBJR")[:number]
    matrix = np.array(list(contrasts(factors).values()))
    assert len(matrix) == 2**number - 1
    np.testing.assert_array_equal(matrix @ matrix.T, np.eye(len(matrix)) * 2**number / 4 ** (number - 1))
    assert not matrix.sum(axis=1).any()
    assert cells_of(factors)[0] == (0,) * number
