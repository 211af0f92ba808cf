"""Claims on made-up tables: every claim of the project comes out in four ways, and the numbers behind it are recomputed."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from nonsmooth import claims, published
from nonsmooth.cells import ZONE_CONDITION
from nonsmooth.claims import NOT_TESTED, Claim, ClaimsError, Settings, Tables, evaluate, read
from nonsmooth.rules import EVALUATIONS, number
from nonsmooth.statistics import FAILS, HOLDS, UNDECIDABLE, Target, judge

FILE = Path(__file__).resolve().parents[2] / "data/claims/maxpool.yaml"
CLAIMS = read(FILE)
OUTCOMES = (HOLDS, FAILS, UNDECIDABLE, NOT_TESTED)
SIGNIFICAND = {"float16": 11, "float32": 24}

# Native's error rate, and the margin of a tenth of it.
ERROR = 0.1
MARGIN = 0.1 * ERROR
# Ten runs whose differences spread by a tenth of the margin; or three, by the margin, for what is not decided.
MANY, FEW = np.linspace(-0.1, 0.1, 10) * MARGIN, np.array([-1.0, 0.0, 1.0]) * MARGIN
USUAL = {"dataset": ["mnist"], "architecture": ["lenet5"], "normalization": ["none"], "optimizer": ["sgd"], "precision": ["float16"],
         "relu_derivative": [0.0], "program": ["composed"], "beta": [10.0]}  # fmt: skip
USUAL_ZONES = {"dataset": ["cifar10"], "architecture": ["vgg11"], "normalization": ["none"], "precision": ["float32"],
               "batch_size": [128], "program": ["minimal"], "reference": ["native"], "noise": [0.0], "kernels": ["deterministic"],
               "initialization": ["kaiming_uniform"]}  # fmt: skip
# Of a difference, in margins: what is claimed, what is not, and the end between.
DIFFERENCES = {
    "equivalent": {HOLDS: 0.0, FAILS: -9.0, UNDECIDABLE: 1.0},
    "lower": {HOLDS: -9.0, FAILS: 0.0, UNDECIDABLE: -1.0},
    "higher": {HOLDS: 5.0, FAILS: 0.0, UNDECIDABLE: 1.0},
    "not_lower": {HOLDS: 0.0, FAILS: -9.0, UNDECIDABLE: -1.0},
}


# --------------------------------------------------------------------------------------------- made-up tables


def product(where: dict[str, list], usual: dict[str, list], **more: list) -> list[dict[str, Any]]:
    """The conditions that a claim speaks about."""
    values = {**usual, **where, **more}
    values = {
        name: [v.replace("*", "1") if isinstance(v, str) else v for v in column] for name, column in values.items()
    }
    return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]


def run(condition: dict[str, Any], seed: int, accuracy: float, diverged: bool = False) -> dict[str, Any]:
    """A row of runs.csv."""
    row = {name: value for name, value in condition.items() if name != "program"}
    program, beta = condition["program"], float(condition["beta"])
    if program in EVALUATIONS:
        row |= {"rule": f"hybrid-{number(beta)}-{program}", "evaluation": program, "beta": beta}
    elif program == "rounded":
        bits = SIGNIFICAND[condition["precision"]] - math.log2(2 * beta)
        row |= {"rule": f"rounded-{number(bits)}", "evaluation": "", "beta": math.nan}
    else:
        row |= {"rule": program, "evaluation": "", "beta": {"native": 0.0, "minimal": 1.0}.get(program, math.nan)}
    return {**row, "seed": seed, "test_accuracy": accuracy, "diverged": diverged}


def runs_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """In an order that is not that of the seeds; a run that two claims' conditions share is there once."""
    table = pd.DataFrame(rows).drop_duplicates(
        ["dataset", "architecture", "normalization", "optimizer", "precision", "rule", "seed"]
    )
    return table.sample(frac=1, random_state=0, ignore_index=True)


def accuracies(claim: Claim, outcome: str) -> np.ndarray:
    """Differences of accuracies, one per seed."""
    return DIFFERENCES[claim.decide][outcome] * MARGIN + (FEW if outcome == UNDECIDABLE else MANY)


def native_accuracy(seed: int) -> float:
    """Seeds differ by more than what is compared, so that only pairs tell."""
    return 1 - ERROR + 0.03 * (-1) ** seed


