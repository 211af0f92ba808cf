"""Gathering cells: five tables, which are the library's."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nonsmooth import maxpool, published
from nonsmooth.cells import SEARCH

from .conftest import composed_diverges, load

aggregate = load("maxpool/aggregate")
TABLES = ("runs", "epochs", "summary", "costs", "published")


@pytest.fixture
def made(study):
    return study(composed_diverges, seed=[0, 1], dataset=["mnist"], rule=["native", "hybrid-1000-composed"])


def test_the_tables_are_those_of_the_library(made, tmp_path: Path) -> None:
    outputs = {name: tmp_path / "new" / f"{name}.csv" for name in TABLES}
    files = (made.files.cells, made.files.metrics, made.files.records)
    aggregate.aggregate(*files, outputs)
    runs, epochs = maxpool.read_runs(*files)
    expected = {"runs": runs, "epochs": epochs, "summary": maxpool.summarize(runs), "costs": maxpool.costs(runs),
                "published": maxpool.compare(runs, published.training())}  # fmt: skip
    for name, table in expected.items():
        assert outputs[name].read_text() == table.to_csv(index=False)
    assert pd.read_csv(outputs["runs"]).diverged.tolist() == [False, False, True, True] * 2
    assert len(pd.read_csv(outputs["epochs"])) == (4 + 4 + 2 + 2) + (4 + 4 + 3 + 3)
    assert pd.read_csv(outputs["published"]).published_runs.tolist() == [10] * 4


def arguments(made, folder: Path) -> dict:
    inputs = {"metrics": made.files.metrics, "records": made.files.records}
    outputs = {name: folder / f"{name}.csv" for name in TABLES}
    params = {"cells": [cell.to_dict() for cell in made.files.cells]}
    return {"input": inputs, "output": outputs, "params": params, "log": [str(folder / "logs" / "job.log")]}


def test_the_script_gathers_the_inputs_of_the_rule(made, run_script, tmp_path: Path) -> None:
    run_script("maxpool/aggregate", **arguments(made, tmp_path))
    assert {path.name for path in tmp_path.glob("*.csv")} == {f"{name}.csv" for name in TABLES}
    assert pd.read_csv(tmp_path / "runs.csv").seed.tolist() == [0, 1] * 4


def test_a_rate_that_was_searched_comes_from_the_record(made, run_script, tmp_path: Path) -> None:
    wanted = arguments(made, tmp_path)
    wanted["params"]["cells"] = [{**cell, "learning_rate": SEARCH} for cell in wanted["params"]["cells"]]
    run_script("maxpool/aggregate", **wanted)
    assert set(pd.read_csv(tmp_path / "runs.csv").learning_rate) == {0.05}


def test_a_damaged_cell_is_named_and_no_table_is_written(made, run_script, tmp_path: Path, capsys) -> None:
    damaged = tmp_path / "metrics.csv"
    damaged.write_text("")
    wanted = arguments(made, tmp_path / "out")
    wanted["input"]["metrics"] = [damaged, *made.files.metrics[1:]]
    with pytest.raises(SystemExit):
        run_script("maxpool/aggregate", **wanted)
    error = capsys.readouterr().err
    assert error.startswith(f"ValueError: {damaged}: ")
    assert error.count("\n") == 1
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["job.log"]
