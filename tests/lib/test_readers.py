"""Readers of published formats: every byte in its place, and one error that names a damaged file.

Files are made here, byte by byte as their formats are documented, and compared with slow plain loops.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import struct
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from nonsmooth.datasets import DATASETS, readers

IDX_IMAGES, IDX_LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
CIFAR = "cifar-10-binary.tar.gz"
SVHN = "test_32x32.mat"
RECORD = 1 + 3 * 32 * 32

read_idx = partial(readers.idx, {"train": "train", "test": "t10k"})


def value(*place: int) -> int:
    """A byte that depends on every coordinate."""
    return hashlib.sha256(repr(place).encode()).digest()[0]


def files_below(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, hidden files too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def idx(shape: tuple[int, ...], content: bytes, kind: int = 8) -> bytes:
    """An IDX file: two zeros, the type, the number of dimensions, their sizes, the values, big-endian."""
    return struct.pack(f">HBB{len(shape)}I", 0, kind, len(shape), *shape) + content


def tar(members: dict[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> bytes:
    """An archive of files, and of members of other kinds."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in members.items():
            if isinstance(content, bytes):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                content.name = name
                archive.addfile(content)
    return stream.getvalue()


def cifar_members(images_per_file: int = 2) -> dict[str, bytes]:
    """CIFAR-10's binary version: five batches for training, one for testing, and two texts."""
    batches = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    folder = "cifar-10-batches-bin"
    members = {f"{folder}/batches.meta.txt": b"airplane\nautomobile\n", f"{folder}/readme.html": b"<html></html>"}
    for number, name in enumerate(batches):
        content = bytearray()
        for image in range(images_per_file):
            content.append(label_of(number, image))
            # "The first 1024 bytes are the red channel values, the next 1024 the green, and the final 1024 the blue.
            # The values are stored in row-major order."
            for channel in range(3):
                for row in range(32):
                    for column in range(32):
                        content.append(value(number, image, channel, row, column))
        members[f"{folder}/{name}.bin"] = bytes(content)
    return members


def label_of(*place: int) -> int:
    return value(*place) % 10


def mat(compressed: bool = True, **variables) -> bytes:
    """A MATLAB file; the published ones are compressed."""
    stream = io.BytesIO()
    savemat(stream, variables, do_compression=compressed)
    return stream.getvalue()


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo()
    member.type, member.linkname = kind, target
    return member


# ------------------------------------------------------------------------------------ every byte in its place


def test_idx_images_and_labels(tmp_path: Path):
    number, height, width = 5, 7, 4
    pixels = bytes(value(n, r, c) for n in range(number) for r in range(height) for c in range(width))
    (tmp_path / IDX_IMAGES).write_bytes(gzip.compress(idx((number, height, width), pixels)))
    (tmp_path / IDX_LABELS).write_bytes(gzip.compress(idx((number,), bytes([7, 0, 9, 9, 1]))))
    images, labels = read_idx("test", tmp_path)
    assert images.shape == (number, 1, height, width)
    assert images.dtype == labels.dtype == np.uint8
    for n in range(number):
        for r in range(height):
            for c in range(width):
                assert images[n, 0, r, c] == value(n, r, c)
    assert labels.tolist() == [7, 0, 9, 9, 1]


def test_idx_files_of_a_split_are_found_by_its_prefix(tmp_path: Path):
    for label, prefix in enumerate(("train", "t10k")):
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx((1, 1, 1), bytes([label + 100]))))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx((1,), bytes([label]))))
    assert [array.tolist() for array in read_idx("train", tmp_path)] == [[[[[100]]]], [0]]
    assert [array.tolist() for array in read_idx("test", tmp_path)] == [[[[[101]]]], [1]]


def test_idx_files_compressed_in_several_parts(tmp_path: Path):
    """As parallel compressors write them: gzip members one after the other."""
    images = idx((2, 2, 2), bytes(range(8)))
    (tmp_path / IDX_IMAGES).write_bytes(gzip.compress(images[:11], mtime=0) + gzip.compress(images[11:]))
    (tmp_path / IDX_LABELS).write_bytes(gzip.compress(idx((2,), b"\1\2"), 1))
    images, labels = read_idx("test", tmp_path)
    assert images.reshape(-1).tolist() == list(range(8))
    assert labels.tolist() == [1, 2]