def accuracy_tables(claim: Claim, outcome: str) -> Tables:
    against = {"program": "native", **claim.against}
    factor = against.pop("beta_factor", 1)
    rows = []
    for condition in product(claim.where, USUAL):
        other = condition | against | {"beta": condition["beta"] * factor}
        for seed, difference in enumerate(accuracies(claim, outcome)):
            reference = native_accuracy(seed)
            rows.append(run(condition, seed, reference + difference))
            rows += [run(other, seed, reference), run(other | {"program": "native"}, seed, reference)]
    return Tables(runs_table(rows))


def interaction_tables(claim: Claim, outcome: str) -> Tables:
    ((name, levels),) = claim.factor.items()
    rows = []
    for condition in product(claim.where, USUAL, **{name: levels}):
        for seed, difference in enumerate(accuracies(claim, outcome)):
            cost = -0.2 + (difference if condition[name] == levels[1] else 0)
            rows.append(run(condition, seed, native_accuracy(seed) + cost))
            rows.append(run(condition | {"program": "native"}, seed, native_accuracy(seed)))
    return Tables(runs_table(rows))


def divergence_tables(claim: Claim, outcome: str) -> Tables:
    count = {HOLDS: 10, FAILS: 0, UNDECIDABLE: 5}[outcome]
    count = count if claim.decide == "diverges" else 10 - count
    rows = []
    for condition in product(claim.where, USUAL):
        for seed in range(10):
            rows.append(run(condition, seed, 0.1 if seed < count else 0.9, seed < count))
            rows.append(run(condition | {"program": "native"}, seed, native_accuracy(seed)))
    return Tables(runs_table(rows))


def factorial_tables(claim: Claim, outcome: str) -> Tables:
    """The interaction of F and J is half of what they change together beyond the sum of both."""
    assert claim.effect == "F:J"
    plain = ("forward", "backward", "exact", "forward_backward", "forward_jacobian", "backward_jacobian", "composed")
    rows = []
    for condition in product(claim.where, USUAL):
        for seed, difference in enumerate(accuracies(claim, outcome)):
            rows.append(run(condition | {"program": "native"}, seed, native_accuracy(seed)))
            for name in plain:
                parts = EVALUATIONS[name]
                together = 2 * difference if parts.forward and parts.jacobian else 0
                alone = -0.01 * parts.forward - 0.02 * parts.jacobian - 0.03 * parts.backward
                rows.append(run(condition | {"program": name}, seed, native_accuracy(seed) + alone + together))
    return Tables(runs_table(rows))


def zone_rows(claim: Claim, shares: list[float], counted: str, of: str, **more: list) -> pd.DataFrame:
    """A row per condition and seed, in which `counted` of 1,000 `of` have the share of the seed."""
    return pd.DataFrame(
        [
            {**condition, "seed": seed, of: 1000, counted: round(1000 * share), "proportion": share}
            for condition in product(claim.where, USUAL_ZONES, **more)
            for seed, share in enumerate(shares)
        ]
    )


def shares(claim: Claim, outcome: str) -> list[float]:
    low, high = claim.between
    inside = {(0.95, 1): 0.99, (0, 0.05): 0.01, (0.2, 0.95): 0.6, (0.05, 1): 0.4}[low, high]
    outside = {(0.95, 1): 0.5, (0, 0.05): 0.5, (0.2, 0.95): 0.1, (0.05, 1): 0.02}[low, high]
    end = low if low > 0 else high
    return {
        HOLDS: [inside - 0.004, inside, inside + 0.004],
        FAILS: [outside - 0.004, outside, outside + 0.004],
        UNDECIDABLE: [end - 0.04, end, end + 0.04],
    }[outcome]


def zone_share_tables(claim: Claim, outcome: str) -> Tables:
    return Tables(no_runs(), zone_shares=zone_rows(claim, shares(claim, outcome), "above", "minibatches"))


def zone_cause_tables(claim: Claim, outcome: str) -> Tables:
    return Tables(no_runs(), zone_causes=zone_rows(claim, shares(claim, outcome), claim.cause, "above"))


