"""Euclidean-norm pooling against the definition, window by window, in exact arithmetic.

A root is irrational, so a result is not compared with it but checked: it is the nearest number of its type if the exact
square lies between the squares of its midpoints with its neighbours. u = 2**-53 is the rounding unit of float64, in which the
library computes: w squares and their sum are off by w + 1 units, relative to the sum, their root by half of these and one,
a quotient and a product by one more each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import lay_out
from torch import Tensor, nn

from nonsmooth import plotting, pooling
from nonsmooth.pooling import MaxPool2d, Norm, max_pool2d, replace_max_pools
from nonsmooth.precision import PRECISIONS

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced", "expanded")
LEADS = ((2,), (1, 1), (2, 3), (0, 2), (2, 0))
DERIVATIVES = (0.0, 1.0, -2.5, 0.1)
INF, NAN = math.inf, math.nan

thorough = settings(deadline=None, derandomize=True, max_examples=200)


def fill(shape: tuple[int, ...], kind: str, seed: int, dtype: torch.dtype) -> Tensor:
    """Values of one kind; `extreme` reaches both ends of the finite range, `relu` has zero windows."""
    generator = torch.Generator().manual_seed(seed)
    if kind in ("noise", "relu"):
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        return noise if kind == "noise" else noise.relu()
    info = torch.finfo(dtype)
    palettes = {
        "zeros": [0.0, -0.0],
        "few": [0.0, -0.0, 1.0, -3.0, 4.0],
        "extreme": [info.max, -info.max, info.smallest_normal * info.eps, info.tiny, 1.0, 0.0],
        "special": [1.0, 0.0, NAN, INF, -INF, 2.0],
    }
    palette = torch.tensor(palettes[kind], dtype=torch.float64)
    return palette[torch.randint(len(palette), shape, generator=generator)].to(dtype)


@st.composite
def cases(
    draw: st.DrawFn, kinds=("noise", "relu", "zeros", "few", "extreme")
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """An input, a gradient of its pooled output, and the kernel."""
    kernel, tiles = ((draw(st.integers(1, 3)), draw(st.integers(1, 3))) for _ in range(2))
    size = tuple(k * n for k, n in zip(kernel, tiles, strict=True))
    lead, dtype, seed = draw(st.sampled_from(LEADS)), draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**32))
    input = lay_out(fill((*lead, *size), draw(st.sampled_from(kinds)), seed, dtype), draw(st.sampled_from(LAYOUTS)))
    grad = lay_out(fill((*lead, *tiles), "noise", seed + 1, dtype), draw(st.sampled_from(LAYOUTS)))
    return input, grad, kernel


def pool(input: Tensor, grad: Tensor, kernel: tuple[int, int], derivative: float) -> tuple[Tensor, Tensor]:
    """Output and gradient of the input."""
    leaf = input.detach().requires_grad_()
    output = max_pool2d(leaf, kernel, rule=Norm(derivative))
    return output.detach(), torch.autograd.grad(output, leaf, grad)[0]


def windows_of(input: Tensor, kernel: tuple[int, int]) -> Iterator[tuple[tuple, list[tuple]]]:
    """For each window, the index of its output and those of its values."""
    *lead, height, width = input.shape
    for first in product(*map(range, lead)):
        for row, column in product(range(height // kernel[0]), range(width // kernel[1])):
            inside = product(range(kernel[0]), range(kernel[1]))
            yield (*first, row, column), [(*first, row * kernel[0] + i, column * kernel[1] + j) for i, j in inside]


def assert_nearest(actual: Tensor, square: Fraction, sign: float, operations: int) -> None:
    """`actual` is the number of its type that is nearest to the root of `square` with a sign, but for errors in float64."""
    value = actual.abs()
    bits = value.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()])

    def exactly(number: Tensor) -> Fraction:
        """Where the type has infinity, the power of two that would come next, by which IEEE rounding decides."""
        largest = torch.finfo(number.dtype).max
        return Fraction(number.item()) if number.isfinite() else Fraction(2) ** math.frexp(largest)[1]

    below = exactly((bits - 1).view(value.dtype)) if value > 0 else Fraction(0)
    here = exactly(value)
    error = operations * Fraction(2) ** -53
    low = (below + here) / 2 * (1 - error) - Fraction(2) ** -1074
    assert max(low, 0) ** 2 <= square
    if value.isfinite():
        high = (exactly((bits + 1).view(value.dtype)) + here) / 2 * (1 + error) + Fraction(2) ** -1074
        assert square <= high**2
    if square and value > 0:
        assert actual.signbit() == (sign < 0)


@thorough
@given(cases(), st.sampled_from(DERIVATIVES))
def test_output_and_gradient_are_rounded_once(case: tuple, derivative: float) -> None:
    input, grad, kernel = case
    output, result = pool(input, grad, kernel, derivative)
    assert output.dtype == result.dtype == input.dtype
    assert output.shape == grad.shape
    operations = math.prod(kernel) + 4
    for window, cells in windows_of(input, kernel):
        values = [Fraction(input[cell].item()) for cell in cells]
        incoming, total = Fraction(grad[window].item()), sum(value**2 for value in values)
        assert_nearest(output[window], total, 1, operations)
        for cell, value in zip(cells, values, strict=True):
            exact = incoming**2 * (value**2 / total if total else Fraction(derivative) ** 2)
            assert_nearest(result[cell], exact, incoming * (value if total else Fraction(derivative)), operations)


@thorough
@given(cases(kinds=("special",)), st.sampled_from(DERIVATIVES))
def test_windows_with_infinities_and_nans(case: tuple, derivative: float) -> None:
    input, grad, kernel = case
    output, result = pool(input, torch.ones_like(grad), kernel, derivative)
    for window, cells in windows_of(input, kernel):
        values = [input[cell].item() for cell in cells]
        if any(map(math.isnan, values)):
            assert output[window].isnan()
            assert all(result[cell].isnan() for cell in cells)
        elif any(map(math.isinf, values)):
            assert output[window] == INF
            assert all(
                result[cell].isnan() if math.isinf(value) else result[cell] == 0
                for cell, value in zip(cells, values, strict=True)
            )
        else:
            assert output[window].isfinite()
            assert all(result[cell].isfinite() for cell in cells)


@thorough
@given(cases(kinds=("relu", "zeros", "few")), st.sampled_from(DERIVATIVES))
def test_the_derivative_matters_in_zero_windows_only(case: tuple, derivative: float) -> None:
    input, grad, kernel = case
    output, result = pool(input, grad, kernel, derivative)
    without_output, without = pool(input, grad, kernel, 0.0)
    assert torch.equal(output, without_output)
    is_zero = (output == 0).repeat_interleave(kernel[0], -2).repeat_interleave(kernel[1], -1)
    assert torch.equal(result[~is_zero], without[~is_zero])
    assert without[is_zero].eq(0).all()
    if derivative == 1:
        spread = grad.repeat_interleave(kernel[0], -2).repeat_interleave(kernel[1], -1)
        assert torch.equal(result[is_zero], spread[is_zero])


@pytest.mark.parametrize(("smallest", "rounded"), [(0.0, 2048.0), (2.0**-10, 2050.0)])
def test_a_norm_at_a_midpoint_is_rounded_to_even_and_one_just_above_it_up(smallest: float, rounded: float) -> None:
    # 2049 ** 2 = 2048 ** 2 + 64 ** 2 + 1, and 2049 is between two numbers of 11 bits. In float32 both norms are 2049.
    input = torch.tensor([[[2048.0, 64.0], [1.0, smallest]]], dtype=torch.float16)
    assert max_pool2d(input, 2, rule=Norm(0)).item() == rounded


def test_a_norm_that_overflows_has_a_finite_gradient() -> None:
    input = torch.full((1, 2, 2), 60000.0, dtype=torch.float16, requires_grad=True)
    output = max_pool2d(input, 2, rule=Norm(0))
    output.backward(torch.ones_like(output))
    assert output.item() == INF
    assert input.grad.eq(0.5).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_memory_layouts_change_nothing(layout: str, dtype: torch.dtype) -> None:
    plain = fill((2, 3, 6, 4), "relu", 0, dtype)
    plain = plain[:, :1].expand_as(plain) if layout == "expanded" else plain
    grad = fill((2, 3, 3, 2), "noise", 1, dtype)
    for actual, expected in zip(
        pool(lay_out(plain, layout), grad, (2, 2), 1), pool(plain.contiguous(), grad, (2, 2), 1), strict=True
    ):
        assert torch.equal(actual, expected)


def test_gradients_where_no_window_is_zero_are_finite_differences() -> None:
    input = fill((2, 2, 4, 6), "noise", 0, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: max_pool2d(x, (2, 3), rule=Norm(1)), input)


@pytest.mark.parametrize("rule", [Norm(0), Norm(1)], ids=str)
def test_operators_follow_pytorchs_rules(rule: Norm) -> None:
    input = fill((2, 3, 4, 4), "relu", 0, torch.float32)
    torch.library.opcheck(pooling._norm_pool, (input, [2, 2]))
    torch.library.opcheck(pooling._norm_pool_backward, (torch.ones(2, 3, 2, 2), input, [2, 2], rule.derivative))


def test_a_second_derivative_is_refused() -> None:
    input = torch.ones(1, 2, 2, requires_grad=True)
    output = max_pool2d(input, 2, rule=Norm(0))
    with pytest.raises(RuntimeError, match="differentiated once only"):
        torch.autograd.grad(output.sum(), input, create_graph=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 2, "stride": 1},
        {"kernel_size": 2, "padding": 1},
        {"kernel_size": 2, "dilation": 2},
        {"kernel_size": (2, 5)},
        {"kernel_size": 0},
    ],
    ids=str,
)
def test_windows_that_do_not_tile_are_refused(arguments: dict) -> None:
    message = r"rule norm-0 needs stride = kernel_size.*got kernel_size=.*12 x 12"
    with pytest.raises(ValueError, match=message):
        max_pool2d(torch.zeros(1, 1, 12, 12), **arguments, rule=Norm(0))


def test_indices_and_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="rule norm-1 has no indices"):
        max_pool2d(torch.zeros(1, 1, 2, 2), 2, return_indices=True, rule=Norm(1))
    with pytest.raises(TypeError, match=r"rule norm-1 needs floating-point input, got torch\.int64"):
        max_pool2d(torch.zeros(1, 1, 2, 2, dtype=torch.int64), 2, rule=Norm(1))


@pytest.mark.parametrize("level", ["float16", "bfloat16", "mixed16", "float32", "float64"])
def test_a_network_trains_with_it_in_every_precision(level: str) -> None:
    precision, device = PRECISIONS[level], torch.device("cpu")
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    model = precision.cast_model(replace_max_pools(model, Norm(1)))
    assert isinstance(model[2], MaxPool2d)
    assert "rule=norm-1" in repr(model)
    with precision.arithmetic(device):
        model(precision.cast_batch(torch.rand(3, 1, 6, 6))).float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_its_colour_is_that_of_other_rules() -> None:
    assert {plotting.rule_family(str(Norm(derivative))) for derivative in DERIVATIVES} == {"other"}
