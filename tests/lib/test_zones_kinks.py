"""Kinks against autograd through the layers themselves, and against the windows one by one.

The values of a kink may be of another type than the gradient, so autograd runs on the same values in the gradient's type.
Tolerances are bounds: u is the rounding unit of the gradient's type, and every entry of a result is a sum of at most one
part per window that covers it, to which the rounding is relative.
"""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import lay_out
from test_pooling import Pooling, axis_windows, poolings
from torch import Tensor, nn

from nonsmooth.activations import ReLU, relu
from nonsmooth.pooling import MaxPool2d, max_pool2d
from nonsmooth.precision import PRECISIONS
from nonsmooth.rules import Hybrid, Minimal, Native, Norm
from nonsmooth.zones.kinks import ComposedNormPoolKink, Kink, MaxPoolKink, NormPoolKink, ReluKink

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced")
COEFFICIENTS = (0.0, 1.0, 0.5, -2.5, 3.0, 1000.0)
INF, NAN = math.inf, math.nan

thorough = settings(deadline=None, derandomize=True, max_examples=100)
coefficients = st.sampled_from(COEFFICIENTS)


def make_kink(module: nn.Module, input: Tensor) -> Kink:
    return Kink.of("layer", module, input, module(input))


def pool_kink(case: Pooling) -> MaxPoolKink:
    kink = make_kink(MaxPool2d(**case.geometry, rule=Minimal()), case.input)
    assert isinstance(kink, MaxPoolKink)
    return kink


def through(function, input: Tensor, gradient: Tensor) -> Tensor:
    """The gradient at the input of `function`, which runs on the same values in the type of `gradient`."""
    input = input.detach().to(gradient.dtype).requires_grad_()
    (found,) = torch.autograd.grad(function(input), input, gradient)
    return found


def through_pool(case: Pooling, rule, gradient: Tensor) -> Tensor:
    return through(lambda x: max_pool2d(x, **case.geometry, rule=rule), case.input, gradient)


def parts(case: Pooling, coefficient: float, gradient: Tensor) -> Tensor:
    """Sums of the absolute values of `g`, `c g (k - 1) / k` and `c g / k`, or a little more."""
    size = abs(coefficient)
    return (1 + size) * through_pool(case, Native(), gradient.abs()) + size * through_pool(
        case, Minimal(), gradient.abs()
    )


def rounding(case: Pooling, coefficient: float, gradient: Tensor) -> Tensor:
    """Of a part: 7 roundings in both programs together; of its sum: one per window and program, and one for each jump."""
    windows = math.prod(case.geometry["kernel_size"])
    info = torch.finfo(gradient.dtype)
    return (7 + 3 * windows) * (info.eps / 2 * parts(case, coefficient, gradient) + info.smallest_normal * info.eps)


def assert_within(found: Tensor, expected: Tensor, tolerance: Tensor) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert ((found - expected).abs() <= tolerance).all()


# --------------------------------------------------------------------------------------------------- max pooling


@thorough
@given(poolings(), coefficients)
def test_transposed_jacobian_of_pooling(case: Pooling, coefficient: float) -> None:
    """Overlapping, padded, dilated, partial windows; values of any type and layout, with NaN and infinities."""
    kink, gradient = pool_kink(case), case.grad.double()
    expected = through_pool(case, Hybrid(coefficient), gradient)
    found = kink.transposed(gradient, coefficient)
    assert_within(found, expected, rounding(case, coefficient, gradient))


@thorough
@given(poolings())
def test_without_coefficient_it_is_the_native_rule_bit_for_bit(case: Pooling) -> None:
    for dtype in (torch.float32, torch.float64):
        gradient = case.grad.to(dtype)
        assert torch.equal(pool_kink(case).transposed(gradient, 0.0), through_pool(case, Native(), gradient))


