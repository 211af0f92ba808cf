"""Euclidean-norm pooling against the definition, window by window, in exact arithmetic.

A root is irrational, so a result is not compared with it but checked: it is the nearest number of its type if the exact
square lies between the squares of its midpoints with its neighbours. u = 2**-53 is the rounding unit of float64, in which the
library computes: w squares and their sum are off by w + 1 units, relative to the sum, their root by half of these and one,
a quotient and a product by one more each.

Of the composed evaluation every operation is rounded again in plain Python. Only its sums are bounded, whose order is PyTorch's.
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

from nonsmooth import plotting
from nonsmooth.cells import Program
from nonsmooth.pooling import MaxPool2d, Norm, max_pool2d, norm, replace_max_pools
from nonsmooth.precision import PRECISIONS
from nonsmooth.rules import NORM_EVALUATIONS
from nonsmooth.zones.measure import Comparison

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced", "expanded")
LEADS = ((2,), (1, 1), (2, 3), (0, 2), (2, 0))
ARITHMETICS = {
    precision.dtype: precision for precision in PRECISIONS.values() if precision.name in str(precision.dtype)
}
DERIVATIVES = (0.0, 1.0, -2.5, 0.1)
INF, NAN = math.inf, math.nan

thorough = settings(deadline=None, derandomize=True, max_examples=200)


def underflow_threshold(dtype: torch.dtype) -> float:
    """About the largest number whose square is rounded to 0: the square is half the smallest positive number."""
    return math.sqrt(torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps) / math.sqrt(2)


def fill(shape: tuple[int, ...], kind: str, seed: int, dtype: torch.dtype) -> Tensor:
    """Values of one kind; `extreme` reaches both ends of the finite range, `relu` has zero windows."""
    generator = torch.Generator().manual_seed(seed)
    if kind in ("noise", "relu"):
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        return noise if kind == "noise" else noise.relu()
    info = torch.finfo(dtype)
    palettes = {
        "zeros": [0.0, -0.0],
        "underflow": [
            0.0,
            *(factor * underflow_threshold(dtype) for factor in (0.01, -0.5, 0.99, 1.0, 1.01, 1.5, 3.0)),
        ],
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


def pool(
    input: Tensor, grad: Tensor, kernel: tuple[int, int], derivative: float, evaluation: str = "exact"
) -> tuple[Tensor, Tensor]:
    """Output and gradient of the input, in the arithmetic of its type."""
    leaf = input.detach().requires_grad_()
    with ARITHMETICS[input.dtype].arithmetic(torch.device("cpu")):
        output = max_pool2d(leaf, kernel, rule=Norm(derivative, evaluation))
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
@given(cases(kinds=("special",)), st.sampled_from(DERIVATIVES), st.sampled_from(NORM_EVALUATIONS))
def test_windows_with_infinities_and_nans(case: tuple, derivative: float, evaluation: str) -> None:
    input, grad, kernel = case
    output, result = pool(input, torch.ones_like(grad), kernel, derivative, evaluation)
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
@given(
    cases(kinds=("relu", "zeros", "few", "underflow")), st.sampled_from(DERIVATIVES), st.sampled_from(NORM_EVALUATIONS)
)
def test_the_derivative_matters_in_zero_windows_only(case: tuple, derivative: float, evaluation: str) -> None:
    input, grad, kernel = case
    output, result = pool(input, grad, kernel, derivative, evaluation)
    without_output, without = pool(input, grad, kernel, 0.0, evaluation)
    assert torch.equal(output, without_output)
    assert not output.signbit().any()
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


@pytest.mark.parametrize("evaluation", NORM_EVALUATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_memory_layouts_change_nothing(layout: str, dtype: torch.dtype, evaluation: str) -> None:
    plain = fill((2, 3, 6, 4), "relu", 0, dtype)
    plain = plain[:, :1].expand_as(plain) if layout == "expanded" else plain
    grad = fill((2, 3, 3, 2), "noise", 1, dtype)
    for actual, expected in zip(
        pool(lay_out(plain, layout), grad, (2, 2), 1, evaluation),
        pool(plain.contiguous(), grad, (2, 2), 1, evaluation),
        strict=True,
    ):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("evaluation", NORM_EVALUATIONS)
def test_gradients_where_no_window_is_zero_are_finite_differences(evaluation: str) -> None:
    input = fill((2, 2, 4, 6), "noise", 0, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: max_pool2d(x, (2, 3), rule=Norm(1, evaluation)), input)


def test_composed_norms_can_be_differentiated_twice() -> None:
    input = fill((1, 1, 4, 6), "noise", 0, torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: max_pool2d(x, (2, 3), rule=Norm(1, "composed")), input)


@pytest.mark.parametrize("rule", [Norm(0), Norm(1)], ids=str)
def test_operators_follow_pytorchs_rules(rule: Norm) -> None:
    input = fill((2, 3, 4, 4), "relu", 0, torch.float32)
    torch.library.opcheck(norm.norm_pool, (input, [2, 2]))
    torch.library.opcheck(norm.norm_pool_backward, (torch.ones(2, 3, 2, 2), input, [2, 2], rule.derivative))


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
@pytest.mark.parametrize("rule", [Norm(0), Norm(0, "composed")], ids=str)
def test_windows_that_do_not_tile_are_refused(arguments: dict, rule: Norm) -> None:
    message = rf"rule {rule} needs stride = kernel_size.*got kernel_size=.*12 x 12"
    with pytest.raises(ValueError, match=message):
        max_pool2d(torch.zeros(1, 1, 12, 12), **arguments, rule=rule)


@pytest.mark.parametrize("rule", [Norm(1), Norm(1, "composed")], ids=str)
def test_indices_and_integers_are_refused(rule: Norm) -> None:
    with pytest.raises(ValueError, match=f"rule {rule} has no indices"):
        max_pool2d(torch.zeros(1, 1, 2, 2), 2, return_indices=True, rule=rule)
    with pytest.raises(TypeError, match=rf"rule {rule} needs floating-point input, got torch\.int64"):
        max_pool2d(torch.zeros(1, 1, 2, 2, dtype=torch.int64), 2, rule=rule)


@pytest.mark.parametrize("rule", [Norm(1), Norm(1, "composed")], ids=str)
@pytest.mark.parametrize("level", ["float16", "bfloat16", "mixed16", "float32", "float64"])
def test_a_network_trains_with_it_in_every_precision(level: str, rule: Norm) -> None:
    precision, device = PRECISIONS[level], torch.device("cpu")
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    model = precision.cast_model(replace_max_pools(model, rule))
    assert isinstance(model[2], MaxPool2d)
    assert f"rule={rule}" in repr(model)
    with precision.arithmetic(device):
        model(precision.cast_batch(torch.rand(3, 1, 6, 6))).float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_its_colour_is_that_of_other_rules() -> None:
    rules = [Norm(derivative, evaluation) for derivative in DERIVATIVES for evaluation in NORM_EVALUATIONS]
    assert {plotting.rule_family(str(rule)) for rule in rules} == {"other"}


# -------------------------------------------------------------------------------- composed in the working precision


def stored(value: float, dtype: torch.dtype) -> float:
    """`value`, a float64 operation's result, as `dtype` holds it: that operation's own rounding to `dtype`.

    float64 has over twice the bits of narrower types, so that rounding twice is rounding once for +, *, / and sqrt (Figueroa 1995).
    """
    if dtype == torch.float64 or value == 0 or not math.isfinite(value):
        return value
    info = torch.finfo(dtype)
    quantum = max(2.0 ** (math.frexp(value)[1] - 1) * info.eps, info.smallest_normal * info.eps)
    nearest = round(value / quantum) * quantum
    return nearest if abs(nearest) <= info.max else math.copysign(INF, value)


def norm_limits(values: list[float], dtype: torch.dtype) -> tuple[float, float]:
    """The least and the largest norm of the window that its operations may give.

    Squares are rounded once. Their sum is, in any order, off by w - 1 roundings of the type that adds, float32 for 16 bits; and
    the root by one, since MKL's is not always the nearest number. All steps are monotonic.
    """
    total = sum(stored(value * value, dtype) for value in values)
    unit = max(torch.finfo(torch.promote_types(dtype, torch.float32)).eps, 2.0**-52)

    def norm(sign: int) -> float:
        root = math.sqrt(stored(total * (1 + sign * (len(values) + 1) * unit), dtype))
        return stored(stored(root, dtype) * (1 + sign * unit), dtype)

    return norm(-1), norm(1)


@thorough
@given(cases(kinds=("noise", "relu", "zeros", "few", "extreme", "underflow")), st.sampled_from(DERIVATIVES))
def test_composed_rounds_every_operation(case: tuple, derivative: float) -> None:
    input, grad, kernel = case
    dtype = input.dtype
    output, result = pool(input, grad, kernel, derivative, "composed")
    assert output.dtype == result.dtype == dtype
    assert output.shape == grad.shape
    for window, cells in windows_of(input, kernel):
        values = [input[cell].item() for cell in cells]
        norm, incoming = output[window].item(), grad[window].item()
        low, high = norm_limits(values, dtype)
        assert low <= norm <= high
        assert (norm == 0) == all(stored(value * value, dtype) == 0 for value in values)
        for cell, value in zip(cells, values, strict=True):
            if norm == 0:
                # PyTorch's product of a tensor and a number: in float32, or in float64.
                wide = torch.promote_types(dtype, torch.float32)
                expected = stored(stored(incoming * stored(derivative, wide), wide), dtype)
            else:
                # PyTorch's derivatives of the root and of both factors of x * x.
                half = stored(stored(incoming / (2 * norm), dtype) * value, dtype)
                expected = stored(half + half, dtype)
            assert result[cell].item() == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_windows_whose_squares_underflow_are_zero_to_composed_only(dtype: torch.dtype) -> None:
    small = underflow_threshold(dtype) * 0.9
    input = torch.tensor([[[small, 0.0, -small, small], [small, small, 0.0, 1.0]]], dtype=dtype)
    grad = torch.tensor([[[3.0, 2.0]]], dtype=dtype)
    output, result = pool(input, grad, (2, 2), 0.5, "composed")
    assert output.tolist() == [[[0.0, 1.0]]]
    assert result[0, :, :2].eq(1.5).all()
    assert result[0, :, 2:].tolist() == [[stored(-2.0 * input[0, 0, 0].item(), dtype), -result[0, 0, 2].item()], [0, 2]]
    exact_output, exact = pool(input, grad, (2, 2), 0.5)
    assert exact_output[0, 0, 0] > small
    assert exact[0, 0, 0] == exact[0, 1, 0] == exact[0, 1, 1] > 1.5
    assert exact[0, 0, 1] == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_composed_norm_that_overflows_has_no_gradient(dtype: torch.dtype) -> None:
    input = torch.full((1, 2, 2), 2 * math.sqrt(torch.finfo(dtype).max), dtype=dtype)
    output, result = pool(input, torch.ones(1, 1, 1, dtype=dtype), (2, 2), 1, "composed")
    assert output.item() == INF
    assert result.eq(0).all()


@pytest.mark.parametrize("grad", [INF, -INF, NAN])
def test_a_gradient_that_is_not_finite_stays_in_its_window(grad: float) -> None:
    input = torch.tensor([[[0.0, 0.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]]])
    for window in (0, 1):
        incoming = torch.tensor([[[1.0, 1.0]]])
        incoming[..., window] = grad
        result = pool(input, incoming, (2, 2), 1, "composed")[1].unfold(-1, 2, 2)
        assert not result[:, 0, window].isfinite().any()
        assert result[:, :, 1 - window].isfinite().all()
    nothing = pool(input, torch.full((1, 1, 2), grad), (2, 2), 0, "composed")[1]
    assert nothing[..., :2].isnan().all()  # the product with 0 is IEEE's


# ------------------------------------------------------------------------------------------ two derivatives compared


def small_network(weight: float) -> nn.Module:
    """A convolution that multiplies images by `weight`, ReLU and a pooling."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3))
    nn.init.constant_(model[0].weight, weight)
    return model


