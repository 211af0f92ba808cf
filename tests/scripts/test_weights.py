"""Training the pairs of a cell, and gathering them: files hold what the library returned, and are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from nonsmooth import datasets, images, maxpool, training
from nonsmooth.cells import WeightsCell
from nonsmooth.weights import train_pair

SETTINGS = {"device": "cpu", "threads": 1, "deterministic": True}
CELL = WeightsCell(dataset="mnist_5k", architecture="lenet5", precision="float16", epochs=2, batch_size=64)


@pytest.fixture
def splits(write_split) -> dict[str, str]:
    return {"train": str(write_split("train", 256)), "test": str(write_split("test", 64))}


def arguments(splits: dict[str, str], folder: Path, cell: WeightsCell = CELL, **others) -> dict:
    return {
        "input": splits,
        "output": {"epochs": str(folder / "epochs.csv"), "record": str(folder / "record.json")},
        "params": {"cell": cell.to_dict(), "settings": SETTINGS, "numerics_version": 1},
        "config": {},
        "threads": 1,
        "log": [str(folder / "weights.log")],
        **others,
    }


def test_files_hold_what_the_library_returned_and_can_be_gathered(splits, run_script, tmp_path: Path) -> None:
    run_script("maxpool/weights", **arguments(splits, tmp_path / "a"))
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"epochs.csv", "record.json", "weights.log"}
    data = [
        images.Images.on_device("mnist_5k", *datasets.load("mnist_5k", Path(splits[split])), torch.device("cpu"))
        for split in ("train", "test")
    ]
    again = train_pair(CELL, *data, training.Settings(**SETTINGS))
    epochs = pd.read_csv(tmp_path / "a" / "epochs.csv")
    expected = pd.DataFrame(again.metrics)
    pd.testing.assert_frame_equal(epochs.drop(columns="seconds"), expected.drop(columns="seconds"), check_exact=True)
    record = json.loads((tmp_path / "a" / "record.json").read_text())
    assert WeightsCell.from_dict(record["cell"]) == CELL
    assert (record["program"], record["reference"]) == (again.record["program"], again.record["reference"])
    lines = (tmp_path / "a" / "weights.log").read_text().splitlines()
    assert sum("epoch " in line and "distance_l1 " in line for line in lines) == 3

    run_script(
        "maxpool/weights_tables",
        input={"epochs": [tmp_path / "a" / "epochs.csv"], "records": [tmp_path / "a" / "record.json"]},
        output={"table": tmp_path / "weights.csv"},
        params={"cells": [CELL.to_dict()]},
        log=[str(tmp_path / "tables.log")],
    )
    table = maxpool.read_weights([CELL], [tmp_path / "a" / "epochs.csv"], [tmp_path / "a" / "record.json"])
    assert (tmp_path / "weights.csv").read_text() == table.to_csv(index=False)
    assert len(table) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"params": {"cell": CELL.to_dict(), "settings": {**SETTINGS, "threads": 2}}},
            "threads: 2 per cell, but Snakemake gave 1, and sums depend on it; run with --cores 2 or more",
        ),
        ({"input": {"train": "missing.npy", "test": "missing.npy"}}, "`snakemake missing.npy` makes it"),
        ({"params": {"cell": {**CELL.to_dict(), "precision": "tf32"}, "settings": SETTINGS}}, "precision tf32 needs"),
    ],
)
def test_a_job_that_cannot_run_writes_nothing(changes, message: str, splits, run_script, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        run_script("maxpool/weights", **arguments(splits, tmp_path / "a", **changes))
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["weights.log"]