def zone_shares_differ_tables(claim: Claim, outcome: str) -> Tables:
    ((name, levels),) = claim.factor.items()
    tables = []
    for level in levels:
        by_seed = np.array([0.2, 0.4, 0.6])
        if level == levels[1]:
            by_seed = by_seed + DIFFERENCES[claim.decide][outcome] * claim.margin + np.array([-0.01, 0, 0.01])
        tables.append(zone_rows(claim, list(by_seed), "above", "minibatches", **{name: [level]}))
    return Tables(no_runs(), zone_shares=pd.concat(tables, ignore_index=True))


def error_law_tables(claim: Claim, outcome: str) -> Tables:
    ratios = DIFFERENCES[claim.decide][outcome] * claim.margin + np.array([-0.1, 0, 0.1]) * claim.margin
    columns = ("dataset", "architecture", "normalization", "precision", "beta")
    conditions = product(claim.where, USUAL)
    rows = [
        {
            **{name: row[name] for name in columns},
            "layer": layer,
            "seed": seed,
            "rounded_error": 0.01,
            "forward_error": 0.01 * 2**ratio,
        }
        for row in conditions
        for layer in ("pool1", "pool2")
        for seed, ratio in enumerate(ratios)
    ]
    return Tables(no_runs(), pooling_errors=pd.DataFrame(rows))


def no_runs() -> pd.DataFrame:
    """Runs that no claim speaks about."""
    (condition,) = product({"precision": ["bfloat16"], "program": ["native"]}, USUAL)
    return runs_table([run(condition, 0, 0.9)])


TABLES = {
    "accuracy": accuracy_tables,
    "interaction": interaction_tables,
    "divergence": divergence_tables,
    "factorial": factorial_tables,
    "zone_share": zone_share_tables,
    "zone_cause": zone_cause_tables,
    "zone_shares_differ": zone_shares_differ_tables,
    "error_law": error_law_tables,
}


def tables_of(claim: Claim, outcome: str) -> Tables:
    return Tables(no_runs()) if outcome == NOT_TESTED else TABLES[claim.measure](claim, outcome)


def judged(claim: Claim, tables: Tables, settings: Settings | None = None) -> tuple[dict, pd.DataFrame]:
    """The one row of the claim, and its conditions."""
    table, conditions = evaluate([claim], tables, settings or Settings())
    (row,) = table.to_dict("records")
    return row, conditions


def claim_called(name: str) -> Claim:
    return next(claim for claim in CLAIMS if claim.id == name)


# ------------------------------------------------------------------------------------------ the project's claims


@pytest.mark.parametrize("name", ["C6a", "C6b", "C8", "FJ1000"])
def test_nothing_is_said_of_a_network_that_does_not_learn_with_native_pooling(name: str) -> None:
    """As VGG11 on SVHN without batch norm, which is at the share of the largest class whatever the rule."""
    claim = claim_called(name)
    tables = tables_of(claim, HOLDS)
    row, conditions = judged(claim, Tables(tables.runs.assign(test_accuracy=0.19587, diverged=False)))
    assert row["verdict"] == NOT_TESTED
    assert set(conditions.note) == {"native pooling does not learn there: 19.6% right"}


def test_a_network_that_dies_without_a_nan_is_lost_as_one_that_diverges() -> None:
    """Five runs lose 5 points each and one all: by t the mean would be lost in the spread."""
    claim = claim_called("J1000")
    runs = tables_of(claim, HOLDS).runs
    runs = (
        runs[runs.seed < 6]
        if runs.seed.nunique() >= 6
        else pd.concat([runs[runs.seed == 0].assign(seed=seed) for seed in range(6)], ignore_index=True)
    )
    is_hybrid = runs.rule != "native"
    accuracy = pd.Series(0.9, index=runs.index).mask(is_hybrid, 0.85).mask(is_hybrid & (runs.seed == 0), 0.1)
    row, conditions = judged(claim, Tables(runs.assign(test_accuracy=accuracy, diverged=False)))
    assert row["verdict"] == HOLDS
    assert set(conditions.test) == {"sign flips"}
    assert (conditions.p == 2**-6).all()