@pytest.mark.parametrize(
    ("suffix", "level", "weight", "zero", "expected"),
    [
        ("-composed", "float16", 1e-4, 12, "rounding_induced"),  # squares of 1e-4 underflow
        ("", "float16", 1e-4, 0, "identical"),
        ("-composed", "float16", 0.1, 0, "identical"),
        ("-composed", "float16", -1.0, 12, "identical"),  # windows of zeros, where ReLU stops the gradient
        ("-composed", "bfloat16", 1e-4, 0, "identical"),
        ("-composed", "mixed16", 1e-4, 12, "rounding_induced"),
    ],
)
def test_why_gradients_differ(suffix: str, level: str, weight: float, zero: int, expected: str) -> None:
    programs = Program(f"norm-1{suffix}"), Program(f"norm-0{suffix}")
    comparison = Comparison(small_network(weight), *programs, PRECISIONS[level], torch.device("cpu"))
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    minibatch = comparison.measure(images, torch.tensor([0, 1, 2]))
    row, (layer,) = minibatch.row, minibatch.layers
    assert row["class"] == expected
    assert layer["tied"] == layer["tied_at_zero"] == zero
    assert layer["kind"] == ("norm_pool_composed" if suffix else "norm_pool")
    if expected == "identical":
        assert row["difference"] == row["replay"] == 0
        return
    # The derivative of the loss by the weight: 1 in place of 0 for each entry of a window, times the pixel.
    assert layer["tied_float64"] == row["real"] == row["replay_common"] == 0
    assert row["difference"] == pytest.approx(row["replay"], rel=0.01)  # 16-bit sums of 48 products


def test_a_composed_norm_is_not_compared_with_an_exact_one_by_replays() -> None:
    pair = Program("norm-1-composed"), Program("norm-0")
    with pytest.raises(ValueError, match="norm-1-composed and norm-0 cannot be replayed"):
        Comparison(small_network(0.1), *pair, PRECISIONS["float16"], torch.device("cpu"))
