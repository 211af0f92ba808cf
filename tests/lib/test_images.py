"""Batches of images, against torchvision's transforms of one image at a time.

Equality means equal bits, but on a GPU.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision import transforms

from nonsmooth import datasets
from nonsmooth.datasets import DATASETS
from nonsmooth.images import Images, StreamedImages, crop_and_flip, draw_crops_and_flips, load

CPU = torch.device("cpu")
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)

thorough = settings(deadline=None, derandomize=True, max_examples=100)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def columns(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)


def random_images(count: int, channels: int = 3, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    return torch.randint(256, (count, channels, height, width), generator=generator(seed), dtype=torch.uint8)


def in_colour(count: int = 10) -> Images:
    """Labels number the images."""
    return Images(random_images(count), torch.arange(count), columns(*CIFAR_MEAN), columns(*CIFAR_STD))


def joined(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) for pair in zip(first, second, strict=True) for a, b in zip(*pair, strict=True)
    )


# ------------------------------------------------------------------------------------------- normalisation


def test_batches_are_normalised_as_torchvision_does(test_set: Images) -> None:
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    images, labels = test_set.batch(slice(None))
    for image, raw in zip(images, test_set.images.numpy(), strict=True):
        assert torch.equal(image, transform(raw.transpose(1, 2, 0)))
    assert torch.equal(labels, test_set.labels)


def test_every_level_in_three_channels() -> None:
    raw = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    expected = transforms.Compose([transforms.ToTensor(), transforms.Normalize(CIFAR_MEAN, CIFAR_STD)])(raw)
    data = Images.on_device("cifar10", raw.transpose(2, 0, 1)[None], np.zeros(1, np.uint8), CPU)
    images, _ = data.batch(torch.tensor([0]))
    assert torch.equal(images[0], expected)
    # The same, written out in IEEE arithmetic.
    mean, std = (np.array(values, np.float32) for values in (CIFAR_MEAN, CIFAR_STD))
    plain = (raw.astype(np.float32) / np.float32(255) - mean) / std
    assert np.array_equal(images[0].numpy(), plain.transpose(2, 0, 1))


def test_batches_leave_the_images_alone(test_set: Images) -> None:
    before = test_set.images.clone()
    for draws, augmentation in ((None, "none"), (generator(0), "none"), (generator(0), "crop_flip")):
        for images, labels in test_set.batches(30, draws, augmentation):
            images.zero_()
            assert images.dtype == torch.float32
            assert labels.dtype == torch.int64
    assert torch.equal(test_set.images, before)


@pytest.mark.parametrize("padding", [0, 1, 2, 15])
def test_padding_is_black_before_normalisation(padding: int) -> None:
    raw = random_images(3, 1, 28, 28)
    data = Images.on_device("mnist", raw.numpy(), np.array([3, 1, 2], np.uint8), CPU, padding)
    assert data.images.shape == (3, 1, 28 + 2 * padding, 28 + 2 * padding)
    assert data.images.dtype == torch.uint8
    transform = transforms.Compose([transforms.Pad(padding), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])
    images, labels = data.batch(slice(None))
    for image, single in zip(images, raw, strict=True):
        assert torch.equal(image, transform(TF.to_pil_image(single)))
    assert images.min() == images[0, 0, 0, 0] == -1 or not padding
    assert labels.tolist() == [3, 1, 2]
    assert labels.dtype == torch.int64


def test_a_split_is_copied_from_its_file(tmp_path: Path) -> None:
    """A memory-mapped file cannot be written, nor does it change what is trained on."""
    np.save(tmp_path / "images.npy", random_images(3).numpy())
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r+")
    data = Images.on_device("cifar10", mapped, np.zeros(3, np.uint8), CPU)
    before = data.images.clone()
    mapped[:] = 0
    assert torch.equal(data.images, before)


# --------------------------------------------------------------------------------------------- order, draws


@pytest.mark.parametrize("augmentation", ["none", "crop_flip"])
def test_without_a_generator_images_come_as_they_are(augmentation: str, test_set: Images) -> None:
    batches = list(test_set.batches(30, augmentation=augmentation))
    assert [len(labels) for _, labels in batches] == [30, 30, 30, 10]
    images, labels = joined(batches)
    assert torch.equal(images, test_set.batch(slice(None))[0])
    assert torch.equal(labels, test_set.labels)


def test_the_order_is_that_of_the_generator(test_set: Images) -> None:
    order = torch.randperm(100, generator=generator(3))
    images, labels = joined(list(test_set.batches(30, generator(3))))
    assert torch.equal(images, test_set.batch(order)[0])
    assert torch.equal(labels, test_set.labels[order])


def test_the_order_of_seed_0_is_the_one_of_earlier_results() -> None:
    """Of two epochs; expensive results rest on it."""
    draws = generator(0)
    orders = [joined(list(in_colour().batches(3, draws)))[1].tolist() for _ in range(2)]
    assert orders == [[4, 1, 7, 5, 3, 9, 0, 8, 6, 2], [3, 9, 4, 2, 7, 8, 6, 0, 5, 1]]


@pytest.mark.parametrize("augmentation", ["none", "crop_flip"])
def test_batches_depend_on_the_seed_alone(augmentation: str) -> None:
    data = in_colour()

    def epochs(seed: int) -> list[list[tuple[Tensor, Tensor]]]:
        draws = generator(seed)
        return [list(data.batches(4, draws, augmentation)) for _ in range(2)]

    torch.manual_seed(1)
    first = epochs(0)
    state = torch.get_rng_state()
    second = epochs(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert all(map(same, first, second))
    assert not same(first[0], first[1])
    assert not same(first[0], epochs(1)[0])
    for epoch in first:
        assert [len(labels) for _, labels in epoch] == [4, 4, 2]
        assert sorted(joined(epoch)[1].tolist()) == list(range(10))


@pytest.mark.parametrize("augmentation", ["none", "crop_flip"])
def test_what_an_image_looks_like_does_not_depend_on_the_batch_size(augmentation: str) -> None:
    reference = joined(list(in_colour().batches(10, generator(0), augmentation)))
    for size in (1, 3, 64):
        assert same([joined(list(in_colour().batches(size, generator(0), augmentation)))], [reference])


@pytest.mark.parametrize(
    "augmentation",
    [None, "none", "crop_flip"],
)
def test_no_images_no_batches(augmentation: str | None) -> None:
    batches = in_colour(0).batches(4) if augmentation is None else in_colour(0).batches(4, generator(0), augmentation)
    assert list(batches) == []


@pytest.mark.parametrize("index", [torch.tensor([True, False, True, True]), torch.tensor([0, 2, 3])])
def test_subset(index: Tensor) -> None:
    data = in_colour(4)
    part = data.subset(index)
    assert len(part) == 3
    assert part.labels.tolist() == [0, 2, 3]
    assert torch.equal(part.batch(slice(None))[0], data.batch(torch.tensor([0, 2, 3]))[0])
    assert len(data) == 4


# ---------------------------------------------------------------------------------------------- augmentation


@st.composite
def crops(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images of several types, sizes and layouts, with the corner of each crop and whether it is mirrored."""
    count, size = draw(st.integers(0, 5)), (draw(st.integers(1, 4)), draw(st.integers(1, 12)), draw(st.integers(1, 12)))
    images = random_images(count, *size, seed=draw(st.integers(0, 2**32)))
    images = images.to(draw(st.sampled_from((torch.uint8, torch.float32, torch.float16))))
    if draw(st.booleans()):
        images = images.to(memory_format=torch.channels_last)
    corners = draw(st.lists(st.integers(0, 8), min_size=2 * count, max_size=2 * count))
    top, left = torch.tensor(corners, dtype=torch.int64).view(2, count)
    return images, top, left, torch.tensor(draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype=bool)