def test_programs_that_are_both_lost_are_not_called_equivalent() -> None:
    claim = claim_called("W1000")
    runs = tables_of(claim, HOLDS).runs
    is_hybrid = runs.rule != "native"
    lost = runs.assign(test_accuracy=runs.test_accuracy.mask(is_hybrid, 0.1), diverged=is_hybrid)
    row, conditions = judged(claim, Tables(lost))
    assert row["verdict"] == NOT_TESTED
    assert conditions.note.str.startswith("all runs diverged, and all of composed").all()


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_can_hold_fail_be_undecidable_and_not_be_tested(claim: Claim, outcome: str) -> None:
    row, conditions = judged(claim, tables_of(claim, outcome))
    assert row["verdict"] == outcome
    assert row["claim"] == claim.id
    if outcome == NOT_TESTED:
        assert row["missing"]
        assert (row["conditions"], len(conditions)) == (0, 0)
        return
    assert set(conditions.verdict) == {outcome}
    # As many as the claim speaks about, times the layers; a factor is within a condition.
    expected = len(product(claim.where, USUAL_ZONES if claim.measure.startswith("zone") else USUAL))
    assert row["conditions"] == len(conditions) == expected * (2 if claim.measure == "error_law" else 1)
    assert row["judged_on"]
    assert {HOLDS: row["holding"], FAILS: row["failing"], UNDECIDABLE: row["undecided"]}[outcome] == len(conditions)
    assert (row["runs_needed"] > 0) == (outcome == UNDECIDABLE)


def test_all_claims_of_the_study_notes_are_there() -> None:
    names = {claim.id for claim in CLAIMS}
    assert {*(f"C{n}" for n in (1, 2, 3, 4, 5, 8, 9, 10)), "C6a", "C6b", "C6c", "C6d", "C7a", "C7b", "C7c"} <= names
    assert len({claim.sentence for claim in CLAIMS}) == len(CLAIMS)


def test_every_measure_is_used_and_in_the_schema() -> None:
    assert set(claims.MEASURES) == {claim.measure for claim in CLAIMS}
    schema = yaml.safe_load(claims.SCHEMA.read_text(encoding="utf-8"))
    assert set(schema["properties"]["measure"]["enum"]) == set(TABLES)


def test_mitigations_are_no_evidence_for_the_published_claims() -> None:
    """A run with clipped gradients is not one of the published program."""
    for claim in CLAIMS:
        if claim.id.startswith(("C5", "C6", "C7", "C8")):
            _, conditions = judged(
                claim, tables_of(replace(claim, where={**claim.where, "optimizer": ["sgd_clipped"]}), HOLDS)
            )
            assert claim.id == "C7b" or conditions.empty


# ----------------------------------------------------------------------------------------------------- the numbers


def random_runs(seeds: range, programs: list[str], **factors: list) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    values = {"normalization": ["none", "batch_norm"], "beta": [10.0, 1000.0], **factors}
    return runs_table(
        [
            run(condition, seed, 0.9 + 0.01 * generator.standard_normal())
            for condition in product({**values, "program": [*programs, "native"]}, USUAL)
            for seed in seeds
        ]
    )


def accuracy_of(runs: pd.DataFrame, program: str, beta: float, **condition: Any) -> dict[int, float]:
    """By seed."""
    found = {}
    for row in runs.to_dict("records"):
        is_program = (row["evaluation"] or row["rule"]) == program and (row["beta"] == beta or program == "native")
        if is_program and all(row[name] == value for name, value in condition.items()):
            found[row["seed"]] = row["test_accuracy"]
    return found


def test_an_accuracy_is_compared_with_the_run_of_the_same_seed() -> None:
    """Also where one side has further seeds."""
    runs = random_runs(range(5), ["composed"])
    runs = runs[~((runs.rule == "native") & (runs.seed == 2)) & ~((runs.rule != "native") & (runs.seed == 4))]
    claim = Claim("a", "b", "c", "accuracy", {"program": ["composed"]}, "every", "lower")
    _, conditions = judged(claim, Tables(runs), Settings(margin=0.2))
    assert len(conditions) == 4
    for row in conditions.to_dict("records"):
        where = {"normalization": row["normalization"]}
        ours, native = accuracy_of(runs, "composed", row["beta"], **where), accuracy_of(runs, "native", 0.0, **where)
        seeds = sorted(ours.keys() & native.keys())
        assert seeds == [0, 1, 3]
        margin = 0.2 * (1 - sum(native.values()) / len(native))
        expected = judge([ours[seed] - native[seed] for seed in seeds], Target(high=-margin, shift=margin))
        assert row["target_high"] == pytest.approx(-margin)
        assert (row["mean"], row["low"], row["high"], row["p"]) == pytest.approx(
            (expected.mean, expected.low, expected.high, expected.p)
        )
        assert row["test"] == "t"


