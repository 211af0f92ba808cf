"""The script of a cell of the zones: its files are what the library measured."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from nonsmooth import images
from nonsmooth.cells import ZoneCell
from nonsmooth.files import read_json
from nonsmooth.training import Settings
from nonsmooth.zones.run import measure_cell

SETTINGS = {"device": "cpu", "threads": 1, "deterministic": True}


@pytest.mark.parametrize("replays", [True, False])
def test_files_hold_the_run(write_split, run_script, tmp_path: Path, replays: bool) -> None:
    path = write_split("train", 50)
    cell = ZoneCell(
        dataset="mnist_5k", architecture="lenet5", precision="float16", batch_size=20, seed=1, replays=replays
    )
    outputs = {name: str(tmp_path / "new" / f"{name}.csv") for name in ("minibatches", "layers")}
    run_script(
        "maxpool/zones",
        input=[str(path)],
        output={**outputs, "record": str(tmp_path / "new/record.json")},
        params={"cell": cell.to_dict(), "settings": SETTINGS},
        threads=1,
        log=[str(tmp_path / "job.log")],
    )
    expected = measure_cell(cell, images.load("mnist_5k", "lenet5", path, torch.device("cpu")), Settings(**SETTINGS))
    for name, rows in (("minibatches", expected.minibatches), ("layers", expected.layers)):
        assert Path(outputs[name]).read_text() == pd.DataFrame(rows).to_csv(index=False)
    assert [row["images"] for row in expected.minibatches] == [20, 20, 10]
    record = read_json(tmp_path / "new/record.json")
    assert ZoneCell.from_dict(record["cell"]) == cell
    assert "minibatch 2: " in (tmp_path / "job.log").read_text()


def test_too_few_threads_are_one_error(run_script, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        run_script(
            "maxpool/zones",
            input=["none.npy"],
            output={name: str(tmp_path / name) for name in ("minibatches", "layers", "record")},
            params={
                "cell": ZoneCell(dataset="mnist_5k", architecture="lenet5").to_dict(),
                "settings": {**SETTINGS, "threads": 2},
            },
            threads=1,
            log=[str(tmp_path / "job.log")],
        )
    assert "threads: 2 per cell, but Snakemake gave 1" in capsys.readouterr().err
