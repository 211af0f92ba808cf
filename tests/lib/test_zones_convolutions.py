"""Convolutions as matrix products against PyTorch's own, and small ones against loops in extended precision.

Each entry is a sum of products in some order. Two evaluations of a sum of n products differ by at most 2 (n + 1) u times the
sum of the absolute products, to first order in u = 2**-53; the factor 1.01 makes up for higher orders.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nonsmooth.zones import convolutions
from nonsmooth.zones.convolutions import MatrixConvolutions

U = 2.0**-53
CONVOLUTION = torch.ops.aten.convolution.default
BACKWARD = torch.ops.aten.convolution_backward.default

thorough = settings(deadline=None, derandomize=True, max_examples=100)


class Case(NamedTuple):
    """A convolution's operands, and a gradient of its output; geometry is (stride, padding, dilation)."""

    images: Tensor
    weight: Tensor
    bias: Tensor | None
    gradient: Tensor
    geometry: tuple[list[int], list[int], list[int]]

    def forward(self) -> Tensor:
        return CONVOLUTION(self.images, self.weight, self.bias, *self.geometry, False, [0, 0], 1)

    def backward(self, mask: tuple[bool, bool, bool] = (True, True, True)) -> tuple[Tensor | None, ...]:
        sizes = [len(self.weight)]
        return BACKWARD(self.gradient, self.images, self.weight, sizes, *self.geometry, False, [0, 0], 1, list(mask))

    def absolute(self) -> Case:
        bias = None if self.bias is None else self.bias.abs()
        return Case(self.images.abs(), self.weight.abs(), bias, self.gradient.abs(), self.geometry)

    def terms(self) -> tuple[int, ...]:
        """How many products an entry of the output is a sum of, and one of each gradient, at most."""
        positions = len(self.images) * self.gradient[0, 0].numel() if len(self.images) else 0
        of_output = self.weight[0].numel() + 1
        return of_output, len(self.weight) * self.weight[0, 0].numel(), positions, positions


def two(low: int, high: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(low, high), min_size=2, max_size=2)


