"""Preparing a split: the wildcards say which, and what is wrong is one line."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from nonsmooth import datasets

IMAGES = np.random.default_rng(0).integers(256, size=(12, 1, 2, 3), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 10
CONTENT = IMAGES.tobytes() + LABELS.tobytes()


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset `toy` whose contents are known for training, and its file for testing."""

    def read(split: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        assert (folder / "toy.bin").is_file()
        return IMAGES, LABELS

    checksum = hashlib.sha256(CONTENT).hexdigest()
    toy = dataclasses.replace(
        datasets.DATASETS["mnist"],
        shape=(1, 2, 3),
        sizes={"train": 12, "test": 12},
        files={split: {"toy.bin": f"sha256:{checksum}"} for split in ("train", "test")},
        read=read,
        sha256={"train": checksum},
        hint="made up",
    )
    monkeypatch.setitem(datasets.DATASETS, "toy", toy)


def arguments(folder: Path, split: str, source: Path | None) -> dict:
    return {
        "wildcards": {"dataset": "toy", "split": split},
        "input": [],
        "output": [str(folder / "prepared" / f"{split}.npy")],
        "params": {"folder": None if source is None else str(source)},
        "log": [str(folder / "job.log")],
    }


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_split_of_the_wildcards_is_prepared(split: str, run_script, tmp_path: Path) -> None:
    (tmp_path / "toy.bin").write_bytes(CONTENT)
    run_script("data/prepare", **arguments(tmp_path, split, tmp_path))
    images, labels = datasets.load("toy", tmp_path / "prepared" / f"{split}.npy")
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    assert [path.name for path in (tmp_path / "prepared").iterdir()] == [f"{split}.npy"]


def test_a_set_in_a_package_is_read_from_no_folder(run_script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []

    def read(split: str, folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
        folders.append(folder)
        return IMAGES, LABELS

    embedded = dataclasses.replace(datasets.DATASETS["toy"], files={}, read=read)
    monkeypatch.setitem(datasets.DATASETS, "toy", embedded)
    run_script("data/prepare", **arguments(tmp_path, "train", None))
    assert folders == [None]
    assert len(datasets.load("toy", tmp_path / "prepared/train.npy")[1]) == 12


@pytest.mark.parametrize(
    ("split", "content", "message"),
    [
        ("test", b"damaged", "ValueError: {folder}/toy.bin: the checksum of the file is sha256:"),
        ("train", None, "FileNotFoundError: dataset toy: {folder} lacks toy.bin; made up"),
        ("train", "no folder", "FileNotFoundError: dataset toy: no folder given; made up"),
    ],
)
def test_what_is_wrong_is_one_line(split: str, content, message: str, run_script, tmp_path: Path, capsys) -> None:
    folder = None if content == "no folder" else tmp_path
    if isinstance(content, bytes):
        (tmp_path / "toy.bin").write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        run_script("data/prepare", **arguments(tmp_path, split, folder))
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(message.format(folder=tmp_path))
    assert error.endswith(f"(details: {tmp_path / 'job.log'})\n")
    assert error.count("\n") == 1
    assert "Traceback" in (tmp_path / "job.log").read_text()
    assert not (tmp_path / "prepared").exists()


def test_other_contents_are_one_line(run_script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "toy.bin").touch()
    other = dataclasses.replace(datasets.DATASETS["toy"], sha256={"train": "0" * 64})
    monkeypatch.setitem(datasets.DATASETS, "toy", other)
    with pytest.raises(SystemExit):
        run_script("data/prepare", **arguments(tmp_path, "train", tmp_path))
    found = hashlib.sha256(CONTENT).hexdigest()
    assert capsys.readouterr().err.startswith(
        f"ValueError: dataset toy, split train, from {tmp_path}: the checksum of the decompressed contents is {found}, "
        f"expected {'0' * 64}; get the files again (details: "
    )
    assert not (tmp_path / "prepared").exists()