@pytest.mark.parametrize(("split", "files"), [("train", range(5)), ("test", [5])])
def test_cifar_images_and_labels(split: str, files, tmp_path: Path):
    (tmp_path / CIFAR).write_bytes(tar(cifar_members()))
    images, labels = readers.cifar10(split, tmp_path)
    assert images.shape == (2 * len(files), 3, 32, 32)
    assert images.dtype == labels.dtype == np.uint8
    expected = [(number, image) for number in files for image in range(2)]
    assert labels.tolist() == [label_of(*place) for place in expected]
    for place, image in zip(expected, images, strict=True):
        for channel in range(3):
            for row in range(32):
                for column in range(32):
                    assert image[channel, row, column] == value(*place, channel, row, column)
    assert set(files_below(tmp_path)) == {CIFAR}


def test_cifar_batches_are_taken_by_number_whatever_their_order_in_the_archive(tmp_path: Path):
    members = cifar_members(1)
    (tmp_path / CIFAR).write_bytes(tar(dict(reversed(members.items()))))
    assert readers.cifar10("train", tmp_path)[1].tolist() == [label_of(number, 0) for number in range(5)]


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(("split", "name"), [(split, f"{split}_32x32.mat") for split in ("train", "test", "extra")])
def test_svhn_images_and_labels(split: str, name: str, compressed: bool, tmp_path: Path):
    """X is rows x columns x channels x images, and the digit 0 has label 10."""
    digits = [3, 10, 1, 9]
    content = np.empty((32, 32, 3, len(digits)), np.uint8)
    for row in range(32):
        for column in range(32):
            for channel in range(3):
                for n in range(len(digits)):
                    content[row, column, channel, n] = value(n, channel, row, column)
    (tmp_path / name).write_bytes(mat(compressed, X=content, y=np.array(digits, np.uint8)[:, None]))
    images, labels = readers.svhn(split, tmp_path)
    assert images.shape == (4, 3, 32, 32)
    assert images.dtype == labels.dtype == np.uint8
    assert images.flags.c_contiguous
    for n in range(4):
        for channel in range(3):
            for row in range(32):
                for column in range(32):
                    assert images[n, channel, row, column] == value(n, channel, row, column)
    assert labels.tolist() == [3, 0, 1, 9]


def test_svhn_labels_may_be_numbers_as_matlab_has_them(tmp_path: Path):
    """MATLAB's numbers are doubles unless told otherwise."""
    (tmp_path / SVHN).write_bytes(mat(X=np.zeros((32, 32, 3, 2), np.uint8), y=np.array([[10.0], [4.0]])))
    labels = readers.svhn("test", tmp_path)[1]
    assert labels.tolist() == [0, 4]
    assert labels.dtype == np.uint8


# --------------------------------------------------------------------------------------- folders of classes


read_folders = partial(readers.class_folders, {"train": "train", "test": "val"})


