"""What searches found, as entries that a configuration can take over, and the table of all trials."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from nonsmooth import config as presets
from nonsmooth.cells import CONDITION, SEARCH, SETUP, TrainingCell
from nonsmooth.files import write_json

from .conftest import load

learning_rates = load("maxpool/learning_rates")
CELL = TrainingCell(dataset="mnist_5k", architecture="lenet5", learning_rate=SEARCH)
CELLS = [
    CELL,
    replace(CELL, normalization="batch_norm", optimizer="adam"),
    replace(CELL, dataset="cifar10", architecture="vgg11", precision="float16"),
]
COLUMNS = ["trial", "learning_rate", "epochs", "accuracy", "pruned", "chosen"]


def trials(number: int) -> pd.DataFrame:
    rows = [(1, 0.01234 * number, 10, 0.5 + 0.1 * number, False, True), (2, 0.5, 2, 0.1, True, False)]
    return pd.DataFrame(rows, columns=COLUMNS)


def gather(cells: list[TrainingCell], rates: list[float], folder: Path) -> tuple[pd.DataFrame, str]:
    """The table and the text of the entries, from made-up searches that found these rates."""
    inputs: dict[str, list[Path]] = {"trials": [], "chosen": []}
    for number, (cell, rate) in enumerate(zip(cells, rates, strict=True), start=1):
        inputs["trials"].append(folder / f"{number}.csv")
        inputs["chosen"].append(folder / f"{number}.json")
        trials(number).to_csv(inputs["trials"][-1], index=False)
        chosen = {"learning_rate": rate, "accuracy": 0.5 + 0.1 * number, "cell": cell.to_dict()}
        write_json(inputs["chosen"][-1], chosen)
    outputs = {"trials": folder / "out.csv", "entries": folder / "out.yaml"}
    learning_rates.gather(cells, **inputs, outputs=outputs)
    return pd.read_csv(outputs["trials"], keep_default_na=False), outputs["entries"].read_text()


def preset(text: str, cells: list[TrainingCell]) -> dict:
    """A configuration that takes the entries over and trains these set-ups with them."""
    blocks = [
        {
            **{factor: [getattr(cell, factor)] for factor in SETUP},
            "rule": ["native", "minimal"],
            "seeds": [0],
            "epochs": 1,
        }
        for cell in cells
    ]
    return {"run": "mine", **yaml.safe_load(text), "maxpool": {"train": blocks}}


def assert_taken_over(text: str, cells: list[TrainingCell], rates: list[float]) -> None:
    """Every set-up's cells are trained with its rate."""
    made = presets.training_cells(presets.check(preset(text, cells)))
    wanted = {cell.setup: rate for cell, rate in zip(cells, rates, strict=True)}
    assert [cell.learning_rate for cell in made] == [wanted[cell.setup] for cell in made]
    assert {cell.setup for cell in made} == set(wanted)


def test_entries_can_be_taken_over(tmp_path: Path) -> None:
    rates = [0.01234, 0.1, 5.678e-05]
    _, text = gather(CELLS, rates, tmp_path)
    assert_taken_over(text, CELLS, rates)
    head, *lines = text.splitlines()
    assert head == "learning_rates:"
    comments = [line.split("  # ")[1] for line in lines]
    assert comments == [f"held-out accuracy {accuracy:.3f}" for accuracy in (0.6, 0.7, 0.8)]


@pytest.mark.parametrize("rate", [1e-5, 2e-5, 9e-5])
def test_a_rate_with_one_digit_can_be_taken_over(rate: float, tmp_path: Path) -> None:
    _, text = gather(CELLS[:1], [rate], tmp_path)
    assert_taken_over(text, CELLS[:1], [rate])


def test_the_table_has_every_trial_of_every_setup(tmp_path: Path) -> None:
    table, _ = gather(CELLS, [0.1] * 3, tmp_path)
    assert list(table) == [*CONDITION, *COLUMNS]
    assert len(table) == 2 * len(CELLS)
    for number, cell in enumerate(CELLS, start=1):
        part = table[2 * number - 2 : 2 * number].reset_index(drop=True)
        for name in CONDITION:
            assert set(part[name]) == {getattr(cell, name)}
        pd.testing.assert_frame_equal(part[COLUMNS], trials(number), check_exact=True)


PER_RULE = [CELL, replace(CELL, rule="hybrid-10-exact"), replace(CELL, rule="minimal", relu_derivative=0.5)]


def test_a_search_of_every_rule_says_which(tmp_path: Path) -> None:
    table, text = gather(PER_RULE, [0.1, 0.2, 0.3], tmp_path)
    comments = [line.split("  # ")[1] for line in text.splitlines()[1:]]
    assert comments == [
        "held-out accuracy 0.600",
        "held-out accuracy 0.700, hybrid-10-exact, relu 0",
        "held-out accuracy 0.800, minimal, relu 0.5",
    ]
    assert table.rule.tolist() == ["native"] * 2 + ["hybrid-10-exact"] * 2 + ["minimal"] * 2


def test_entries_of_a_search_of_every_rule_can_be_taken_over(tmp_path: Path) -> None:
    """Which of them, is for the person who copies them to say; none may be refused as a second one."""
    _, text = gather(PER_RULE, [0.1, 0.2, 0.3], tmp_path)
    presets.check(preset(text, PER_RULE[:1]))


def test_the_script_gathers_the_inputs_of_the_rule(run_script, tmp_path: Path) -> None:
    gather(CELLS, [0.1, 0.2, 0.3], tmp_path)
    run_script(
        "maxpool/learning_rates",
        input={kind: [str(tmp_path / f"{n}.{end}") for n in (1, 2, 3)] for kind, end in (("trials", "csv"), ("chosen", "json"))},
        output={"trials": str(tmp_path / "again.csv"), "entries": str(tmp_path / "again.yaml")},
        params={"cells": [cell.to_dict() for cell in CELLS]},
        log=[str(tmp_path / "job.log")],
    )  # fmt: skip
    for suffix in ("csv", "yaml"):
        assert (tmp_path / f"again.{suffix}").read_text() == (tmp_path / f"out.{suffix}").read_text()
