"""The table of errors is the library's for the first minibatch of training, of every seed and precision."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from nonsmooth import images
from nonsmooth.cells import TrainingCell
from nonsmooth.pooling_errors import composed_errors

SETTINGS = {"dataset": "mnist_5k", "architecture": "lenet5", "normalization": "batch_norm", "batch_size": 8,
            "precisions": ["float16", "float32"], "betas": [10, 1000], "seeds": [3, 1]}  # fmt: skip


def test_the_script_follows_the_configuration(write_split, run_script, tmp_path: Path) -> None:
    path = write_split("train", 32)
    output = tmp_path / "errors.csv"
    run_script(
        "maxpool/pooling_errors",
        input=[str(path)],
        output=[str(output)],
        params={"pooling_errors": SETTINGS},
        threads=1,
        log=[str(tmp_path / "job.log")],
    )
    data = images.load("mnist_5k", "lenet5", path, torch.device("cpu"))
    tables = []
    for seed in SETTINGS["seeds"]:
        order = torch.randperm(32, generator=torch.Generator().manual_seed(seed))[:8]
        for precision in SETTINGS["precisions"]:
            cell = TrainingCell(dataset="mnist_5k", architecture="lenet5", normalization="batch_norm", precision=precision,
                                seed=seed)  # fmt: skip
            tables.append(composed_errors(cell, *data.batch(order), SETTINGS["betas"]))
    expected = pd.concat(tables, ignore_index=True)
    pd.testing.assert_frame_equal(
        pd.read_csv(output, keep_default_na=False, na_values=[""]), expected, check_exact=True
    )
    assert len(expected) == 2 * 2 * 2 * 2