@st.composite
def cases(draw: st.DrawFn, largest: int = 10) -> Case:
    kernel, stride, padding, dilation = draw(two(1, 3)), draw(two(1, 3)), draw(two(0, 2)), draw(two(1, 2))
    size = draw(two(1, largest))
    images, channels, outputs = draw(st.integers(0, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    assume(min(out) > 0)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def normal(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        if len(shape) == 4 and draw(st.booleans()):
            values = values.to(memory_format=torch.channels_last)
        return values

    bias = normal(outputs) if draw(st.booleans()) else None
    return Case(
        normal(images, channels, *size),
        normal(outputs, channels, *kernel),
        bias,
        normal(images, outputs, *out),
        (stride, padding, dilation),
    )


def assert_close(found: tuple[Tensor | None, ...], expected: tuple, sizes: tuple[Tensor, ...], terms) -> None:
    for ours, theirs, size, n in zip(found, expected, sizes, terms, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.shape == theirs.shape
            assert ours.dtype == torch.float64
            assert ((ours - theirs).abs() <= 1.01 * 2 * (n + 1) * U * size).all()


@thorough
@given(cases(), st.sampled_from([1, 1000, 2**26]))
def test_against_pytorch(case: Case, chunk: int) -> None:
    """All images in one product, a few, or one at a time."""
    expected, sizes = (case.forward(), *case.backward()), (case.absolute().forward(), *case.absolute().backward())
    with pytest.MonkeyPatch.context() as patch, MatrixConvolutions():
        patch.setattr(convolutions, "CHUNK", chunk)
        patch.setattr(convolutions, "LARGEST", 100)
        found = (case.forward(), *case.backward())
    assert_close(found, expected, sizes, case.terms())


@settings(thorough, max_examples=20)
@given(cases(largest=4))
def test_small_ones_against_loops(case: Case) -> None:
    """Sums of products in the order of the loops, in NumPy's extended precision."""
    images, weight, gradient = (t.numpy().astype(np.longdouble) for t in (case.images, case.weight, case.gradient))
    (sh, sw), (ph, pw), (dh, dw) = case.geometry
    output, to_images = np.zeros(gradient.shape, np.longdouble), np.zeros(images.shape, np.longdouble)
    to_weight = np.zeros(weight.shape, np.longdouble)
    if case.bias is not None:
        output += case.bias.numpy()[:, None, None]
    for (n, o, row, column), g in np.ndenumerate(gradient):
        for c, i, j in product(*map(range, weight.shape[1:])):
            y, x = row * sh - ph + i * dh, column * sw - pw + j * dw
            if 0 <= y < images.shape[2] and 0 <= x < images.shape[3]:
                output[n, o, row, column] += images[n, c, y, x] * weight[o, c, i, j]
                to_images[n, c, y, x] += g * weight[o, c, i, j]
                to_weight[o, c, i, j] += g * images[n, c, y, x]
    with MatrixConvolutions():
        found = (case.forward(), *case.backward())
    expected = (output, to_images, to_weight, gradient.sum((0, 2, 3)))
    sizes = (case.absolute().forward(), *case.absolute().backward())
    for ours, theirs, size, n in zip(found, expected, sizes, case.terms(), strict=True):
        error = np.abs(ours.numpy() - theirs).astype(float)
        # Ours has n + 1 roundings; the loop's own are 2**-11 of them; and one of the error to float64.
        assert (error <= 1.01 * (n + 2) * U * size.numpy()).all()


@pytest.mark.parametrize("mask", list(product([True, False], repeat=3)), ids=str)
def test_only_wanted_gradients_are_computed(mask: tuple[bool, bool, bool]) -> None:
    generator = torch.Generator().manual_seed(0)
    images, weight, gradient = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((3, 2, 5, 5), (4, 2, 3, 3), (3, 4, 3, 3))
    )
    case = Case(images, weight, None, gradient, ([1, 1], [0, 0], [1, 1]))
    with MatrixConvolutions():
        found, everything = case.backward(mask), case.backward()
    for wanted, ours, full in zip(mask, found, everything, strict=True):
        assert (ours is not None) == wanted
        assert ours is None or torch.equal(ours, full)


@thorough
@given(cases())
def test_autograd_reaches_it(case: Case) -> None:
    """Through the layer's function, with the gradient of every operand that needs one."""
    operands = [t for t in (case.images, case.weight, case.bias) if t is not None]

    def differentiate() -> list[Tensor]:
        leaves = [operand.clone().requires_grad_() for operand in operands]
        bias = leaves[2] if case.bias is not None else None
        output = torch.nn.functional.conv2d(*leaves[:2], bias, *case.geometry)
        return [output.detach(), *torch.autograd.grad(output, leaves, case.gradient)]

    expected = differentiate()
    with MatrixConvolutions():
        found = differentiate()
    sizes, terms = (case.absolute().forward(), *case.absolute().backward()), case.terms()
    assert_close(found, expected, sizes[: len(found)], terms[: len(found)])


# ------------------------------------------------------------------------------------------------ what is left alone


class Seen(TorchDispatchMode):
    """Which operations reach PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def both_ways(function, *operands: Tensor) -> Iterator[tuple[set[str], list[Tensor]]]:
    """Names of operations, output and gradients: without and with matrix products."""
    for mode in (nullcontext(), MatrixConvolutions()):
        leaves = [operand.clone().requires_grad_() for operand in operands]
        with Seen() as seen, mode:
            output = function(*leaves)
            found = torch.autograd.grad(output.sum(), leaves)
        yield seen.names, [output.detach(), *found]


conv2d, conv_transpose2d = torch.nn.functional.conv2d, torch.nn.functional.conv_transpose2d
DOUBLE = {"dtype": torch.float64, "generator": torch.Generator().manual_seed(0)}
LEFT_ALONE = {
    "float32": (conv2d, torch.randn(2, 4, 6, 6), torch.randn(3, 4, 3, 3)),
    "groups": (lambda x, w: conv2d(x, w, groups=2), torch.randn(2, 4, 6, 6, **DOUBLE), torch.randn(6, 2, 3, 3, **DOUBLE)),
    "transposed": (conv_transpose2d, torch.randn(2, 4, 6, 6, **DOUBLE), torch.randn(4, 3, 3, 3, **DOUBLE)),
    "one dimension": (torch.nn.functional.conv1d, torch.randn(2, 4, 6, **DOUBLE), torch.randn(3, 4, 3, **DOUBLE)),
    "large": (conv2d, torch.randn(2, 1, 11, 11, **DOUBLE), torch.randn(1, 1, 3, 3, **DOUBLE)),
    "no images": (conv2d, torch.randn(0, 4, 6, 6, **DOUBLE), torch.randn(3, 4, 3, 3, **DOUBLE)),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_is_left_to_pytorch(name: str) -> None:
    function, *operands = LEFT_ALONE[name]
    (_, expected), (names, found) = both_ways(function, *operands)
    assert "convolution" in names
    assert "convolution_backward" in names
    assert all(map(torch.equal, found, expected))


def test_what_is_taken_does_not_reach_pytorch() -> None:
    (names, _), (matrix_names, _) = both_ways(
        conv2d, torch.randn(2, 4, 6, 6, **DOUBLE), torch.randn(3, 4, 3, 3, **DOUBLE)
    )
    assert {"convolution", "convolution_backward"} <= names
    assert not {"convolution", "convolution_backward"} & matrix_names


def test_one_image_without_a_batch() -> None:
    image, weight = torch.randn(4, 6, 6, **DOUBLE), torch.randn(3, 4, 3, 3, **DOUBLE)
    (_, expected), (_, found) = both_ways(conv2d, image, weight)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs)


def test_values_that_are_not_finite_stay_so() -> None:
    images = torch.randn(2, 2, 5, 5, **DOUBLE)
    images[0, 0, 0, 0], images[1, 1, 2, 2] = torch.nan, torch.inf
    (_, expected), (_, found) = both_ways(conv2d, images, torch.randn(3, 2, 3, 3, **DOUBLE))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.isfinite(), theirs.isfinite())