@thorough
@given(crops())
def test_crop_and_flip_is_that_of_torchvision(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    images, top, left, flip = case
    result = crop_and_flip(images, top, left, flip)
    assert (result.shape, result.dtype) == (images.shape, images.dtype)
    height, width = images.shape[-2:]
    for image, found, t, l, mirrored in zip(images, result, top.tolist(), left.tolist(), flip.tolist(), strict=True):  # noqa: E741
        expected = TF.crop(TF.pad(image, 4), t, l, height, width)
        assert torch.equal(found, TF.hflip(expected) if mirrored else expected)


def test_augmented_batches_are_torchvisions_transforms_with_the_same_draws() -> None:
    """The draws follow the order in the generator; normalisation comes last, so that black moves in."""
    data, draws = in_colour(), generator(5)
    order = torch.randperm(10, generator=draws)
    top, left, flip = draw_crops_and_flips(10, draws)
    images, labels = joined(list(data.batches(4, generator(5), "crop_flip")))
    assert torch.equal(labels, order)
    normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize(CIFAR_MEAN, CIFAR_STD)])
    for position, number in enumerate(order.tolist()):
        image = TF.pad(TF.to_pil_image(data.images[number]), 4)
        image = TF.crop(image, top[position].item(), left[position].item(), 32, 32)
        image = TF.hflip(image) if flip[position] else image
        assert torch.equal(images[position], normalise(image))