def test_a_diverged_run_counts_with_its_accuracy_and_changes_the_test() -> None:
    runs = random_runs(range(6), ["composed"], normalization=["none"], beta=[10.0])
    one = (runs.evaluation == "composed") & (runs.seed == 3)
    runs.loc[one, ["test_accuracy", "diverged"]] = [0.1, True]
    claim = Claim("a", "b", "c", "accuracy", {"program": ["composed"]}, "every", "lower")
    _, conditions = judged(claim, Tables(runs))
    (row,) = conditions.to_dict("records")
    ours, native = accuracy_of(runs, "composed", 10.0), accuracy_of(runs, "native", 0.0)
    assert row["mean"] == pytest.approx(sum(ours[seed] - native[seed] for seed in range(6)) / 6)
    assert (row["test"], row["diverged"], row["diverged_against"]) == ("sign flips", 1, 0)


def test_an_interaction_is_a_difference_of_differences() -> None:
    runs = random_runs(range(4), ["composed"])
    claim = Claim(
        "a",
        "b",
        "c",
        "interaction",
        {"program": ["composed"]},
        "every",
        "higher",
        factor={"normalization": ["none", "batch_norm"]},
    )
    _, conditions = judged(claim, Tables(runs))
    assert len(conditions) == 2
    for row in conditions.to_dict("records"):
        sides = [
            (
                accuracy_of(runs, "composed", row["beta"], normalization=name),
                accuracy_of(runs, "native", 0.0, normalization=name),
            )
            for name in ("none", "batch_norm")
        ]
        (plain, plain_native), (norm, norm_native) = sides
        expected = sum(norm[s] - norm_native[s] - plain[s] + plain_native[s] for s in range(4)) / 4
        assert row["mean"] == pytest.approx(expected)
        assert row["target_low"] == pytest.approx(0.1 * (1 - sum(plain_native.values()) / 4))


@pytest.mark.parametrize("effect", ["F", "B", "J", "F:B", "F:J", "B:J", "F:B:J"])
def test_a_factorial_effect_is_twice_the_coefficient_of_a_regression(effect: str) -> None:
    """On levels of -1 and 1, seed by seed, the change from off to on is twice the slope."""
    plain = [name for name, parts in EVALUATIONS.items() if not (parts.unlimited or parts.wide or parts.wide_forward)]
    runs = random_runs(range(3), plain, normalization=["none"], beta=[10.0])
    claim = Claim("a", "b", "c", "factorial", {}, "every", "lower", effect=effect)
    _, conditions = judged(claim, Tables(runs))
    (row,) = conditions.to_dict("records")
    slopes = []
    for seed in range(3):
        chosen = runs[runs.seed == seed]
        parts = [EVALUATIONS.get(name) for name in chosen.evaluation]
        levels = {
            name: np.array([1 if part and getattr(part, attribute) else -1 for part in parts])
            for name, attribute in {"F": "forward", "B": "backward", "J": "jacobian"}.items()
        }
        names = ["", "F", "B", "J", "F:B", "F:J", "B:J", "F:B:J"]
        design = np.column_stack(
            [np.prod([levels[f] for f in name.split(":") if f] or [np.ones(8)], axis=0) for name in names]
        )
        slopes.append(np.linalg.lstsq(design, chosen.test_accuracy.to_numpy())[0][names.index(effect)])
    assert row["mean"] == pytest.approx(2 * np.mean(slopes))
    assert row["n"] == 3


def test_a_law_is_in_binary_logarithms_per_layer() -> None:
    claim = claim_called("C9")
    _, conditions = judged(claim, tables_of(claim, FAILS))
    assert set(conditions.layer) == {"pool1", "pool2"}
    assert conditions["mean"].tolist() == pytest.approx([-9.0] * len(conditions))
    assert set(conditions.n) == {3}


