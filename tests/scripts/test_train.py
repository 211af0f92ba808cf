"""Training a cell: its files hold what the library returned, and nothing is written before it is whole."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nonsmooth import datasets, images, maxpool, training
from nonsmooth.cells import SEARCH, TrainingCell
from nonsmooth.files import write_json

from .conftest import cells, load

train = load("maxpool/train")
SETTINGS = {"device": "cpu", "threads": 1, "deterministic": True}
TIMES = ["seconds", "images_per_second"]


@pytest.fixture
def splits(write_split) -> dict[str, Path]:
    return {"train": write_split("train", 256), "test": write_split("test", 64)}


def cell(**values) -> TrainingCell:
    (made,) = cells(rule=[values.pop("rule", "hybrid-10-exact")], normalization=["none"], seed=[0])
    return dataclasses.replace(made, **{"epochs": 2, "learning_rate": 0.01, **values})


def run(made, splits: dict[str, Path], folder: Path) -> tuple[pd.DataFrame, dict]:
    paths = outputs(folder)
    train.train(made, str(splits["train"]), str(splits["test"]), training.Settings(**SETTINGS), paths)
    assert {str(path) for path in folder.iterdir()} == set(paths.values())
    return pd.read_csv(paths["metrics"]), json.loads(Path(paths["record"]).read_text())


def outputs(folder: Path) -> dict[str, str]:
    names = ("metrics.csv", "record.json", "layers.csv", "activations.csv")
    return {name.split(".")[0]: str(folder / name) for name in names}


def test_files_hold_what_training_returned(splits, tmp_path: Path) -> None:
    metrics, record = run(cell(), splits, tmp_path / "new")
    data = [
        images.Images.on_device("mnist_5k", *datasets.load("mnist_5k", splits[split]), torch.device("cpu"))
        for split in ("train", "test")
    ]
    again = training.train(cell(), *data, training.Settings(**SETTINGS))
    for name in ("layers", "activations"):
        written = pd.read_csv(tmp_path / "new" / f"{name}.csv")
        pd.testing.assert_frame_equal(written, pd.DataFrame(getattr(again, name)), check_exact=True)
    expected = pd.DataFrame(again.metrics)
    pd.testing.assert_frame_equal(metrics.drop(columns=TIMES), expected.drop(columns=TIMES), check_exact=True)
    assert metrics.epoch.tolist() == [1, 2]
    assert record["steps"] == 2 * 256 / 128
    varying = {"seconds", "process_seconds", "cpu_seconds", "peak_memory_mib"}
    assert record.keys() == again.record.keys()
    assert all(record[key] == again.record[key] for key in record.keys() - varying)
    assert TrainingCell.from_dict(record["cell"]) == cell()


def test_a_cell_that_diverges_can_be_gathered(splits, tmp_path: Path) -> None:
    """Its losses come back from the file as NaN or infinite, and the run as diverged."""
    made = cell(learning_rate=1e4, epochs=3)
    metrics, record = run(made, splits, tmp_path / "cell")
    assert record["diverged"]
    assert not np.isfinite(metrics.train_loss).all()
    runs, epochs = maxpool.read_runs([made], [tmp_path / "cell" / "metrics.csv"], [tmp_path / "cell" / "record.json"])
    (found,) = runs.to_dict("records")
    assert (found["diverged"], found["first_nonfinite_step"]) == (True, record["first_nonfinite_step"])
    assert (found["epochs_run"], found["epochs"]) == (len(epochs), 3)
    assert found["test_accuracy"] == metrics.test_accuracy.iloc[-1]
    assert found["peak_memory_mib"] == record["peak_memory_mib"] > 100
    assert found["job_seconds"] == record["process_seconds"] > 0


def test_images_are_padded_to_what_the_network_takes(splits, tmp_path: Path, monkeypatch) -> None:
    """VGG11 takes 32 x 32; the first pass shows it."""
    seen = []
    real = training.train

    def look(made, *data, **others):
        seen.extend(tuple(next(found.batches(2))[0].shape) for found in data[:2])
        return real(dataclasses.replace(made, architecture="lenet5"), *(images.load(
            "mnist_5k", "lenet5", splits[split], torch.device("cpu")) for split in ("train", "test")), *data[2:], **others)  # fmt: skip

    monkeypatch.setattr(training, "train", look)
    run(cell(architecture="vgg11", epochs=1), splits, tmp_path / "cell")
    assert seen == [(2, 1, 32, 32)] * 2


def arguments(splits, folder: Path, **others) -> dict:
    return {
        "input": {split: str(path) for split, path in splits.items()},
        "output": outputs(folder),
        "params": {"cell": cell().to_dict(), "settings": SETTINGS, "numerics_version": 1},
        "config": {},
        "threads": 1,
        "log": [str(folder / "train.log")],
        **others,
    }


def test_the_script_trains_the_cell_of_the_rule(splits, run_script, tmp_path: Path) -> None:
    run_script("maxpool/train", **arguments(splits, tmp_path / "a"))
    lines = (tmp_path / "a" / "train.log").read_text().splitlines()
    assert sum("epoch " in line and "train_loss " in line for line in lines) == 2
    by_hand, _ = run(cell(), splits, tmp_path / "b")
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "a" / "metrics.csv").drop(columns=TIMES), by_hand.drop(columns=TIMES), check_exact=True
    )


def test_the_script_takes_the_rate_that_was_found(splits, run_script, tmp_path: Path) -> None:
    write_json(tmp_path / "chosen.json", {"learning_rate": 0.0123, "accuracy": 0.9})
    searched = dataclasses.replace(cell(), learning_rate=SEARCH, epochs=1)
    wanted = arguments(splits, tmp_path / "a")
    wanted["input"]["search"] = [str(tmp_path / "chosen.json")]
    wanted["params"]["cell"] = searched.to_dict()
    run_script("maxpool/train", **wanted)
    record = json.loads((tmp_path / "a" / "record.json").read_text())
    assert TrainingCell.from_dict(record["cell"]) == dataclasses.replace(searched, learning_rate=0.0123)
    assert pd.read_csv(tmp_path / "a" / "metrics.csv").learning_rate.tolist() == [0.0123]


def test_more_threads_than_the_cell_computes_with_are_workers(splits, run_script, tmp_path: Path, monkeypatch) -> None:
    """Snakemake counts both as threads."""
    given = []
    monkeypatch.setattr(images, "load", lambda *arguments: given.append(arguments[4]) or [])
    monkeypatch.setattr(training, "train", lambda *_, **__: training.Run([{"epoch": 1}], {}))
    for threads in (1, 5):
        run_script("maxpool/train", **arguments(splits, tmp_path / str(threads), threads=threads))
    assert given == [0, 0, 4, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"threads": 1, "params": {"cell": cell().to_dict(), "settings": {**SETTINGS, "threads": 2}}},
            "threads: 2 per cell, but Snakemake gave 1, and sums depend on it; run with --cores 2 or more",
        ),
        ({"input": {"train": "missing.npy", "test": "missing.npy"}}, "`snakemake missing.npy` makes it"),
        ({"params": {"cell": {**cell().to_dict(), "rule": "hybrid"}, "settings": SETTINGS}}, "unknown pooling rule"),
        ({"params": {"cell": {**cell().to_dict(), "precision": "tf32"}, "settings": SETTINGS}}, "precision tf32 needs"),
    ],
)
def test_a_job_that_cannot_run_writes_nothing(changes, message: str, splits, run_script, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_script("maxpool/train", **arguments(splits, tmp_path / "a", **changes))
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" in (tmp_path / "a" / "train.log").read_text()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["train.log"]