def test_draws_are_uniform() -> None:
    """Of n draws with chance p, the count is off by 5 standard deviations at most."""
    n = 90_000
    top, left, flip = draw_crops_and_flips(n, generator(0))
    for edges in (top, left):
        counts = edges.bincount()
        assert len(counts) == 9
        assert (counts - n / 9).abs().max() <= 5 * (n * 1 / 9 * 8 / 9) ** 0.5
    assert abs(flip.sum().item() - n / 2) <= 5 * (n / 4) ** 0.5
    # Of one image they are independent: each of the 162 combinations comes as often.
    combined = ((top * 9 + left) * 2 + flip).bincount()
    assert len(combined) == 162
    assert (combined - n / 162).abs().max() <= 5 * (n / 162) ** 0.5


def test_draws_of_seed_0_are_the_ones_of_earlier_results() -> None:
    top, left, flip = draw_crops_and_flips(6, generator(0))
    assert top.tolist() == [8, 0, 2, 6, 7, 6]
    assert left.tolist() == [7, 1, 1, 0, 8, 2]
    assert flip.tolist() == [True, True, True, False, False, False]


@pytest.mark.parametrize("kind", ["images", "streamed"])
def test_an_unknown_augmentation_is_refused(kind: str, files: Callable[..., StreamedImages]) -> None:
    data = in_colour() if kind == "images" else files()
    with pytest.raises(ValueError, match="crop_flop"):
        list(data.batches(4, generator(0), "crop_flop"))


# ------------------------------------------------------------------------------------------- image files

SIZE = 28
# Larger and smaller than the crop, wide and high, of every kind that ImageNet holds.
FILES = {
    "a.jpg": ("RGB", 70, 50),
    "b.png": ("RGB", 40, 64),
    "c.jpeg": ("L", 45, 45),
    "d.JPEG": ("CMYK", 50, 40),
    "e.png": ("RGBA", 33, 60),
    "f.png": ("P", 60, 33),
    "g.jpg": ("RGB", 20, 15),
    "h.png": ("L", 28, 200),
    "i.bmp": ("RGB", 32, 32),
}


def draw_image(mode: str, width: int, height: int, seed: int) -> Image.Image:
    """A gradient with noise, so that no two parts are alike."""
    noise = random_images(1, 3, height, width, seed)[0].permute(1, 2, 0).numpy() // 4
    slopes = np.linspace(0, 150, height)[:, None, None] + np.linspace(0, 40, width)[None, :, None]
    return Image.fromarray((slopes + noise).astype(np.uint8)).convert(mode)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed, (name, (mode, width, height)) in enumerate(FILES.items()):
        draw_image(mode, width, height, seed).save(folder / name)
    return folder