@thorough
@given(poolings(), st.integers(0, 2**16))
def test_one_coefficient_for_each_window(case: Pooling, seed: int) -> None:
    """By linearity: the sum over the values of c of what arrives at the windows that have it."""
    kink, gradient = pool_kink(case), case.grad.double()
    generator = torch.Generator().manual_seed(seed)
    choice = torch.randint(len(COEFFICIENTS), kink.output.shape, generator=generator)
    found = kink.transposed(gradient, torch.tensor(COEFFICIENTS, dtype=torch.float64)[choice])
    expected, tolerance = torch.zeros_like(found), torch.zeros_like(found)
    for number, coefficient in enumerate(COEFFICIENTS):
        share = torch.where(choice == number, gradient, 0)
        expected += through_pool(case, Hybrid(coefficient), share)
        # And the additions of the last line.
        tolerance += rounding(case, coefficient, share) + len(COEFFICIENTS) * 2.0**-53 * parts(case, coefficient, share)
    assert_within(found, expected, tolerance)


@thorough
@given(poolings(), coefficients, coefficients)
def test_jump_of_pooling(case: Pooling, first: float, second: float) -> None:
    kink, gradient = pool_kink(case), case.grad.double()
    jump = kink.jump(gradient, first - second)
    matters = kink.tied & (gradient != 0)
    assert (jump is None) == (not matters.any())
    if jump is None:
        return
    expected = kink.transposed(gradient, first) - kink.transposed(gradient, second)
    size = abs(first) + abs(second)
    assert_within(jump, expected, 2 * rounding(case, size, gradient))
    # Exactly 0 outside of the windows where something ties and a gradient arrives.
    reached = through_pool(case, Minimal(), matters.double())
    assert (jump[reached == 0] == 0).all()


