"""Preparing a split: the wildcards say which, and what is wrong is one line."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from nonsmooth import datasets

IMAGES = np.random.default_rng(0).integers(256, size=(12, 1, 2, 3), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset `toy` whose training split is made of `IMAGES`, read from a folder."""

    def read(split: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
        assert (path / "toy.bin").is_file()
        return (IMAGES, LABELS) if split == "train" else (IMAGES[:3], LABELS[:3])

    toy = dataclasses.replace(
        datasets.DATASETS["mnist_5k"],
        shape=(1, 2, 3),
        sizes={"train": 12, "test": 3},
        files={"train": ("toy.bin",)},
        read=read,
        source="made up",
        sha256={"train": hashlib.sha256(IMAGES.tobytes() + LABELS.tobytes()).hexdigest(), "test": "0" * 64},
    )
    monkeypatch.setitem(datasets.DATASETS, "toy", toy)


def arguments(folder: Path, split: str, path: Path | None) -> dict:
    return {
        "wildcards": {"dataset": "toy", "split": split},
        "output": [folder / "prepared" / f"{split}.npy"],
        "params": {"path": None if path is None else str(path)},
        "log": [str(folder / "job.log")],
    }


def test_the_split_of_the_wildcards_is_prepared(run_script, tmp_path: Path) -> None:
    (tmp_path / "toy.bin").touch()
    run_script("data/prepare", **arguments(tmp_path, "train", tmp_path))
    images, labels = datasets.load("toy", tmp_path / "prepared" / "train.npy")
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize(
    ("split", "has_file", "message"),
    [("test", True, "SHA-256"), ("train", False, "lacks toy.bin; made up"), ("train", None, "None lacks toy.bin")],
)
def test_what_is_wrong_is_one_line(split: str, has_file, message: str, run_script, tmp_path: Path, capsys) -> None:
    if has_file:
        (tmp_path / "toy.bin").touch()
    with pytest.raises(SystemExit) as stopped:
        run_script("data/prepare", **arguments(tmp_path, split, None if has_file is None else tmp_path))
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "prepared" / f"{split}.npy").exists()