@pytest.fixture(scope="session")
def files(folder: Path) -> Callable[..., StreamedImages]:
    """`files(workers)`: the images of `FILES`, whose labels number them."""

    def make(workers: int = 0) -> StreamedImages:
        paths = np.array([str(folder / name).encode() for name in FILES])
        labels = np.arange(len(FILES), dtype=np.uint16)
        return StreamedImages(paths, labels, SIZE, CPU, columns(*CIFAR_MEAN), columns(*CIFAR_STD), workers)

    return make


NORMALISE = transforms.Compose([transforms.ToTensor(), transforms.Normalize(CIFAR_MEAN, CIFAR_STD)])


def centre(folder: Path, number: int) -> Tensor:
    """7/8 of the shorter side, as 224 are of 256."""
    with Image.open(folder / list(FILES)[number]) as file:
        image = TF.center_crop(TF.resize(file.convert("RGB"), SIZE * 8 // 7), SIZE)
    return NORMALISE(image)


@pytest.mark.parametrize("augmentation", ["none", "crop_flip"])
def test_files_are_cropped_at_their_centre(augmentation: str, files: Callable, folder: Path) -> None:
    batches = list(files().batches(4, augmentation=augmentation))
    assert [len(labels) for _, labels in batches] == [4, 4, 1]
    images, labels = joined(batches)
    assert labels.tolist() == list(range(9))
    assert labels.dtype == torch.int64
    for number, image in enumerate(images):
        assert torch.equal(image, centre(folder, number))


def test_the_crop_of_imagenet_is_224_of_256(folder: Path) -> None:
    data = StreamedImages.on_device(
        "imagenet", np.array([str(folder / "a.jpg").encode()]), np.array([7], np.uint16), CPU
    )
    ((images, labels),) = data.batches(2)
    with Image.open(folder / "a.jpg") as file:
        image = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])(file)
    expected = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(image)
    assert torch.equal(images[0], expected)
    assert labels.tolist() == [7]


def test_files_in_the_order_of_the_generator(files: Callable, folder: Path) -> None:
    order = torch.randperm(9, generator=generator(3))
    images, labels = joined(list(files().batches(4, generator(3))))
    assert torch.equal(labels, order)
    for image, number in zip(images, order.tolist(), strict=True):
        assert torch.equal(image, centre(folder, number))


def test_augmented_files_are_torchvisions_transforms_with_the_same_draws(files: Callable, folder: Path) -> None:
    """Each image has a seed of its own, from the generator."""
    draws = generator(5)
    order, seeds = torch.randperm(9, generator=draws), torch.randint(2**62, (9,), generator=draws)
    images, labels = joined(list(files().batches(4, generator(5), "crop_flip")))
    assert torch.equal(labels, order)
    transform = transforms.Compose([transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), NORMALISE])
    for found, number, seed in zip(images, order.tolist(), seeds.tolist(), strict=True):
        with Image.open(folder / list(FILES)[number]) as file, torch.random.fork_rng():
            torch.manual_seed(seed)
            assert torch.equal(found, transform(file.convert("RGB")))


@pytest.mark.parametrize("augmentation", ["none", "crop_flip"])
def test_batches_of_files_depend_on_the_seed_alone(augmentation: str, files: Callable) -> None:
    """Not on the number of processes, nor on the state of the global generator."""

    def epochs(seed: int, workers: int) -> list[list[tuple[Tensor, Tensor]]]:
        draws = generator(seed)
        return [list(files(workers).batches(4, draws, augmentation)) for _ in range(2)]

    torch.manual_seed(1)
    first = epochs(0, workers=0)
    torch.manual_seed(2)
    assert all(map(same, first, epochs(0, workers=0)))
    assert all(map(same, first, epochs(0, workers=2)))
    assert not same(first[0], first[1])
    assert not same(first[0], epochs(1, workers=0)[0])
    for epoch in first:
        assert [len(labels) for _, labels in epoch] == [4, 4, 1]
        assert sorted(joined(epoch)[1].tolist()) == list(range(9))


@pytest.mark.parametrize("draws", [None, generator(0)], ids=["in order", "drawn"])
def test_files_leave_the_global_generator_alone(draws: torch.Generator | None, files: Callable) -> None:
    state = torch.get_rng_state()
    list(files().batches(4, draws, "crop_flip"))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("index", [torch.arange(9) % 2 == 1, torch.tensor([1, 3, 5, 7])])