@thorough
@given(poolings(), coefficients, st.integers(0, 2**16))
def test_harmless_windows_are_left_out(case: Pooling, change: float, seed: int) -> None:
    gradient = case.grad.double()
    harmless = torch.rand(gradient.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    kink, plain = pool_kink(case), pool_kink(case)
    kink.harmless = harmless
    found, expected = kink.jump(gradient, change), plain.jump(torch.where(harmless, 0, gradient), change)
    assert (found is None) == (expected is None)
    assert found is None or torch.equal(found, expected)
    only_there = torch.where(harmless, 0, torch.full_like(gradient, change))
    assert torch.equal(kink.transposed(gradient, change), plain.transposed(gradient, only_there))


@thorough
@given(poolings(), st.integers(0, 2**16))
def test_gradients_that_are_not_finite_stay_so(case: Pooling, seed: int) -> None:
    """Where the rule gives NaN or infinity, the kink does."""
    generator = torch.Generator().manual_seed(seed)
    special = torch.tensor([INF, -INF, NAN, 1.0, 0.0, 0.0], dtype=torch.float64)
    gradient = special[torch.randint(len(special), case.grad.shape, generator=generator)]
    kink = pool_kink(case)
    for coefficient in (0.0, 1.0, 3.0):
        expected = through_pool(case, Hybrid(coefficient), gradient)
        assert not kink.transposed(gradient, coefficient)[~expected.isfinite()].isfinite().any()
    jump = kink.jump(gradient, 1.0)
    if (kink.tied & ~gradient.isfinite()).any():
        assert not jump.isfinite().all()


@thorough
@given(poolings(), coefficients)
def test_gradients_in_any_layout(case: Pooling, change: float) -> None:
    kink, gradient = pool_kink(case), case.grad.double().contiguous()
    expected, jump = kink.transposed(gradient, change), kink.jump(gradient, change)
    for layout in LAYOUTS[1:]:
        other = lay_out(gradient, layout)
        assert torch.equal(kink.transposed(other, change), expected)
        assert jump is None or torch.equal(kink.jump(other, change), jump)


def window_values(case: Pooling) -> list[list[float]]:
    """For each window, plane by plane and in scan order, its values that are not padding."""
    height, width = case.input.shape[-2:]
    places = list(product(axis_windows(height, 0, case.geometry), axis_windows(width, 1, case.geometry)))
    planes = case.input.detach().double().reshape(-1, height, width).tolist() if case.input.numel() else []
    return [[plane[i][j] for i, j in product(*place)] for plane in planes for place in places]


@thorough
@given(poolings())
def test_census_of_pooling(case: Pooling) -> None:
    expected = dict.fromkeys(("windows", "tied", "tied_at_zero", "tied_above_zero", "sum_of_sizes", "largest_size"), 0)
    tied = []
    for values in window_values(case):
        is_nan = any(map(math.isnan, values))
        size = 1 if is_nan else values.count(max(values))
        tied.append(size > 1)
        expected["windows"] += 1
        if size > 1:
            expected["tied"] += 1
            expected["tied_at_zero"] += max(values) == 0
            expected["tied_above_zero"] += max(values) > 0
            expected["sum_of_sizes"] += size
            expected["largest_size"] = max(expected["largest_size"], size)
    kink = pool_kink(case)
    assert kink.census() == expected
    assert kink.tied.flatten().tolist() == tied
    assert kink.tied.shape == kink.output.shape


@thorough
@given(poolings(), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 2**16))
def test_undecided_windows_of_pooling(case: Pooling, scale: float, seed: int) -> None:
    """Gaps and bounds that are multiples of 1/2, so that many are equal."""
    case = case._replace(input=case.input.double())
    generator = torch.Generator().manual_seed(seed)
    bound = scale * torch.randint(3, case.input.shape, generator=generator).double()
    kink = pool_kink(case)
    expected = []
    both = zip(window_values(case), window_values(case._replace(input=bound)), strict=True)
    for values, bounds in both:
        if not all(map(math.isfinite, values)):
            expected.append(None)  # no such forward pass is looked at
            continue
        largest = max(values)
        at = [error for value, error in zip(values, bounds, strict=True) if value == largest]
        others = [(value, error) for value, error in zip(values, bounds, strict=True) if value != largest]
        expected.append(len(at) == 1 and any(largest - value <= at[0] + error for value, error in others))
    found = kink.undecided(bound)
    assert found.shape == kink.output.shape
    for is_undecided, wanted in zip(found.flatten().tolist(), expected, strict=True):
        assert wanted is None or is_undecided == wanted


def test_a_composed_rule_is_counted_by_its_maxima() -> None:
    """Its output may differ from the maximum by rounding."""
    input = torch.tensor([[[[0.1, 0.1], [0.0, 0.05]]]], dtype=torch.float16)
    kink = make_kink(MaxPool2d(2, rule=Hybrid(1000, "composed")), input)
    assert kink.output.item() != input.max().item()
    expected = {"windows": 1, "tied": 1, "tied_at_zero": 0, "tied_above_zero": 1, "sum_of_sizes": 2, "largest_size": 2}
    assert kink.census() == expected


# ---------------------------------------------------------------------------------------------------------- ReLU


class Entries(NamedTuple):
    input: Tensor
    gradient: Tensor


