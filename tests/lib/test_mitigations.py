"""The table of mitigations, recomputed row by row from runs that never were."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings
from scipy import stats

from nonsmooth.cells import CONDITION
from nonsmooth.mitigations import COLUMNS, compare, mitigation, zone_pair
from nonsmooth.rules import Hybrid, parse_rule, rule_beta

RULES = ("native", "minimal", "average", "norm-0", "boltzmann-0.1", "strided", "rounded-3.5", "hybrid-1000-composed",
         "hybrid-1000-exact", "hybrid-1000-composed_float32", "hybrid-10000-composed")  # fmt: skip
OPTIMIZERS = ("sgd", "adam", "sgd_clipped", "sgd_scaled")

thorough = settings(deadline=None, derandomize=True, max_examples=200)


def runs_of(seeds: int = 4, **changes) -> pd.DataFrame:
    """Runs of every rule with every optimizer, in two precisions."""
    generator = np.random.default_rng(0)
    rows = [
        {
            "dataset": "mnist_5k",
            "architecture": "lenet5",
            "normalization": "none",
            "optimizer": optimizer,
            "precision": precision,
            "rule": rule,
            "relu_derivative": 0.0,
            "beta": rule_beta(parse_rule(rule)),
            "seed": seed,
            "test_accuracy": generator.uniform(0.8, 0.9),
            "diverged": rule == "hybrid-10000-composed" and seed > 0,
            "batch_size": 128,
            "images_per_second": generator.uniform(1000, 2000),
            "device": "a processor",
            **changes,
        }
        for precision, optimizer, rule, seed in itertools.product(
            ("float16", "float32"), OPTIMIZERS, RULES, range(seeds)
        )
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("rule", "optimizer", "name"),
    [
        ("native", "sgd", "none"),
        ("hybrid-1000-composed", "sgd", "none"),
        ("hybrid-1000-composed", "sgd_clipped", "gradient clipping"),
        ("native", "sgd_scaled", "loss scaling"),
        ("hybrid-1000-composed_float32", "sgd", "pooling in float32"),
        ("hybrid-1000-composed_float32", "sgd_scaled", None),
        ("average", "sgd", "average pooling"),
        ("average", "sgd_clipped", None),
        ("boltzmann-0.1", "sgd", "Boltzmann pooling"),
        ("logsumexp-2", "sgd", "log-sum-exp pooling"),
        ("norm-0", "sgd", "Euclidean-norm pooling"),
        ("strided", "sgd", "strided convolution"),
        ("native", "adam", None),
        ("average", "adam", None),
        ("minimal", "sgd", None),
        ("hybrid-1000-exact", "sgd", None),
        ("hybrid-1000-forward", "sgd_clipped", None),
        ("rounded-3.5", "sgd", None),
    ],
)
def test_what_a_run_tries(rule: str, optimizer: str, name: str | None) -> None:
    assert mitigation(rule, optimizer) == name


def test_every_row_is_recomputed() -> None:
    runs = runs_of()
    table = compare(runs)
    assert tuple(table.columns) == COLUMNS
    wanted = [
        (precision, rule, optimizer)
        for precision, optimizer, rule in itertools.product(("float16", "float32"), OPTIMIZERS, RULES)
        if mitigation(rule, optimizer) is not None
    ]
    assert list(zip(table.precision, table.rule, table.optimizer, strict=True)) == wanted
    for row in table.to_dict("records"):
        mine = [run for run in runs.to_dict("records") if all(run[key] == row[key] for key in CONDITION)]
        native = [
            run for run in runs.to_dict("records")
            if (run["rule"], run["optimizer"], run["precision"]) == ("native", "sgd", row["precision"])
        ]  # fmt: skip
        assert row["mitigation"] == mitigation(row["rule"], row["optimizer"])
        assert row["runs"] == row["pairs"] == 4
        assert row["diverged"] == sum(run["diverged"] for run in mine)
        accuracies = [run["test_accuracy"] for run in mine]
        assert row["test_accuracy_mean"] == pytest.approx(statistics.fmean(accuracies), rel=1e-14)
        assert (row["test_accuracy_min"], row["test_accuracy_max"]) == (min(accuracies), max(accuracies))
        differences = [run["test_accuracy"] - other["test_accuracy"] for run, other in zip(mine, native, strict=True)]
        assert row["difference"] == pytest.approx(statistics.fmean(differences), abs=1e-15)
        if row["rule"] == "native" and row["optimizer"] == "sgd":
            assert (row["difference_low"], row["difference_high"], row["cost"]) == (0, 0, 1)
        elif any(run["diverged"] for run in mine):
            assert math.isnan(row["difference_low"])
            assert math.isnan(row["difference_high"])
        else:
            expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
            assert (row["difference_low"], row["difference_high"]) == pytest.approx(
                (expected.low, expected.high), rel=1e-12
            )
        speeds = [statistics.median(run["images_per_second"] for run in group) for group in (native, mine)]
        assert row["cost"] == pytest.approx(speeds[0] / speeds[1], rel=1e-14)
        beta = row["beta"] if not math.isnan(row["beta"]) else None
        rule = parse_rule(row["rule"])
        assert beta == (rule.beta if isinstance(rule, Hybrid) else None)
        assert row["has_choice"] == row["rule"].startswith(("native", "norm", "hybrid"))
        assert math.isnan(row["zone_proportion"])


def test_pairs_are_common_seeds_of_the_same_condition() -> None:
    runs = runs_of()
    is_native = (runs.rule == "native") & (runs.optimizer == "sgd")
    fewer = compare(runs[~(is_native & (runs.seed >= 1) & (runs.precision == "float16"))])
    assert set(fewer.pairs[fewer.precision == "float16"]) == {1}
    assert fewer.difference_low[fewer.precision == "float16"].isna().all()
    assert set(fewer.pairs[fewer.precision == "float32"]) == {4}
    without = compare(runs[~is_native])
    assert set(without.pairs) == {0}
    assert without[["difference", "difference_low", "difference_high", "cost"]].isna().all(axis=None)


def test_costs_are_compared_on_one_device_only() -> None:
    runs = runs_of()
    runs.loc[runs.rule == "average", "device"] = "another"
    table = compare(runs)
    assert table.cost[table.rule == "average"].isna().all()
    assert table.cost[table.rule != "average"].notna().all()


def test_without_such_runs_the_table_is_empty() -> None:
    table = compare(runs_of().query("optimizer == 'adam'"))
    assert table.empty
    assert tuple(table.columns) == COLUMNS


@pytest.mark.parametrize(
    ("rule", "pair"),
    [
        ("native", ("minimal", "native")),
        ("hybrid-1000-composed", ("hybrid-1000-composed", "native")),
        ("norm-0", ("norm-1", "norm-0")),
        ("norm-0-composed", ("norm-1-composed", "norm-0-composed")),
    ],
)
def test_programs_that_make_the_choice_differently(rule: str, pair: tuple[str, str]) -> None:
    assert zone_pair(rule) == pair


def test_zone_proportions_are_those_of_the_program_and_the_batch_size() -> None:
    usual = {"dataset": "mnist_5k", "architecture": "lenet5", "normalization": "none", "precision": "float16",
             "batch_size": 128, "program": "minimal", "reference": "native", "noise": 0.0, "kernels": "deterministic",
             "proportion": 0.5}  # fmt: skip
    others = [
        {"batch_size": 64}, {"noise": 0.1}, {"kernels": "default"}, {"normalization": "batch_norm"},
        {"program": "native"}, {"program": "native+relu-1"}, {"dataset": "mnist"},
    ]  # fmt: skip
    rows = [*({**usual, "proportion": 0.1, **other} for other in others), usual,
            {**usual, "program": "hybrid-1000-composed", "proportion": 0.75},
            {**usual, "program": "norm-1", "reference": "norm-0", "proportion": 0.25}]  # fmt: skip
    table = compare(runs_of(), pd.DataFrame(rows))
    found = {
        (row.precision, row.rule, row.optimizer): row.zone_proportion
        for row in table.itertuples()
        if not math.isnan(row.zone_proportion)
    }
    assert found == {
        ("float16", "native", "sgd"): 0.5,
        ("float16", "norm-0", "sgd"): 0.25,
        ("float16", "hybrid-1000-composed", "sgd"): 0.75,
        ("float16", "native", "sgd_clipped"): 0.5,
        ("float16", "hybrid-1000-composed", "sgd_clipped"): 0.75,
    }
    other_relu = compare(runs_of(relu_derivative=1.0), pd.DataFrame(rows))
    assert other_relu.zone_proportion.isna().all()
