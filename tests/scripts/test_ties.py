"""Ties of one image: the arrays and counts are those of the library for that image, network and arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nonsmooth import datasets
from nonsmooth.ties import find_ties, initial_network, tie_counts

from .conftest import load

ties = load("maxpool/ties")
PRECISIONS = ["float16", "float64"]


def expected(path: Path, image: int, seed: int) -> tuple[np.ndarray, dict]:
    pixels = (datasets.load("mnist_5k", path)[0][image].astype(np.float32) / np.float32(255) - np.float32(0.5)) * 2
    network = {name: initial_network("lenet5", "mnist_5k", seed) for name in PRECISIONS}
    return pixels, {name: find_ties(torch.from_numpy(pixels), network[name], name) for name in PRECISIONS}


def assert_written(folder: Path, pixels: np.ndarray, measured: dict) -> None:
    with np.load(folder / "ties.npz") as arrays:
        assert set(arrays) == {"image", *(f"{name}/{key}" for name, found in measured.items() for key in found)}
        np.testing.assert_array_equal(arrays["image"], pixels)
        for name, found in measured.items():
            for key, array in found.items():
                np.testing.assert_array_equal(arrays[f"{name}/{key}"], array)
    assert (folder / "ties.csv").read_text() == tie_counts(measured).to_csv(index=False)


def test_files_hold_the_ties_of_that_image(write_split, tmp_path: Path) -> None:
    path = write_split("test", 8)
    outputs = {"arrays": tmp_path / "ties.npz", "counts": tmp_path / "ties.csv"}
    for image, seed in ((0, 0), (5, 3)):
        ties.ties("mnist_5k", str(path), "lenet5", image, seed, PRECISIONS, outputs)
        assert_written(tmp_path, *expected(path, image, seed))


def test_the_script_follows_the_configuration(write_split, run_script, tmp_path: Path) -> None:
    path = write_split("test", 8)
    settings = {"dataset": "mnist_5k", "architecture": "lenet5", "image": 2, "seed": 1, "precisions": PRECISIONS}
    run_script(
        "maxpool/ties",
        input=[str(path)],
        output={"arrays": tmp_path / "ties.npz", "counts": tmp_path / "ties.csv"},
        params={"ties": settings},
        threads=1,
        log=[str(tmp_path / "job.log")],
    )
    assert_written(tmp_path, *expected(path, 2, 1))
    assert pd.read_csv(tmp_path / "ties.csv").precision.tolist() == PRECISIONS
