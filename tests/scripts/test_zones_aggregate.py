"""Gathering cells of the zones: ten tables, which are the library's."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nonsmooth import published
from nonsmooth.zones import tables as zones

from .conftest import load

aggregate = load("maxpool/zones_aggregate")
TABLES = ("minibatches", "layers", "proportions", "proportions_by_seed", "classes", "magnitudes", "misjudged", "pure_rounding",
          "thresholds", "published", "costs")  # fmt: skip


@pytest.fixture(scope="module")
def made(measured):
    return measured(number=5, precision=["float16", "float32"], program=["minimal", "native"])


def test_the_tables_are_those_of_the_library(made, tmp_path: Path) -> None:
    outputs = {name: tmp_path / "new" / f"{name}.csv" for name in TABLES}
    aggregate.aggregate(made.cells, made.minibatches, made.layers, made.records, outputs)
    minibatches, layers, costs = made.read()
    proportions = zones.proportions(minibatches)
    expected = {
        "minibatches": minibatches,
        "layers": layers,
        "costs": costs,
        "proportions": proportions,
        "proportions_by_seed": zones.proportions_by_seed(minibatches),
        "published": zones.compare(proportions, published.zones()),
        **{
            name: getattr(zones, name)(minibatches)
            for name in ("classes", "magnitudes", "misjudged", "pure_rounding", "thresholds")
        },
    }
    assert set(expected) == set(TABLES)
    for name, table in expected.items():
        assert outputs[name].read_text() == table.to_csv(index=False)
        assert len(table)
    assert len(pd.read_csv(outputs["minibatches"])) == 2 * 2 * 2 * 5
    assert len(pd.read_csv(outputs["published"])) == 2 * 2


def arguments(made, folder: Path) -> dict:
    return {
        "input": {"minibatches": made.minibatches, "layers": made.layers, "records": made.records},
        "output": {name: folder / f"{name}.csv" for name in TABLES},
        "params": {"cells": [cell.to_dict() for cell in made.cells]},
        "log": [str(folder / "job.log")],
    }


def test_the_script_gathers_the_inputs_of_the_rule(made, run_script, tmp_path: Path) -> None:
    run_script("maxpool/zones_aggregate", **arguments(made, tmp_path))
    assert {path.name for path in tmp_path.glob("*.csv")} == {f"{name}.csv" for name in TABLES}
    assert pd.read_csv(tmp_path / "costs.csv").seed.tolist() == [0, 1] * 4


def test_a_damaged_cell_is_named_and_no_table_is_written(made, run_script, tmp_path: Path, capsys) -> None:
    damaged = tmp_path / "minibatches.csv"
    damaged.write_text("")
    wanted = arguments(made, tmp_path / "out")
    wanted["input"]["minibatches"] = [damaged, *made.minibatches[1:]]
    with pytest.raises(SystemExit):
        run_script("maxpool/zones_aggregate", **wanted)
    error = capsys.readouterr().err
    assert error.startswith(f"ValueError: {damaged}: ")
    assert error.count("\n") == 1
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["job.log"]