def write_tree(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(folder / name, "JPEG")


def listed(images: np.ndarray, root: Path) -> list[str]:
    return [os.path.relpath(os.fsdecode(path), root) for path in images.tolist()]


def test_folders_of_images(tmp_path: Path):
    inside = ["n02/b.JPEG", "n02/a.jpg", "n10/deeper/z.png", "n10/a.jpeg", "n1/ä ö.JPG"]
    write_tree(tmp_path, [*(f"val/{name}" for name in inside), "train/n02/other.jpg"])
    (tmp_path / "val/n02/notes.txt").write_text("not an image")
    (tmp_path / "val/list.jpg").write_text("not in a class")
    images, labels = read_folders("test", tmp_path)
    assert listed(images, tmp_path / "val") == [
        "n02/a.jpg", "n02/b.JPEG", "n1/ä ö.JPG", "n10/a.jpeg", "n10/deeper/z.png",
    ]  # fmt: skip
    assert labels.tolist() == [0, 0, 1, 2, 2]
    assert labels.dtype == np.uint16
    assert images.dtype.kind == "S"
    for path in images.tolist():
        with Image.open(os.fsdecode(path)) as image:
            assert image.size == (2, 2)


def test_a_class_without_images_keeps_its_number(tmp_path: Path):
    """Otherwise the others would have other labels for training than for testing."""
    write_tree(tmp_path, ["train/a/1.jpg", "train/c/1.jpg"])
    (tmp_path / "train/b").mkdir()
    assert read_folders("train", tmp_path)[1].tolist() == [0, 2]


def test_thousand_classes(tmp_path: Path):
    """More than a byte can number."""
    for number in range(1000):
        (tmp_path / f"train/n{number:08}").mkdir(parents=True)
        (tmp_path / f"train/n{number:08}/1.jpg").touch()
    assert read_folders("train", tmp_path)[1].tolist() == list(range(1000))


def test_folders_are_found_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Worker processes and later jobs may have another one."""
    write_tree(tmp_path, ["raw/train/a/1.jpg"])
    monkeypatch.chdir(tmp_path)
    (path,) = read_folders("train", Path("raw"))[0].tolist()
    assert os.fsdecode(path) == str(tmp_path / "raw/train/a/1.jpg")


def test_a_class_may_be_a_link_to_a_folder(tmp_path: Path):
    write_tree(tmp_path, ["elsewhere/1.jpg"])
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a").symlink_to(tmp_path / "elsewhere")
    assert listed(read_folders("train", tmp_path)[0], tmp_path) == ["train/a/1.jpg"]


def test_a_folder_that_is_named_like_an_image_is_none(tmp_path: Path):
    write_tree(tmp_path, ["train/a/1.jpg", "train/a/more.jpg/2.jpg"])
    assert listed(read_folders("train", tmp_path)[0], tmp_path / "train/a") == ["1.jpg", "more.jpg/2.jpg"]


def test_file_names_that_are_not_utf8(tmp_path: Path):
    name = b"\xe4.jpg"
    (tmp_path / "train/a").mkdir(parents=True)
    try:
        (tmp_path / "train/a" / os.fsdecode(name)).touch()
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    (path,) = read_folders("train", tmp_path)[0].tolist()
    assert path == os.fsencode(tmp_path / "train/a") + b"/" + name


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "there is no folder val in it"),
        (["train/a/1.jpg"], "there is no folder val in it"),
        (["val"], "there is no folder val in it"),
        (["val/1.jpg"], "no images in folders of classes"),
        (["val/a/notes.txt", "val/b/1.gif"], "no images in folders of classes"),
    ],
)
def test_folders_without_images(names: list[str], message: str, tmp_path: Path):
    write_tree(tmp_path, names)
    with pytest.raises(ValueError, match=message) as caught:
        read_folders("test", tmp_path)
    assert str(tmp_path) in str(caught.value)


# ---------------------------------------------------------------------------- damaged, foreign and hostile files


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


def without(members: dict, name: str) -> dict:
    return {path: content for path, content in members.items() if not path.endswith(f"/{name}.bin")}


def with_batch(content: bytes | tarfile.TarInfo) -> dict:
    return {**cifar_members(1), "cifar-10-batches-bin/data_batch_2.bin": content}


PIXELS = bytes(range(256))[: 2 * 4 * 4]
GOOD_IDX = idx((2, 4, 4), PIXELS)
GOOD_IDX_LABELS = idx((2,), b"\1\2")
GOOD_CIFAR = cifar_members(1)
GOOD_X = np.arange(32 * 32 * 3 * 2, dtype=np.uint8).reshape(32, 32, 3, 2)
GOOD_Y = np.array([[10], [1]], np.uint8)

# What can happen to a file of any format.
ANY_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "cut in the header": lambda content: content[:20],
    "cut in half": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "text": lambda content: b"404 not found",
    "page to log in": lambda content: b"<!DOCTYPE html>" + b"<p>Log in</p>" * 500,
    "compressed text": lambda content: gzip.compress(b"404 not found", mtime=0),
    "compressed nothing": lambda content: gzip.compress(b"", mtime=0),
    "zeros": lambda content: bytes(len(content)),
}
IDX_DAMAGE = {
    "flipped bits": flipped(gzip.compress(GOOD_IDX, mtime=0), -12),
    "wrong gzip checksum": flipped(gzip.compress(GOOD_IDX, mtime=0), -6),
    "not compressed": GOOD_IDX,
    "garbage after the end": gzip.compress(GOOD_IDX, mtime=0) + b"garbage",
    "half a header": gzip.compress(GOOD_IDX[:6], mtime=0),
    "header only": gzip.compress(GOOD_IDX[:16], mtime=0),
    "fewer values than the header says": gzip.compress(GOOD_IDX[:-1], mtime=0),
    "more values than the header says": gzip.compress(GOOD_IDX + b"\0", mtime=0),
    "another magic number": gzip.compress(b"\1" + GOOD_IDX[1:], mtime=0),
    "numbers that are not bytes": gzip.compress(idx((2, 4, 4), PIXELS, kind=0x0D)),
    "more dimensions than arrays can have": gzip.compress(idx((1,) * 100, b"\0")),
    "more values than memory": gzip.compress(idx((2**32 - 1,) * 3, PIXELS)),
    "a product of dimensions that overflows to 0": gzip.compress(idx((2**16,) * 4, b"")),
    "a bomb": gzip.compress(idx((2, 4, 4), bytes(2**25))),
    "no dimensions": gzip.compress(idx((), b"\0")),
}
CIFAR_DAMAGE = {
    "no members": tar({}),
    "no batch 3": tar(without(GOOD_CIFAR, "data_batch_3")),
    "the archive for Python": tar({name.replace("-bin", "-py").removesuffix(".bin"): content
                                   for name, content in GOOD_CIFAR.items()}),
    "batches that are not in their folder": tar({Path(name).name: content for name, content in GOOD_CIFAR.items()}),
    "a batch that is a folder": tar(with_batch(link(tarfile.DIRTYPE, ""))),
    "a batch that is a pipe": tar(with_batch(link(tarfile.FIFOTYPE, ""))),
    "a batch that is a device": tar(with_batch(link(tarfile.CHRTYPE, ""))),
    "a link to a file of the system": tar(with_batch(link(tarfile.SYMTYPE, "/etc/passwd"))),
    "a link to a folder above": tar(with_batch(link(tarfile.SYMTYPE, "../../../etc/passwd"))),
    "a hard link to a file of the system": tar(with_batch(link(tarfile.LNKTYPE, "/etc/passwd"))),
    "a link to nothing": tar(with_batch(link(tarfile.SYMTYPE, "nothing"))),
    "a link to another batch": tar(with_batch(link(tarfile.SYMTYPE, "data_batch_1.bin"))),
    "a hard link to another batch": tar(
        with_batch(link(tarfile.LNKTYPE, "cifar-10-batches-bin/data_batch_1.bin"))
    ),
    "a link to itself": tar(with_batch(link(tarfile.SYMTYPE, "data_batch_2.bin"))),
    "a batch without its last byte": tar(with_batch(bytes(RECORD - 1))),
    "a batch with a byte more": tar(with_batch(bytes(RECORD + 1))),
    "images and labels of MNIST": gzip.compress(GOOD_IDX, mtime=0),
}  # fmt: skip
SVHN_DAMAGE = {
    "no images": mat(y=GOOD_Y),
    "no labels": mat(X=GOOD_X),
    "no variables": mat(),
    "images as floats": mat(X=GOOD_X.astype(float), y=GOOD_Y),
    "images as text": mat(X="images", y=GOOD_Y),
    "one image without its dimension": mat(X=GOOD_X[..., 0], y=GOOD_Y),
    "images in a cell array": mat(X=np.array([GOOD_X, "text"], dtype=object), y=GOOD_Y),
    "labels as text": mat(X=GOOD_X, y="labels"),
    "labels in a structure": mat(X=GOOD_X, y={"labels": GOOD_Y}),
    "label 11": mat(X=GOOD_X, y=np.array([[1], [11]], np.uint8)),
    "label -1": mat(X=GOOD_X, y=np.array([[1], [-1]], np.int8)),
    "label 1.5": mat(X=GOOD_X, y=np.array([[1], [1.5]])),
    "a label that is no number": mat(X=GOOD_X, y=np.array([[1], [math.nan]])),
    "MATLAB's format 7.3": b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + b"\x89HDF\r\n\x1a\n".ljust(400),
}


def cases() -> list:
    """Every format with every damage."""
    good = {
        (read_idx, IDX_IMAGES): (gzip.compress(GOOD_IDX, mtime=0), IDX_DAMAGE),
        (read_idx, IDX_LABELS): (gzip.compress(GOOD_IDX_LABELS, mtime=0), IDX_DAMAGE),
        (readers.cifar10, CIFAR): (tar(GOOD_CIFAR), CIFAR_DAMAGE),
        (readers.svhn, SVHN): (mat(X=GOOD_X, y=GOOD_Y), SVHN_DAMAGE),
    }
    return [
        pytest.param(read, name, content, id=f"{name}: {damage}")
        for (read, name), (whole, damages) in good.items()
        for damage, content in {**{key: make(whole) for key, make in ANY_DAMAGE.items()}, **damages}.items()
        # What comes after the last batch is not read; the checksum of the file covers it.
        if (name, damage) != (CIFAR, "one byte short")
    ]


@pytest.mark.parametrize(("read", "name", "content"), cases())
def test_damaged_file_is_one_error_that_names_it(read, name: str, content: bytes, tmp_path: Path):
    (tmp_path / IDX_IMAGES).write_bytes(gzip.compress(GOOD_IDX, mtime=0))
    (tmp_path / IDX_LABELS).write_bytes(gzip.compress(GOOD_IDX_LABELS, mtime=0))
    (tmp_path / name).write_bytes(content)
    before = files_below(tmp_path)
    split = "train" if read is readers.cifar10 else "test"
    with pytest.raises(ValueError, match=rf"^{tmp_path / name}: damaged or not .*; get it again$"):
        read(split, tmp_path)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(("read", "name"), [(read_idx, IDX_IMAGES), (readers.cifar10, CIFAR), (readers.svhn, SVHN)])
@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir], ids=["not there", "a folder"])
def test_file_that_is_none_is_named(read, name: str, make: Callable, tmp_path: Path):
    make(tmp_path / name)
    with pytest.raises(ValueError, match=rf"^{tmp_path / name}: "):
        read("test", tmp_path)


def test_nothing_of_an_archive_is_written_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not beside it either, with members that would lie outside if they were unpacked."""
    folder, working = tmp_path / "raw", tmp_path / "working"
    folder.mkdir()
    working.mkdir()
    monkeypatch.chdir(working)
    hostile = {
        f"{tmp_path}/absolute": b"hostile",
        "../above": b"hostile",
        "../../above": b"hostile",
        "cifar-10-batches-bin/../../raw/above": b"hostile",
        "cifar-10-batches-bin/link": link(tarfile.SYMTYPE, str(tmp_path)),
        "cifar-10-batches-bin/link/inside": b"hostile",
    }
    members = cifar_members(1)
    (folder / CIFAR).write_bytes(tar({**hostile, **members, **{f"{name}2": body for name, body in hostile.items()}}))
    before = files_below(tmp_path)
    images, labels = readers.cifar10("train", folder)
    assert files_below(tmp_path) == before
    assert labels.tolist() == [label_of(number, 0) for number in range(5)]
    assert images[4, 2, 31, 31] == value(4, 0, 2, 31, 31)


@pytest.mark.parametrize("like", ["md5:", "sha1:00", "sha256:abc"])
def test_checksum_is_in_the_algorithm_asked_for(like: str, tmp_path: Path):
    algorithm = like.split(":")[0]
    content = bytes(range(256)) * 1000
    (tmp_path / "file").write_bytes(content)
    expected = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
    assert readers.checksum(tmp_path / "file", like) == expected


@pytest.mark.parametrize("name", DATASETS)
def test_checksums_of_the_registry_have_a_known_form(name: str):
    for files in DATASETS[name].files.values():
        for file, checksum in files.items():
            algorithm, _, digits = checksum.partition(":")
            assert len(digits) == 2 * hashlib.new(algorithm).digest_size, file
            assert set(digits) <= set("0123456789abcdef")
