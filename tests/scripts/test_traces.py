"""Gathering what poolings did: every row of every cell under its identity, and the largest of a step's layers."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from nonsmooth import maxpool
from nonsmooth.cells import ACTIVATIONS, LAYERS
from nonsmooth.files import write_rows

from .conftest import cells

CELLS = cells(rule=["native", "hybrid-1000-forward_jacobian"], normalization=["none"], seed=[0, 1])


@pytest.fixture
def files(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """Two layers, two epochs; the second cell has no poolings, the last a NaN."""
    layers, activations = [], []
    for number, _ in enumerate(CELLS):
        folder = tmp_path / str(number)
        is_empty = number == 1
        rows = [] if is_empty else [
            {**dict.fromkeys(LAYERS, 10.0 * number + epoch), "epoch": epoch, "layer": name}
            for epoch in (1, 2) for name in ("pool1", "pool2")
        ]  # fmt: skip
        write_rows(folder / "layers.csv", rows, LAYERS)
        steps = [] if is_empty else [
            {"step": step, "layer": name, "max_activation": math.nan if number == 3 and (step, name) == (2, "pool1") else value}
            for step in (1, 2) for name, value in (("pool1", float(step)), ("pool2", 3.0 * number))
        ]  # fmt: skip
        write_rows(folder / "activations.csv", steps, ACTIVATIONS)
        layers.append(folder / "layers.csv")
        activations.append(folder / "activations.csv")
    return layers, activations


def test_rows_have_their_identity(files) -> None:
    by_layer, by_step = maxpool.read_traces(CELLS, *files)
    assert by_layer.groupby(["rule", "seed"]).size().to_dict() == {
        ("native", 0): 4, ("hybrid-1000-forward_jacobian", 0): 4, ("hybrid-1000-forward_jacobian", 1): 4,
    }  # fmt: skip
    assert set(by_layer.beta[by_layer.evaluation == "forward_jacobian"]) == {1000.0}
    assert set(by_layer.evaluation[by_layer.rule == "native"]) == {""}
    found = by_step.set_index(["rule", "seed", "step"]).max_activation
    assert found["native", 0, 1] == 1
    assert found["native", 0, 2] == 2
    assert found["hybrid-1000-forward_jacobian", 0, 1] == 6
    assert math.isnan(found["hybrid-1000-forward_jacobian", 1, 2])


def test_the_script_writes_both_tables(files, run_script, tmp_path: Path) -> None:
    outputs = {name: str(tmp_path / "out" / f"{name}.csv") for name in ("layers", "activations")}
    run_script("maxpool/traces", input={"layers": files[0], "activations": files[1]}, output=outputs,
               params={"cells": [cell.to_dict() for cell in CELLS]}, log=[str(tmp_path / "job.log")])  # fmt: skip
    expected = maxpool.read_traces(CELLS, *files)
    for path, table in zip(outputs.values(), expected, strict=True):
        assert Path(path).read_text() == table.to_csv(index=False)


def test_a_damaged_file_is_named(files, run_script, tmp_path: Path, capsys) -> None:
    files[0][2].write_text("epoch,step\n1,1\n")
    outputs = {name: str(tmp_path / "out" / f"{name}.csv") for name in ("layers", "activations")}
    with pytest.raises(SystemExit):
        run_script("maxpool/traces", input={"layers": files[0], "activations": files[1]}, output=outputs,
                   params={"cells": [cell.to_dict() for cell in CELLS]}, log=[str(tmp_path / "job.log")])  # fmt: skip
    assert f"ValueError: {files[0][2]}: no layer, " in capsys.readouterr().err
    assert not pd.Series(list((tmp_path).glob("out/*.csv"))).any()
