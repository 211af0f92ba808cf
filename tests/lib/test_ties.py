"""Tied window maxima, counted window by window."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from nonsmooth import training
from nonsmooth.cells import TrainingCell
from nonsmooth.images import Images
from nonsmooth.pooling import Hybrid, MaxPool2d, Native
from nonsmooth.precision import PRECISIONS, SIXTEEN_BITS
from nonsmooth.ties import find_ties, initial_network, tie_counts

MakeCell = Callable[..., TrainingCell]
CPU_PRECISIONS = [name for name, precision in PRECISIONS.items() if "cpu" in precision.devices]


def plain_ties(values: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """What `find_ties` returns, window by window."""
    channels, height, width = values.shape
    tied = np.zeros(values.shape, bool)
    maxima = np.zeros((channels, height // size, width // size))
    count = np.zeros(maxima.shape, int)
    for channel, row, column in np.ndindex(maxima.shape):
        window = [(channel, size * row + i, size * column + j) for i, j in itertools.product(range(size), range(size))]
        largest = max(values[place] for place in window)
        winners = [place for place in window if values[place] == largest]
        maxima[channel, row, column], count[channel, row, column] = largest, len(winners)
        for place in winners:
            tied[place] = len(winners) > 1
    return {"activations": values, "tied": tied, "maxima": maxima, "count": count}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert found["activations"].dtype == np.float64
    assert found["tied"].dtype == bool


@pytest.mark.parametrize("name", CPU_PRECISIONS)
def test_ties_in_digits(name: str, test_set: Images) -> None:
    """What enters the pooling is computed here by one convolution in float32 or wider that is rounded once."""
    precision = PRECISIONS[name]
    stored = precision.autocast or precision.dtype
    wide = torch.float32 if stored in SIXTEEN_BITS else stored
    for number, seed in ((0, 0), (37, 0), (99, 1)):
        (image,), _ = test_set.batch(slice(number, number + 1))
        layer = initial_network("lenet5", "mnist_5k", seed).conv1
        weight, bias, pixels = (tensor.detach().to(stored).to(wide) for tensor in (layer.weight, layer.bias, image))
        activations = conv2d(pixels[None], weight, bias)[0].clamp(min=0).to(stored).double().numpy()
        found = find_ties(image, initial_network("lenet5", "mnist_5k", seed), name)
        assert_same(found, plain_ties(activations, 2))
        # A digit has a flat background, and a stroke.
        assert 0 < (found["count"] > 1).sum() < found["count"].size


@pytest.mark.parametrize(
    ("architecture", "first", "channels", "rows"),
    [("vgg11", "features.0", 64, 16), ("resnet18", "conv1", 64, 16), ("densenet121", "features.conv0", 64, 8)],
)
def test_ties_in_larger_networks(architecture: str, first: str, channels: int, rows: int) -> None:
    """Their first pooling also follows one convolution and a ReLU. A quarter of the image is black, and is tied."""
    image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    image[:, :16, :16] = 0
    network = initial_network(architecture, "cifar10", 0)
    activations = network.get_submodule(first)(image[None])[0].relu().detach().double().numpy()
    found = find_ties(image, initial_network(architecture, "cifar10", 0), "float32")
    assert found["count"].shape == (channels, rows, rows)
    assert_same(found, plain_ties(activations, 2))
    assert (found["count"][:, 1 : rows // 2 - 1, 1 : rows // 2 - 1] == 4).all()


def pooling(size: int = 2, **geometry) -> nn.Module:
    """A network that begins with its pooling, so that the image is what is pooled."""
    return nn.Sequential(nn.MaxPool2d(size, **geometry))


CONSTRUCTED = {
    "flat": torch.full((2, 4, 6), 3.0),
    "flat at zero": torch.zeros(1, 4, 4),
    "no ties": torch.arange(48.0).view(3, 4, 4),
    "below zero": torch.tensor([[[-1.0, -1, -3, -2], [-1, -2, -4, -5]]]),
    "two of four, in every place": torch.tensor([[[1.0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 0, 0],
                                                  [0.0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 1, 1]]]),
    "zeros of either sign": torch.tensor([[[0.0, -0.0], [-1, -2]]]),
    # The larger value of a window that ties rounds to 1 in 16 bits: float16 has 11 digits, bfloat16 8.
    "by rounding": torch.tensor([[[1 + 2.0**-12, 1, 1 + 2.0**-9, 1], [0, 0, 0, 0]]]),
    "across windows only": torch.tensor([[[0.0, 5, 5, 0], [1, 2, 3, 4]]]),
}  # fmt: skip


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("image", CONSTRUCTED.values(), ids=CONSTRUCTED)
def test_ties_in_constructed_activations(image: torch.Tensor, name: str) -> None:
    found = find_ties(image, pooling(), name)
    assert_same(found, plain_ties(image.to(PRECISIONS[name].dtype).double().numpy(), 2))


def test_rounding_makes_ties() -> None:
    counts = {name: find_ties(CONSTRUCTED["by rounding"], pooling(), name)["count"].tolist() for name in CPU_PRECISIONS}  # fmt: skip
    expected = {name: [[[1, 1]]] for name in CPU_PRECISIONS} | {"bfloat16": [[[2, 2]]], "float16": [[[2, 1]]]}
    assert counts == expected


def test_windows_of_three() -> None:
    image = torch.randint(3, (2, 6, 9), generator=torch.Generator().manual_seed(0)).float()
    found = find_ties(image, pooling(3), "float32")
    assert_same(found, plain_ties(image.double().numpy(), 3))
    assert len(np.unique(found["count"])) > 3


@pytest.mark.parametrize("rule", [Native(), Hybrid(10000.0, "exact"), Hybrid(10000.0, "composed")], ids=str)
def test_ties_are_of_the_input_whatever_the_rule(rule) -> None:
    """In the composed evaluation the pooled values are others."""
    image = torch.randint(3, (2, 4, 4), generator=torch.Generator().manual_seed(0)) / 8
    found = find_ties(image, nn.Sequential(MaxPool2d(2, rule=rule)), "float16")
    assert_same(found, plain_ties(image.double().numpy(), 2))
    assert (found["count"] > 1).any()


def test_the_first_pooling_counts_and_a_network_can_be_asked_again() -> None:
    network = nn.Sequential(nn.MaxPool2d(2), nn.ReLU(), nn.MaxPool2d(2))
    image = torch.arange(16.0).view(1, 4, 4)
    for precision in ("float64", "float32"):
        assert find_ties(image, network, precision)["count"].shape == (1, 2, 2)
    assert not any(module._forward_pre_hooks for module in network)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (pooling(3, stride=2), (1, 9, 9)),
        (pooling(2, stride=3), (1, 6, 6)),
        (pooling(2), (1, 5, 4)),
        (pooling(2), (1, 4, 5)),
        (pooling(2, padding=1), (1, 4, 4)),
        (pooling(2, dilation=2), (1, 4, 4)),
        (pooling((2, 4)), (1, 4, 4)),
    ],
)
def test_windows_that_do_not_tile_are_refused(network: nn.Module, shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="windows that tile"):
        find_ties(torch.zeros(shape), network, "float32")


def test_tie_counts() -> None:
    images = {name: CONSTRUCTED[name] for name in ("flat", "flat at zero", "no ties", "below zero", "by rounding")}
    mixed = torch.tensor([[[0.0, 0, 2, 2], [0, 0, 2, 1], [7, 7, 0, 0], [7, 6, 0, -1]]])
    measured = {
        name: plain_ties(image.double().numpy(), 2) for name, image in {**images, "mixed": mixed}.items()
    }  # fmt: skip
    table = tie_counts(measured).set_index("precision")
    assert list(table.index) == list(measured)
    for name, arrays in measured.items():
        windows = list(zip(arrays["maxima"].ravel(), arrays["count"].ravel(), strict=True))
        sizes = [k for _, k in windows if k > 1]
        row = table.loc[name]
        assert row.windows == len(windows)
        assert row.tied == len(sizes)
        assert row.tied_at_zero == sum(value == 0 for value, k in windows if k > 1)
        assert row.tied_above_zero == sum(value > 0 for value, k in windows if k > 1)
        assert row.mean_size_of_ties == (pytest.approx(sum(sizes) / len(sizes)) if sizes else pytest.approx(math.nan, nan_ok=True))  # fmt: skip
    assert list(table.loc["mixed"]) == [4, 4, 2, 2, 13 / 4]
    assert not table.loc["no ties", ["tied", "tied_at_zero", "tied_above_zero"]].any()
    assert pd.api.types.is_integer_dtype(table.tied)


def test_initial_network_is_what_a_cell_starts_from(make_cell: MakeCell) -> None:
    state = torch.get_rng_state()
    network = initial_network("lenet5", "mnist_5k", 5)
    assert torch.equal(torch.get_rng_state(), state)
    cell = make_cell(seed=5, rule="hybrid-10-composed", precision="float16")
    rounded = training.initial_model(cell).state_dict()
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor.half(), rounded[name])
    other = initial_network("lenet5", "mnist_5k", 6)
    assert not torch.equal(other.conv1.weight, network.conv1.weight)