def test_subset_of_files(index: Tensor, files: Callable, folder: Path) -> None:
    part = files().subset(index)
    assert len(part) == 4
    images, labels = joined(list(part.batches(3)))
    assert labels.tolist() == [1, 3, 5, 7]
    assert torch.equal(images[2], centre(folder, 5))
    assert len(files()) == 9


def test_no_files_no_batches(files: Callable) -> None:
    assert list(files().subset(torch.zeros(9, dtype=torch.bool)).batches(4)) == []


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def huge(content: bytes) -> bytes:
    """A JPEG file whose header says that it has 60,000 x 60,000 pixels."""
    start = content.index(b"\xff\xc0") + 5
    return content[:start] + (60_000).to_bytes(2, "big") * 2 + content[start + 4 :]


DAMAGE = {
    "truncated": ("a.jpg", half),
    "truncated PNG": ("b.png", half),
    "flipped bit": ("b.png", lambda content: content[:60] + bytes([content[60] ^ 4]) + content[61:]),
    "empty": ("a.jpg", lambda content: b""),
    "text": ("a.jpg", lambda content: b"no image\n"),
    "huge": ("a.jpg", huge),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_named(damage: str, folder: Path, tmp_path: Path) -> None:
    name, function = DAMAGE[damage]
    path = tmp_path / f"damaged {name}"
    path.write_bytes(function((folder / name).read_bytes()))
    assert_refused(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    assert_refused(tmp_path / "missing.jpg")


def test_worker_processes_name_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # PyTorch waits this long (5 s) for the processes of a loader that failed, once it is collected.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    assert_refused(tmp_path / "missing.jpg", workers=1)
    gc.collect()


def assert_refused(path: Path, workers: int = 0) -> None:
    mean, std = columns(*CIFAR_MEAN), columns(*CIFAR_STD)
    data = StreamedImages(np.array([str(path).encode()]), np.zeros(1, int), SIZE, CPU, mean, std, workers)
    with pytest.raises(ValueError, match="not a readable image") as error:
        list(data.batches(1))
    assert str(path) in str(error.value)


def test_names_of_any_bytes(folder: Path, tmp_path: Path) -> None:
    """Paths are bytes, as the file system has them."""
    path = bytes(tmp_path) + b"/caf\xe9 \xc3\xa9.png"
    with open(path, "wb") as file:
        file.write((folder / "b.png").read_bytes())
    data = StreamedImages(np.array([path]), np.zeros(1, int), SIZE, CPU, columns(*CIFAR_MEAN), columns(*CIFAR_STD))
    ((images, _),) = data.batches(1)
    assert torch.equal(images[0], centre(folder, 1))


# --------------------------------------------------------------------------------------- prepared splits


@pytest.mark.parametrize(("architecture", "size"), [("lenet5", 28), ("vgg11", 32), ("resnet18", 32)])
def test_a_prepared_split_is_padded_for_the_architecture(architecture: str, size: int, prepared: Path) -> None:
    data = load("mnist_5k", architecture, prepared / "test.npy", CPU)
    assert isinstance(data, Images)
    assert data.images.shape == (1000, 1, size, size)
    images, labels = datasets.load("mnist_5k", prepared / "test.npy")
    border = (size - 28) // 2
    assert np.array_equal(data.images.numpy()[..., border : size - border, border : size - border], images)
    assert data.images.sum().item() == images.sum(dtype=np.int64)
    assert np.array_equal(data.labels.numpy(), labels)


@pytest.mark.parametrize("augmentation", ["none", "crop_flip"])
@pytest.mark.parametrize("drawn", [False, True])
def test_skipped_batches_are_not_decoded_and_the_rest_is_the_same(augmentation: str, drawn: bool, files) -> None:
    def batches(skip: int) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        generator = torch.Generator().manual_seed(5)
        return list(files().batches(2, generator if drawn else None, augmentation, skip)), generator.get_state()

    every, after = batches(0)
    assert len(every) > 2
    for skip in range(len(every) + 2):
        some, after_some = batches(skip)
        assert torch.equal(after, after_some)
        assert same(some, every[skip:])


def test_a_folder_of_classes_is_streamed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the user's folder, through the prepared file, to batches."""
    small = replace(DATASETS["imagenet"], sizes={"train": 4, "test": 2}, shape=(3, 48, 48), num_classes=2)
    monkeypatch.setitem(DATASETS, "imagenet", small)
    for number, name in enumerate(("train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg", "train/dog/2.jpg",
                                   "val/cat/3.jpg", "val/dog/3.jpg")):  # fmt: skip
        path = tmp_path / "imagenet" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_image("RGB", 60, 60, number).save(path)
    datasets.prepare("imagenet", "train", tmp_path / "train.npy", tmp_path / "imagenet")
    data = load("imagenet", "resnet18", tmp_path / "train.npy", CPU, workers=1)
    assert isinstance(data, StreamedImages)
    assert (len(data), data.size, data.workers) == (4, 48, 1)
    images, labels = joined(list(data.batches(3)))
    assert images.shape == (4, 3, 48, 48)
    assert labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="VGG11 takes images of up to 32 x 32, not 48 x 48"):
        load("imagenet", "vgg11", tmp_path / "train.npy", CPU)


def test_what_cannot_be_loaded(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such prepared split of mnist_5k"):
        load("mnist_5k", "lenet5", tmp_path / "test.npy", CPU)
    with pytest.raises(ValueError, match=r"not a prepared split of cifar10"):
        load("cifar10", "resnet18", prepared / "test.npy", CPU)


def test_images_of_a_dataset_that_are_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = np.zeros(3, [("image", np.uint8, (3, 32, 32)), ("label", np.uint8)])
    np.save(tmp_path / "test.npy", records)
    monkeypatch.setitem(DATASETS, "cifar10", replace(DATASETS["cifar10"], sizes={"test": 3}))
    assert len(load("cifar10", "vgg11", tmp_path / "test.npy", CPU)) == 3
    with pytest.raises(ValueError, match="LeNet-5 takes images of up to 28 x 28, not 32 x 32"):
        load("cifar10", "lenet5", tmp_path / "test.npy", CPU)


# ---------------------------------------------------------------------------------------------- on a GPU

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_gpu
@pytest.mark.parametrize("augmentation", ["none", "crop_flip"])
def test_gpu_sees_the_same_batches(augmentation: str) -> None:
    """A GPU multiplies by 1 / 255: each of the three operations is off by two units of rounding at most."""
    device = torch.device("cuda")
    raw, labels = random_images(10).numpy(), np.arange(10)
    here, there = (Images.on_device("cifar10", raw, labels, where) for where in (CPU, device))
    pairs = [list(data.batches(4, generator(0), augmentation)) for data in (here, there)]
    for (images, numbers), (gpu_images, gpu_numbers) in zip(*pairs, strict=True):
        assert gpu_images.device.type == gpu_numbers.device.type == "cuda"
        assert torch.equal(gpu_numbers.cpu(), numbers)
        # Values in [0, 1] before the division by std.
        slack = 2**-22 / here.std + 2**-22 * images.abs()
        assert ((gpu_images.cpu() - images).abs() <= slack).all()


@needs_gpu
def test_gpu_gets_the_files(files: Callable) -> None:
    expected = joined(list(files().batches(4, generator(0), "crop_flip")))
    data = replace(files(), device=torch.device("cuda"), mean=expected[0].new_tensor(CIFAR_MEAN).view(-1, 1, 1).cuda(),
                   std=expected[0].new_tensor(CIFAR_STD).view(-1, 1, 1).cuda())  # fmt: skip
    images, labels = joined(list(data.batches(4, generator(0), "crop_flip")))
    assert torch.equal(labels.cpu(), expected[1])
    torch.testing.assert_close(images.cpu(), expected[0], rtol=2**-22, atol=2**-19)
