"""The first page: verdicts in words, and advice that says no more than they do."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from nonsmooth import claims, front_page
from nonsmooth.claims import CLAIM_COLUMNS, CONDITION_COLUMNS, NOT_TESTED, VERDICTS
from nonsmooth.statistics import FAILS, HOLDS, UNDECIDABLE

ADVISING = ("C8", "J1000", "J10000", "F1000", "C6a", "C6b", "M-float32", "C10")


def judged(**values) -> pd.DataFrame:
    """A claim's row."""
    row = {**dict.fromkeys(CLAIM_COLUMNS), "claim": "X", "sentence": "It is so.", "measure": "accuracy", "verdict": HOLDS,
           "conditions": 1, "holding": 1, "failing": 0, "undecided": 0, "runs_needed": np.nan, **values}  # fmt: skip
    return pd.DataFrame([row])


def conditions(*rows: dict) -> pd.DataFrame:
    common = {**dict.fromkeys(CONDITION_COLUMNS), "claim": "X", "verdict": HOLDS, "architecture": "lenet5", "dataset": "mnist_5k",
              "diverged": 0, "diverged_against": 0}  # fmt: skip
    return pd.DataFrame([{**common, **row} for row in rows])


def numbers(claim: pd.DataFrame, *rows: dict) -> str:
    return front_page.verdicts(claim, conditions(*rows)).numbers.item().replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("values", "rows", "expected"),
    [
        ({}, [{"mean": -0.0123, "n": 6}], "-1.23 points (n = 6)"),
        ({}, [{"mean": -0.8, "n": 5, "diverged": 4, "diverged_against": 1}], "-80.00 points (n = 5); 5 runs diverged"),
        ({}, [{"mean": 0.001, "n": 5, "diverged": 1}], "+0.10 points (n = 5); 1 run diverged"),
        (
            {"conditions": 2, "failing": 1, "verdict": FAILS},
            [{"mean": -0.01, "n": 3}, {"mean": 0.02, "n": 6}],
            "-1.00 to +2.00 points (n = 3 to 6); 2 conditions: 1 hold, 1 fail",
        ),
        (
            {"measure": "divergence", "verdict": UNDECIDABLE, "holding": 0, "undecided": 1, "runs_needed": 5.0},
            [{"n": 3, "diverged": 3}],
            "3 of 3 runs diverged; would take about 5 runs",
        ),
        ({"verdict": UNDECIDABLE, "runs_needed": np.inf}, [{"mean": 0.0, "n": 2}],
         "+0.00 points (n = 2); would take more than 500 runs"),
        ({"measure": "zone_share"}, [{"mean": 0.486, "n": 3}], "48.6 % of minibatches (n = 3)"),
        ({"measure": "error_law"}, [{"mean": -0.62, "n": 5}], "-0.62 bits (n = 5)"),
    ],
)  # fmt: skip
def test_numbers(values: dict, rows: list[dict], expected: str) -> None:
    assert numbers(judged(**values), *rows) == expected


def test_every_measure_has_a_unit() -> None:
    assert set(front_page.UNITS) | {"divergence"} == set(claims.MEASURES)


def test_what_was_not_tested_is_not_in_the_table_but_listed() -> None:
    table = pd.concat([judged(), judged(claim="Y", verdict=NOT_TESTED)])
    rows = conditions({"mean": 0.0, "n": 2}, {"claim": "Y", "verdict": NOT_TESTED})
    assert front_page.verdicts(table, rows).claim.tolist() == ["X"]
    assert front_page.not_tested(table) == ["Y"]


def test_networks_are_said_once() -> None:
    rows = conditions(*({"mean": 0.0, "n": 2, "architecture": name} for name in ("lenet5", "vgg11", "lenet5")))
    assert front_page.verdicts(judged(), rows)["judged on"].item() == "LeNet-5 on MNIST-5k; VGG11 on MNIST-5k"


def advice(**verdicts: str) -> list[str]:
    given = dict.fromkeys(ADVISING, NOT_TESTED) | {name.replace("_", "-"): value for name, value in verdicts.items()}
    return front_page.advice(pd.DataFrame({"claim": list(given), "verdict": list(given.values())}))


def test_there_are_three_sentences_whatever_the_verdicts() -> None:
    seen = set()
    for found in itertools.product(VERDICTS, repeat=3):
        sentences = advice(**dict(zip(("C8", "M_float32", "C10"), found, strict=True)))
        assert len(sentences) == 3
        assert all(sentence.endswith(".") for sentence in sentences)
        seen.update(sentences)
    # Undecidable and not tested are told apart, too.
    assert len(seen) == 3 * len(VERDICTS)


def test_the_arithmetic_is_blamed_only_where_it_was_told_apart() -> None:
    """Harm by the published program, which has the Jacobian, too, is said of that program."""
    _, alone, _ = advice(F1000=HOLDS, C6a=UNDECIDABLE)
    assert "the rounded value alone harms training" in alone
    _, not_alone, _ = advice(F1000=FAILS, C6a=HOLDS, C6b=HOLDS)
    assert "did not by itself harm" in not_alone
    assert "C6a" not in not_alone
    _, together, _ = advice(F1000=UNDECIDABLE, C6a=HOLDS, C6b=FAILS)
    assert "the published program does, which harms training (C6a): whether its rounding alone harms" in together
    _, nothing, _ = advice(F1000=UNDECIDABLE, C6a=FAILS, C6b=NOT_TESTED)
    assert "which harms" not in nothing
    assert "subdifferential" not in advice(J1000=UNDECIDABLE)[0]
    assert "(J10000)" in advice(J1000=UNDECIDABLE, J10000=HOLDS)[0]


def test_the_claims_that_advice_rests_on_exist() -> None:
    path = claims.SCHEMA.parents[2] / "data/claims/maxpool.yaml"
    assert {claim.id for claim in claims.read(path)} >= set(ADVISING)