def test_shares_that_do_not_vary_are_counted_over_all_minibatches() -> None:
    claim = replace(claim_called("C3"), where={})
    table = zone_rows(claim, [0.0, 0.0], "above", "minibatches").assign(minibatches=40)
    _, conditions = judged(claim, Tables(no_runs(), zone_shares=table))
    (row,) = conditions.to_dict("records")
    # The upper limit of 0 of 80: 1 - 0.05^(1/80) = 3.7 %
    assert (row["n"], row["test"], row["verdict"]) == (80, "binomial", HOLDS)
    assert row["high"] == pytest.approx(1 - 0.05 ** (1 / 80))
    row, _ = judged(claim, Tables(no_runs(), zone_shares=table.assign(minibatches=20)))
    assert (row["verdict"], row["runs_needed"]) == (UNDECIDABLE, 59)  # 0.95^59 < 0.05 < 0.95^58


def test_a_rule_that_rounds_has_the_beta_of_its_bits() -> None:
    condition = product({"program": ["rounded"], "beta": [10.0, 1000.0], "precision": ["float16", "float32"]}, USUAL)
    table = claims.with_programs(pd.DataFrame([run(row, 0, 0.9) for row in condition]))
    assert set(table.program) == {"rounded"}
    assert table.beta.tolist() == [row["beta"] for row in condition]


def test_the_program_of_a_rule_without_an_evaluation_is_its_name() -> None:
    runs = pd.DataFrame(
        [run(row, 0, 0.9) for row in product({"program": ["native", "minimal", "norm-0", "exact"]}, USUAL)]
    )
    assert claims.with_programs(runs).program.tolist() == ["native", "minimal", "norm-0", "exact"]
    # Where all evaluations are empty, a file has no text in the column.
    empty = runs[runs.evaluation == ""].assign(evaluation=math.nan)
    assert claims.with_programs(empty).program.tolist() == ["native", "minimal", "norm-0"]


# ------------------------------------------------------------------------------------------------- several conditions


def test_every_fails_with_one_condition_and_some_holds_with_one() -> None:
    claim = replace(claim_called("C8"), where={"program": ["minimal"], "precision": ["float16", "float32"]})
    both = tables_of(claim, HOLDS).runs
    is_worse = (both.rule == "minimal") & (both.precision == "float32")
    runs = both.assign(test_accuracy=both.test_accuracy - 0.2 * is_worse)
    for quantifier, verdict in (("every", FAILS), ("some", HOLDS)):
        row, conditions = judged(replace(claim, quantifier=quantifier), Tables(runs))
        assert (row["verdict"], row["holding"], row["failing"]) == (verdict, 1, 1)
        assert dict(zip(conditions.precision, conditions.verdict, strict=True)) == {"float16": HOLDS, "float32": FAILS}


def test_a_condition_without_its_reference_is_not_tested_and_says_so() -> None:
    claim = replace(
        claim_called("W1000"), where={"program": ["composed_wide"], "normalization": ["none", "batch_norm"]}
    )
    runs = tables_of(claim, HOLDS).runs
    runs = runs[~((runs.evaluation == "composed") & (runs.normalization == "none"))]
    row, conditions = judged(claim, Tables(runs))
    assert (row["verdict"], row["conditions"]) == (HOLDS, 1)
    untested = conditions[conditions.verdict == NOT_TESTED]
    assert untested.normalization.tolist() == ["none"]
    assert untested.note.tolist() == ["no runs of mnist lenet5 without batch norm sgd float16 composed beta 10"]


def test_runs_without_a_seed_in_common_are_not_compared() -> None:
    claim = claim_called("C8")
    runs = tables_of(claim, HOLDS).runs
    runs = runs.assign(seed=runs.seed + 100 * (runs.rule == "minimal"))
    row, conditions = judged(claim, Tables(runs))
    assert row["verdict"] == NOT_TESTED
    assert "no seed in common" in conditions.note[0]
    # Published conditions are named where nothing was judged.
    assert "cifar10 vgg11" in row["missing"]


# ------------------------------------------------------------------------------------------------- published conditions


