"""Labelled images as training reads them: batches on the training device.

`Images` keeps a whole split on the device. `StreamedImages` decodes image files while training, for a set that does
not fit into memory. Both draw order and augmentation from a generator on the CPU, so that devices, precisions and
rules see the same batches.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from nonsmooth import datasets
from nonsmooth.architectures import ARCHITECTURES
from nonsmooth.datasets import DATASETS

AUGMENTATIONS = ("none", "crop_flip")
# Random crops of the published set-up are as large as the image, from the image in a frame of zeros this wide.
CROP_PADDING = 4


@dataclass(frozen=True)
class Images:
    """A split on the training device: uint8 images (N, C, H, W), int64 labels (N,), mean and std (C, 1, 1)."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    @classmethod
    def on_device(
        cls, name: str, images: np.ndarray, labels: np.ndarray, device: torch.device, padding: int = 0
    ) -> Images:
        """Copy a prepared split of the dataset `name` to `device`, with `padding` zeros on every side."""
        pixels = torch.from_numpy(np.array(images)).to(device)
        return cls(
            pad(pixels, (padding,) * 4) if padding else pixels,
            torch.from_numpy(labels.astype(np.int64)).to(device),
            *_mean_and_std(name, device),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> Images:
        """The images that a mask or index on the CPU selects."""
        index = index.to(self.labels.device)
        return replace(self, images=self.images[index], labels=self.labels[index])

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Normalised float32 images and labels: (x / 255 - mean) / std."""
        # Row by row, where brackets would take pixel by pixel.
        images = self.images[index] if isinstance(index, slice) else self.images.index_select(0, index)
        return _normalise(images, self.mean, self.std), self.labels[index]

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None, augmentation: str = "none", skip: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised batches, the last of which may be smaller.

        Args:
            batch_size: images per batch.
            generator: on the CPU; order and augmentation are drawn from it. Without one, the images come in
                order as they are.
            augmentation: `crop_flip` shifts each image by up to 4 pixels each way, zeros moving in, and mirrors half of them.
            skip: the batches at the beginning that are left out; the draws stay the same.

        Raises ValueError for another augmentation.
        """
        _require_augmentation(augmentation)
        if generator is None:
            for start in range(skip * batch_size, len(self), batch_size):
                yield self.batch(slice(start, start + batch_size))
            return
        if len(self) == 0:  # split gives one empty part of nothing
            return
        device = self.labels.device
        order = torch.randperm(len(self), generator=generator).to(device)
        if augmentation == "none":
            for index in order.split(batch_size)[skip:]:
                yield self.batch(index)
            return
        draws = [draw.to(device).split(batch_size) for draw in draw_crops_and_flips(len(self), generator)]
        for index, top, left, flip in list(zip(order.split(batch_size), *draws, strict=True))[skip:]:
            images = crop_and_flip(self.images.index_select(0, index), top, left, flip)
            yield _normalise(images, self.mean, self.std), self.labels[index]


def load(
    dataset: str, architecture: str, path: str | Path, device: torch.device, workers: int = 0
) -> Images | StreamedImages:
    """A prepared split on `device`, padded to the size that the architecture takes.

    Raises FileNotFoundError or ValueError as `datasets.load`; ValueError if the architecture does not take such images.
    """
    images, labels = datasets.load(dataset, path)
    padding = ARCHITECTURES[architecture].padding(*DATASETS[dataset].shape[1:])
    if DATASETS[dataset].streamed:
        return StreamedImages.on_device(dataset, images, labels, device, workers)
    return Images.on_device(dataset, images, labels, device, padding)


def draw_crops_and_flips(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Top and left edge of the crop in the padded image, 0 to 8, and whether to mirror, for `count` images."""
    edges = torch.randint(2 * CROP_PADDING + 1, (2, count), generator=generator)
    return edges[0], edges[1], torch.rand(count, generator=generator) < 0.5


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Each image padded by 4 zeros, cropped to its size from (top, left), and mirrored where `flip`.

    Args:
        images: (N, C, H, W), any dtype and device.
        top, left: (N,) integers from 0 to 8. flip: (N,) bool. On the same device.
    """
    count, channels, height, width = images.shape
    device = images.device
    rows = top[:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    columns = left[:, None] + torch.where(flip[:, None], width - 1 - columns, columns)
    padded = pad(images, (CROP_PADDING,) * 4)
    return padded[
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


@dataclass(frozen=True)
class StreamedImages:
    """A split of image files (ImageNet), decoded by worker processes while training.

    Attributes:
        paths: (N,) bytes. labels: (N,) integers.
        size: height and width after cropping.
        device, mean, std: as in `Images`.
        workers: processes that decode; the batches do not depend on their number.
    """

    paths: np.ndarray
    labels: np.ndarray
    size: int
    device: torch.device
    mean: Tensor
    std: Tensor
    workers: int = 0

    @classmethod
    def on_device(
        cls, name: str, paths: np.ndarray, labels: np.ndarray, device: torch.device, workers: int = 0
    ) -> StreamedImages:
        size = DATASETS[name].shape[-1]
        return cls(np.array(paths), np.array(labels), size, device, *_mean_and_std(name, device), workers)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> StreamedImages:
        """The images that a mask or index on the CPU selects."""
        chosen = index.numpy()
        return replace(self, paths=self.paths[chosen], labels=self.labels[chosen])

    def batches(
        self, batch_size: int, generator: torch.Generator | None = None, augmentation: str = "none", skip: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised batches, the last of which may be smaller, without the first `skip`.

        With a `generator`, in a drawn order; and with `crop_flip`, each image is a random part of a random size, mirrored or
        not (torchvision's RandomResizedCrop and RandomHorizontalFlip). Otherwise its centre, 7/8 of its shorter side.
        """
        _require_augmentation(augmentation)
        if len(self) == 0:
            return
        if generator is None:
            order, seeds = torch.arange(len(self)), None
        else:
            order = torch.randperm(len(self), generator=generator)
            seeds = torch.randint(2**62, (len(self),), generator=generator) if augmentation != "none" else None
        order = order[skip * batch_size :]
        seeds = None if seeds is None else seeds[skip * batch_size :]
        if len(order) == 0:
            return
        files = _ImageFiles(self.paths[order.numpy()], seeds, self.size)
        loader = torch.utils.data.DataLoader(
            files,
            batch_size,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            # It would draw from the global one.
            generator=torch.Generator(),
        )
        labels = torch.from_numpy(self.labels.astype(np.int64))[order]
        for images, part in zip(loader, labels.split(batch_size), strict=True):
            images = images.to(self.device, non_blocking=True)
            yield _normalise(images, self.mean, self.std), part.to(self.device)


class _ImageFiles(torch.utils.data.Dataset):
    """uint8 images (3, size, size), random parts of them where there are seeds."""

    def __init__(self, paths: np.ndarray, seeds: Tensor | None, size: int) -> None:
        from torchvision import transforms

        self.paths, self.seeds = paths, seeds
        if seeds is None:
            crop = [transforms.Resize(round(size * 8 / 7)), transforms.CenterCrop(size)]
        else:
            crop = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
        self.transform = transforms.Compose([*crop, transforms.PILToTensor()])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Tensor:
        from PIL import Image

        path = os.fsdecode(self.paths[position])
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path}: not a readable image ({error})") from error
        with torch.random.fork_rng(devices=[]):
            if self.seeds is not None:
                torch.manual_seed(self.seeds[position].item())
            return self.transform(image)


def _require_augmentation(name: str) -> None:
    if name not in AUGMENTATIONS:
        raise ValueError(f"unknown augmentation {name!r}; expected one of {list(AUGMENTATIONS)}")


def _mean_and_std(name: str, device: torch.device) -> tuple[Tensor, Tensor]:
    dataset = DATASETS[name]
    return tuple(torch.tensor(values, device=device).view(-1, 1, 1) for values in (dataset.mean, dataset.std))


def _normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)