@st.composite
def entries(draw: st.DrawFn, special: bool = True) -> Entries:
    shape = draw(st.sampled_from([(2, 3, 4, 5), (4, 7), (1,), (0, 3, 2, 2), (2, 0, 3, 3)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    palette = [-1.0, -0.0, 0.0, 0.0, 6e-8, 1.0, *([INF, -INF, NAN] if special else [])]
    values = torch.tensor(palette)[torch.randint(len(palette), shape, generator=generator)]
    gradient = torch.randn(shape, generator=generator, dtype=torch.float64)
    gradient[torch.rand(shape, generator=generator) < 0.3] = 0
    layouts = st.sampled_from(LAYOUTS if len(shape) == 4 else LAYOUTS[:1])
    return Entries(lay_out(values.to(draw(st.sampled_from(DTYPES))), draw(layouts)), lay_out(gradient, draw(layouts)))


@thorough
@given(entries(), coefficients)
def test_relu(case: Entries, coefficient: float) -> None:
    kink = make_kink(ReLU(), case.input)
    assert isinstance(kink, ReluKink)
    for gradient in (case.gradient, case.gradient.float()):
        expected = through(lambda x: relu(x, coefficient), case.input, gradient)
        assert torch.equal(kink.transposed(gradient, coefficient), expected)
        everywhere = torch.full_like(gradient, coefficient)
        assert torch.equal(kink.transposed(gradient, everywhere), expected)
        jump = kink.jump(gradient, coefficient)
        matters = (case.input == 0) & (gradient != 0)
        assert (jump is None) == (not matters.any())
        if jump is not None:
            assert torch.equal(jump, torch.where(matters, coefficient * gradient, 0))


@thorough
@given(entries())
def test_census_and_undecided_entries_of_relu(case: Entries) -> None:
    kink = make_kink(ReLU(), case.input)
    values = case.input.flatten().tolist()
    zeros = values.count(0)
    assert kink.census() == {
        "windows": len(values), "tied": zeros, "tied_at_zero": zeros, "tied_above_zero": 0,
        "sum_of_sizes": zeros, "largest_size": min(zeros, 1),
    }  # fmt: skip
    bound = case.gradient.abs()
    expected = [
        value != 0 and not abs(value) > error for value, error in zip(values, bound.flatten().tolist(), strict=True)
    ]
    assert kink.undecided(bound).flatten().tolist() == expected


# -------------------------------------------------------------------------------------------------- norm pooling


@thorough
@given(st.sampled_from([1, 2, (2, 1), (1, 3)]), entries(special=False), coefficients)
def test_norm_pooling(kernel, case: Entries, coefficient: float) -> None:
    (kh, kw) = (kernel, kernel) if isinstance(kernel, int) else kernel
    values = case.input.reshape(-1)[: case.input.numel() // (kh * kw) * kh * kw]
    input = values.reshape(1, 1, -1, kw) if values.numel() else values.new_empty(0, 2, kh, kw)
    kink = make_kink(MaxPool2d(kernel, rule=Norm(coefficient)), input)
    assert isinstance(kink, NormPoolKink)
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(kink.output.shape, generator=generator, dtype=torch.float64)
    expected = through(lambda x: max_pool2d(x, kernel, rule=Norm(coefficient)), input, gradient)
    # Quotients of the values, their squares, a sum of kh * kw, a root, a quotient and a product in each of the programs.
    spread = gradient.repeat_interleave(kh, -2).repeat_interleave(kw, -1)
    tolerance = 2 * (6 + kh * kw) * 2.0**-53 * spread.abs() * max(1, abs(coefficient))
    assert_within(kink.transposed(gradient, coefficient), expected, tolerance)

    def everywhere(mask: Tensor) -> Tensor:
        """Whether a mask of the input holds at all positions of a window."""
        return torch.stack([mask[..., i::kh, j::kw] for i, j in product(range(kh), range(kw))]).all(0)

    zero = everywhere(input == 0)
    assert torch.equal(kink.tied, zero)
    jump = kink.jump(gradient, coefficient)
    assert (jump is None) == (not zero.any())
    if jump is not None:
        inside = zero.repeat_interleave(kh, -2).repeat_interleave(kw, -1)
        assert torch.equal(jump, torch.where(inside, coefficient * spread, 0))
    count = int(zero.sum())
    assert kink.census() == {
        "windows": zero.numel(), "tied": count, "tied_at_zero": count, "tied_above_zero": 0,
        "sum_of_sizes": count * kh * kw, "largest_size": kh * kw if count else 0,
    }  # fmt: skip
    bound = torch.rand(input.shape, generator=generator, dtype=torch.float64)
    assert torch.equal(kink.undecided(bound), everywhere(input.abs() <= bound) & ~zero)


def test_harmless_windows_of_norm_pooling_are_left_out() -> None:
    """Also where their gradient is not finite."""
    kink = make_kink(MaxPool2d(2, rule=Norm(0)), torch.zeros(1, 1, 2, 6))
    kink.harmless = torch.tensor([[[[True, False, False]]]])
    gradient = torch.tensor([[[[INF, 2.0, 0.0]]]])
    assert torch.equal(kink.jump(gradient, 3.0), torch.tensor([0.0, 0, 6, 6, 0, 0]).expand(1, 1, 2, 6))


@thorough
@given(st.sampled_from(DTYPES[:2]), coefficients, st.integers(0, 2**16))
def test_composed_norm_pooling(dtype: torch.dtype, coefficient: float, seed: int) -> None:
    """A gradient is divided by the norm that the forward pass computed, which is 0 where the squares of a window underflow."""
    generator = torch.Generator().manual_seed(seed)
    root = math.sqrt(torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps)
    palette = torch.tensor([0.0, 0.0, 0.5 * root, -0.6 * root, 1.5 * root, 1.0], dtype=torch.float64)
    input = palette[torch.randint(len(palette), (2, 1, 4, 6), generator=generator)].to(dtype)
    with PRECISIONS[str(dtype).removeprefix("torch.")].arithmetic(torch.device("cpu")):
        kink = make_kink(MaxPool2d(2, rule=Norm(coefficient, "composed")), input)
    assert isinstance(kink, ComposedNormPoolKink)
    gradient = torch.randn(kink.output.shape, generator=generator, dtype=torch.float64)
    found, jump = kink.transposed(gradient, coefficient), kink.jump(gradient, coefficient)
    tied = 0
    for *plane, row, column in product(range(2), range(1), range(2), range(3)):
        window = (*plane, slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
        values, norm = input[window].double(), kink.output[(*plane, row, column)].item()
        incoming = gradient[(*plane, row, column)].item()
        is_tied = bool((values.abs() < 0.7 * root).all())
        tied += is_tied
        assert kink.tied[(*plane, row, column)] == is_tied == (norm == 0)
        assert kink.all_zero[(*plane, row, column)] == (values == 0).all()
        if is_tied:
            assert found[window].eq(coefficient * incoming).all()
            assert jump[window].eq(coefficient * incoming).all()
        else:
            expected = values / norm * incoming
            assert_within(found[window], expected, 4 * 2.0**-53 * expected.abs())
            assert jump is None or jump[window].eq(0).all()
    assert kink.census()["tied"] == kink.census()["tied_at_zero"] == tied


# --------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("module", [MaxPool2d(2, rule=Native()), ReLU(), MaxPool2d(2, rule=Norm(0))])
def test_nothing_without_ties(module: nn.Module) -> None:
    kink = make_kink(module, torch.arange(1.0, 17.0).view(1, 1, 4, 4))
    assert kink.jump(torch.ones_like(kink.output), 1.0) is None
    assert kink.census()["tied"] == kink.census()["largest_size"] == 0


@pytest.mark.parametrize("module", [MaxPool2d(2, rule=Native()), ReLU(), MaxPool2d(2, rule=Norm(0))])
def test_an_empty_batch(module: nn.Module) -> None:
    kink = make_kink(module, torch.zeros(0, 3, 4, 4))
    gradient = torch.zeros_like(kink.output)
    assert kink.jump(gradient, 1.0) is None
    assert kink.transposed(gradient, 1.0).shape == (0, 3, 4, 4)
    assert set(kink.census().values()) == {0}
    assert kink.undecided(torch.zeros(0, 3, 4, 4)).shape == kink.output.shape


def test_a_kink_needs_no_graph() -> None:
    input = torch.zeros(1, 1, 4, 4, requires_grad=True)
    kink = make_kink(ReLU(), input)
    assert not kink.input.requires_grad
    assert not kink.output.requires_grad