def test_the_missing_conditions_are_the_published_ones_that_were_not_run() -> None:
    claim = claim_called("C6b")
    where = {**claim.where, "dataset": ["mnist"], "architecture": ["lenet5"], "normalization": ["none", "batch_norm"]}
    runs = tables_of(replace(claim, where=where), HOLDS).runs
    row, _ = judged(claim, Tables(runs))
    theirs = published.training()
    theirs = theirs[
        theirs.architecture.isin(["lenet5", "vgg11"]) & (theirs.precision == "float16") & (theirs.beta == 1000)
    ]
    assert set(theirs.dataset) == {"mnist", "cifar10", "svhn"}
    expected = [
        f"{one.dataset} {one.architecture} {'with' if one.normalization == 'batch_norm' else 'without'} batch norm sgd float16 "
        "composed beta 1000"
        for one in theirs.itertuples()
        if one.dataset != "mnist"
    ]
    assert row["missing"].split("; ") == expected
    row, _ = judged(claim, Tables(tables_of(replace(claim, where={**where, "normalization": ["none"]}), HOLDS).runs))
    assert "mnist lenet5 with batch norm sgd float16 composed beta 1000" in row["missing"].split("; ")


def test_nothing_is_missing_where_all_that_was_published_was_run() -> None:
    claim = claim_called("C6c")
    where = {**claim.where, "dataset": ["cifar10"], "normalization": ["none", "batch_norm"]}
    row, _ = judged(claim, Tables(tables_of(replace(claim, where=where), HOLDS).runs))
    assert row["missing"] == ""


def test_zones_that_were_published_are_named() -> None:
    claim = claim_called("C1")
    row, _ = judged(claim, Tables(no_runs()))
    theirs = published.zones().query("precision == 'float16'")
    for one in theirs.itertuples():
        assert f"cifar10 {one.architecture}" in row["missing"]
    assert "vgg19 without batch norm float16 batch size 128, 64, 256, 512, 1024" in row["missing"]
    # Batch norm was published for VGG11 alone.
    row, _ = judged(claim_called("C4"), Tables(no_runs()))
    assert row["missing"] == "cifar10 vgg11 float32 batch size 128"


def test_zones_of_another_dataset_or_initialization_are_no_evidence() -> None:
    """The thresholds are absolute, so that the size of the gradient decides."""
    claim = claim_called("C1")
    table = tables_of(claim, HOLDS).zone_shares
    for other in ({"dataset": "mnist_5k"}, {"initialization": "default"}, {"noise": 0.1}, {"architecture": "lenet5"}):
        row, _ = judged(claim, Tables(no_runs(), zone_shares=table.assign(**other)))
        assert row["verdict"] == NOT_TESTED
    assert set(claims.ZONES_CONDITION) == {*ZONE_CONDITION, "initialization"}


def test_tables_have_their_columns_whatever_is_judged() -> None:
    for outcome in (HOLDS, NOT_TESTED):
        table, conditions = evaluate(CLAIMS[:3], tables_of(CLAIMS[0], outcome), Settings())
        assert tuple(table) == claims.CLAIM_COLUMNS
        assert tuple(conditions) == claims.CONDITION_COLUMNS


# ----------------------------------------------------------------------------------------------------------- the file


GOOD = {
    "id": "X1",
    "sentence": "It harms.",
    "source": "this project",
    "measure": "accuracy",
    "where": {"precision": ["float16"]},
    "decide": "lower",
    "quantifier": "every",
}
GONE = object()


def write(folder: Path, *entries: Any) -> Path:
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump(list(entries)), encoding="utf-8")
    return path


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**GOOD, **changes}.items() if value is not GONE}


def test_a_good_file_is_read(tmp_path: Path) -> None:
    (claim,) = read(write(tmp_path, GOOD))
    assert (claim.id, claim.where, claim.against) == ("X1", {"precision": ["float16"]}, {"program": "native"})


ZONE = {"measure": "zone_share", "decide": GONE, "between": [0, 0.5]}
BAD = {
    "an unknown key": ({"wher": {}}, "wher: unknown key, did you mean 'where'?"),
    "a key of another measure": (
        {"share": 0.5},
        "share: unknown key, did you mean 'where'? allowed: against, decide, id, measure, quantifier, ",
    ),
    "no decision": ({"decide": GONE}, "decide: missing, and required"),
    "no sentence": ({"sentence": GONE}, "sentence: missing, and required"),
    "an empty sentence": ({"sentence": ""}, "sentence: "),
    "a measure that there is not": ({"measure": "accurracy"}, "measure: 'accurracy' is not allowed; one of accuracy, "),
    "a decision that there is not": ({"decide": "less"}, "decide: 'less' is not allowed; one of equivalent, lower, "),
    "a decision of another measure": ({"decide": "diverges"}, "decide: 'diverges' is not allowed; one of equivalent, "),
    "a quantifier that there is not": ({"quantifier": "most"}, "quantifier: 'most' is not allowed; one of every, some"),
    "a column that there is not": (
        {"where": {"precison": ["float16"]}},
        "where.precison: unknown key, did you mean 'precision'?",
    ),
    "a precision that there is not": (
        {"where": {"precision": ["float61"]}},
        "where.precision[0]: 'float61' is not allowed; one of ",
    ),
    "a dataset that there is not": (
        {"where": {"dataset": ["cifar"]}},
        "where.dataset[0]: 'cifar' is not allowed; one of ",
    ),
    "a value in place of a list": (
        {"where": {"precision": "float16"}},
        "where.precision: expected a list, got 'float16'",
    ),
    "a factor that runs do not have": (
        {"measure": "interaction", "factor": {"batch_size": [64, 128]}},
        "factor.batch_size: measure interaction has no such factor",
    ),
    "a program of a whole factorial": (
        {"measure": "factorial", "effect": "F:J", "decide": "lower", "where": {"program": ["composed"]}},
        "where.program: a factorial claim uses all eight programs; leave it out",
    ),
    "a program that there is not": (
        {"where": {"program": ["composedd"]}},
        "where.program: unknown pooling rule 'composedd'; expected one of ",
    ),
    "a reference that there is not": ({"against": {"program": "nativ"}}, "against.program: unknown "),
    "an empty list": ({"where": {"beta": []}}, "where.beta: the list is empty; give at least one entry"),
    "a column of the zones": ({"where": {"batch_size": [64]}}, "where.batch_size: unknown key; allowed: "),
    "a reference without a program": ({"against": {"optimizer": "sgd"}}, "against.program: missing, and required"),
    "a share that is none": ({**ZONE, "between": [0, 1.5]}, "between[1]: 1.5 must be at most 1"),
    "ends in the wrong order": ({**ZONE, "between": [0.5, 0.2]}, "between: [0.5, 0.2] must be in increasing order "),
    "a region of everything": (
        {**ZONE, "between": [0, 1]},
        "between: [0, 1] must be in increasing order and leave something out",
    ),
    "one end": ({**ZONE, "between": [0.5]}, "between: expected 2 entries, got [0.5]"),
    "a factor with three values": (
        {"measure": "interaction", "factor": {"precision": ["float16", "float32", "float64"]}},
        "factor.precision: expected 2 entries, got ",
    ),
    "no factor": (
        {"measure": "interaction", "factor": {}},
        "factor: empty; one of normalization, optimizer, precision, batch_size",
    ),
    "an id that is no name": ({"id": "a b"}, "id: 'a b' must be letters, digits, _ and -"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_claim_is_one_error_that_names_the_file_the_claim_and_the_key(case: str, tmp_path: Path) -> None:
    changes, message = BAD[case]
    entry = changed(changes)
    path = write(tmp_path, {**GOOD, "id": "first"}, entry)
    with pytest.raises(ClaimsError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: claim {entry['id']}: {message}")
    assert "\n" not in str(caught.value)


def test_a_claim_without_an_id_is_numbered(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, changed({"id": GONE}))
    with pytest.raises(ClaimsError, match=r"claim number 2: id: missing, and required"):
        read(path)
    with pytest.raises(ClaimsError, match=r"claim number 1: claim: expected a mapping, got 'text'"):
        read(write(tmp_path, "text"))


def test_an_id_is_there_once(tmp_path: Path) -> None:
    with pytest.raises(ClaimsError, match="claim X1: id: is there twice"):
        read(write(tmp_path, GOOD, GOOD))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not a readable YAML file"), ("a: 1", "expected a list of claims"), ("", "expected a list of claims")],
)
def test_a_file_that_is_no_list_of_claims(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ClaimsError, match=f"{path}: {message}"):
        read(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClaimsError, match="not a readable YAML file"):
        read(tmp_path / "none.yaml")
