"""Max pooling with a chosen derivative at ties, against the definition written out window by window.

The reference is plain Python: the Jacobian of a rule as exact fractions, one entry per window and maximum.
Tolerances are bounds: u = 2**-53 is the rounding unit of float64, and rounding is monotone, so a result whose
exact value lies in [a, b] lies between a rounded and b rounded.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from layouts import lay_out
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torchvision.models import resnet18, vgg11

from nonsmooth import pooling
from nonsmooth.pooling import MaxPool2d, max_pool2d, replace_max_pools
from nonsmooth.rules import Hybrid, Minimal, Native, Rule, rule_beta

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SIXTEEN_BITS = DTYPES[:2]
LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced", "expanded")
BETAS = (-2.5, 0.0, 0.5, 1.0, 1.5, 2.0, 10.0, 100.0, 1000.0, 10000.0)
LEADS = ((2,), (1, 1), (3,), (2, 2), (1, 3), (2, 1), (0, 2))
INF, NAN = math.inf, math.nan

thorough = settings(deadline=None, derandomize=True, max_examples=200)


# ---------------------------------------------------------------------------------------------- strategies


class Pooling(NamedTuple):
    """What a pooling is tested on: `vector` is shaped like `input`, and `grad` like the output."""

    input: Tensor
    vector: Tensor
    grad: Tensor
    geometry: dict

    @property
    def dtype(self) -> torch.dtype:
        return self.input.dtype

    def differentiable(self) -> Tensor:
        """The input as a leaf; detaching keeps its strides."""
        return self.input.detach().requires_grad_()


def palettes(dtype: torch.dtype) -> dict[str, list[float]]:
    """Few values each, so that ties are the rule; `extreme` reaches both ends of the finite range."""
    info = torch.finfo(dtype)
    # In float64 the reference arithmetic of the library is float64 too, and must not overflow.
    largest = info.max * 2.0**-40 if dtype == torch.float64 else info.max
    return {
        "ties": [-1.0, -0.0, 0.0, 0.5, 1.0],
        "special": [-1.0, -0.0, 0.0, 1.0, INF, -INF, NAN],
        "flat": [0.5],
        "zeros": [-0.0, 0.0],
        "lowest": [-INF],
        "infinite": [-INF, -INF, INF],
        "missing": [NAN, NAN, 0.0],
        "extreme": [largest, -largest, info.smallest_normal * info.eps, info.tiny, -0.0, 1.0, 1 / 3, 1000.1],
    }


INPUTS = ("ties", "special", "flat", "zeros", "lowest", "infinite", "missing", "relu", "noise")
FINITE = ("ties", "extreme", "noise")


def fill(shape: tuple[int, ...], kind: str, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "noise":
        return noise.to(dtype)
    if kind == "relu":
        return noise.relu().to(dtype)
    palette = torch.tensor(palettes(dtype)[kind], dtype=torch.float64)
    return palette[torch.randint(len(palette), shape, generator=generator)].to(dtype)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


def tiling(kernel: tuple[int, int]) -> dict:
    """The geometry of windows side by side, as `geometries` draws it."""
    return {
        "kernel_size": kernel,
        "stride": kernel,
        "padding": (0, 0),
        "dilation": (1, 1),
        "ceil_mode": False,
    }


@st.composite
def geometries(draw: st.DrawFn, overlaps: bool | None = None) -> dict:
    kernel, dilation = draw(pairs(1, 4)), draw(st.just((1, 1)) | pairs(1, 3))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if overlaps is False:
        stride = tuple(span + draw(st.integers(0, 2)) for span in spans)
    else:
        stride = draw(st.just(kernel) | pairs(1, 4))
    return {
        "kernel_size": kernel,
        "stride": stride,
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "dilation": dilation,
        "ceil_mode": draw(st.booleans()),
    }


@st.composite
def poolings(draw: st.DrawFn, geometry: st.SearchStrategy[dict] | None = None, grads=FINITE) -> Pooling:
    geometry = draw(geometries() if geometry is None else geometry)
    smallest = [
        max(1, (k - 1) * d + 1 - 2 * p)
        for k, d, p in zip(geometry["kernel_size"], geometry["dilation"], geometry["padding"], strict=True)
    ]
    height, width = (size + draw(st.integers(0, 5)) for size in smallest)
    # PyTorch leaves the bounds of the image where a window has nothing but padding; tested on its own below.
    assume(all(windows(height, width, geometry)))
    return draw(tensors((height, width), output_size(height, width, geometry), geometry, INPUTS, grads))


@st.composite
def tensors(draw, size: tuple, pooled: tuple, geometry: dict, inputs: tuple, grads: tuple) -> Pooling:
    lead, dtype = draw(st.sampled_from(LEADS)), draw(st.sampled_from(DTYPES))

    def tensor(size: tuple[int, int], kinds: tuple[str, ...]) -> Tensor:
        kind, layout = draw(st.sampled_from(kinds)), draw(st.sampled_from(LAYOUTS))
        return lay_out(fill((*lead, *size), kind, draw(st.integers(0, 2**32)), dtype), layout)

    return Pooling(tensor(size, inputs), tensor(size, grads), tensor(pooled, grads), geometry)


betas = st.sampled_from(BETAS) | st.floats(-1e4, 1e4)


# ----------------------------------------------------------------------------------------------- reference


def axis_windows(size: int, axis: int, geometry: dict) -> list[list[int]]:
    """The real coordinates that each window covers on one axis (0 vertical, 1 horizontal)."""
    kernel, stride, padding, dilation = (
        geometry[name][axis] for name in ("kernel_size", "stride", "padding", "dilation")
    )
    span = (kernel - 1) * dilation + 1
    free = size + 2 * padding - span
    count = (math.ceil(free / stride) if geometry["ceil_mode"] else math.floor(free / stride)) + 1
    if (count - 1) * stride >= size + padding:
        count -= 1  # the last window starts in the image or in the padding before it
    starts = [number * stride - padding for number in range(count)]
    return [[i for i in range(start, start + span, dilation) if 0 <= i < size] for start in starts]


def output_size(height: int, width: int, geometry: dict) -> tuple[int, int]:
    return len(axis_windows(height, 0, geometry)), len(axis_windows(width, 1, geometry))


def windows(height: int, width: int, geometry: dict) -> list[list[int]]:
    """For each window in scan order, the flat positions of its real values in scan order."""
    places = product(axis_windows(height, 0, geometry), axis_windows(width, 1, geometry))
    return [[row * width + column for row, column in product(*place)] for place in places]


class Entry(NamedTuple):
    """One entry of the Jacobian; `terms` is the weight with its two terms added in absolute value."""

    row: int
    column: int
    weight: Fraction
    terms: Fraction


def jacobian(case: Pooling, beta: float) -> Iterator[Entry]:
    """The Jacobian of hybrid(beta), by the definition: T the maxima of a window, k their number."""
    *_, height, width = case.input.shape
    cells = windows(height, width, case.geometry)
    _, indices = F.max_pool2d(case.input, **case.geometry, return_indices=True)
    planes = zip(planes_of(case.input), planes_of(indices), strict=True)
    beta = Fraction(beta)
    for plane, (values, chosen_cells) in enumerate(planes):
        for number, (window, chosen) in enumerate(zip(cells, chosen_cells, strict=True)):
            maximum = max(values[cell] for cell in window)
            tied = [cell for cell in window if values[cell] == maximum]
            if any(math.isnan(values[cell]) for cell in window):
                tied = [chosen]
            assert chosen in tied
            k, row = len(tied), plane * len(cells) + number
            for cell in tied if beta else [chosen]:
                is_chosen = cell == chosen
                weight = (k - beta * (k - 1)) / k if is_chosen else beta / k
                terms = (k + abs(beta) * (k - 1)) / k if is_chosen else abs(weight)
                yield Entry(row, plane * height * width + cell, weight, terms)


def planes_of(tensor: Tensor) -> list[list[float]]:
    return tensor.flatten(-2).flatten(0, -2).tolist()


def rounded(value: Fraction, dtype: torch.dtype) -> float:
    """`value` rounded to the nearest number of `dtype`, ties to even, infinite beyond the largest."""
    info = torch.finfo(dtype)
    if value == 0:
        return 0.0
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    if abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    spacing = max(Fraction(2) ** exponent, Fraction(info.tiny)) * Fraction(info.eps)
    nearest = round(value / spacing) * spacing
    return float(nearest) if abs(nearest) <= info.max else math.copysign(INF, value)


def assert_is_product(
    actual: Tensor, case: Pooling, beta: float, *, transposed: bool, in_working_type: bool = False
) -> None:
    """`actual` is the Jacobian of hybrid(beta) times `case.vector`, or transposed times `case.grad`.

    A sum of n finite terms in arithmetic of unit u is off by at most ((1 + u)**(n + 3) - 1) times the sum of
    the absolute terms: n - 1 additions, and at most 4 roundings in a term, (k - beta * (k - 1)) * g / k.
    Underflow of a product and a quotient adds at most 2**-1074 for each term. PyTorch converts float64 to 16
    bits through float32, a rounding more, by 2**-24 of the value or half the smallest float32. Rounding to
    the working type comes last. `in_working_type` is for native, which PyTorch sums in the working type.
    Sums with an infinity or a NaN follow IEEE arithmetic, and a position without a term holds +0.
    """
    dtype = actual.dtype
    unit = Fraction(torch.finfo(dtype if in_working_type else torch.float64).eps) / 2
    factors = (case.grad if transposed else case.vector).double().flatten().tolist()
    terms = defaultdict(list)
    for entry in jacobian(case, beta):
        position, source = (entry.column, entry.row) if transposed else (entry.row, entry.column)
        terms[position].append((entry, factors[source]))
    for position, value in enumerate(actual.double().flatten().tolist()):
        here = terms[position]
        if not here:
            assert (value, math.copysign(1, value)) == (0, 1)
        elif all(math.isfinite(factor) for _, factor in here):
            exact = sum(entry.weight * Fraction(factor) for entry, factor in here)
            size = sum(entry.terms * Fraction(abs(factor)) for entry, factor in here)
            slack = ((1 + unit) ** (len(here) + 3) - 1) * size + len(here) * Fraction(2) ** -1074
            if dtype in SIXTEEN_BITS:
                slack += max((abs(exact) + slack) * Fraction(2) ** -24, Fraction(2) ** -150)
            assert rounded(exact - slack, dtype) <= value <= rounded(exact + slack, dtype)
        else:
            expected = sum(float(entry.weight) * factor for entry, factor in here)
            assert value == expected or (math.isnan(value) and math.isnan(expected))


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    differing = (bits(actual) != bits(expected)).nonzero().tolist()
    assert not differing, f"first differing position {differing[0]}: {actual} is not {expected}"


def assert_same_bits_up_to_nan(actual: Tensor, expected: Tensor) -> None:
    """The same bits, but which of the many NaNs stands for a NaN is left open."""
    assert_same_bits(*(tensor.masked_fill(tensor.isnan(), NAN) for tensor in (actual, expected)))


def gradient(case: Pooling, rule: Rule) -> Tensor:
    input = case.differentiable()
    (result,) = torch.autograd.grad(max_pool2d(input, **case.geometry, rule=rule), input, case.grad)
    return result


@thorough
@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(DTYPES))
def test_the_reference_rounds_as_the_hardware(value: float, dtype: torch.dtype) -> None:
    # From float32 to 16 bits, as PyTorch would round through float32.
    wide = torch.tensor(value, dtype=torch.float32 if dtype in SIXTEEN_BITS else torch.float64)
    assume(wide.isfinite())
    assert rounded(Fraction(wide.item()), dtype) == wide.to(dtype).item()


# ------------------------------------------------------------------------------------------------- forward


@thorough
@given(poolings(), betas)
def test_forward_is_that_of_pytorch_bit_for_bit(case: Pooling, beta: float) -> None:
    expected, expected_indices = F.max_pool2d(case.input, **case.geometry, return_indices=True)
    for rule in (Native(), Minimal(), Hybrid(beta)):
        for input in (case.input, case.differentiable()):
            output, indices = max_pool2d(input, **case.geometry, return_indices=True, rule=rule)
            assert_same_bits(output, expected)
            assert torch.equal(indices, expected_indices)
            assert_same_bits(max_pool2d(input, **case.geometry, rule=rule), expected)


@thorough
@given(poolings())
def test_the_argmax_is_the_first_maximum_or_the_last_nan_in_scan_order(case: Pooling) -> None:
    output, indices = max_pool2d(case.input, **case.geometry, return_indices=True, rule=Minimal())
    *_, height, width = case.input.shape
    expected = []
    for values in planes_of(case.input):
        for window in windows(height, width, case.geometry):
            missing = [cell for cell in window if math.isnan(values[cell])]
            # `max` keeps the first of equal values.
            expected.append(missing[-1] if missing else max(window, key=lambda cell: values[cell]))
    assert indices.flatten().tolist() == expected
    # PyTorch's bfloat16 kernel returns another NaN than the one it found.
    chosen = case.input.flatten(-2).gather(-1, indices.flatten(-2)).view_as(output)
    assert_same_bits_up_to_nan(output, chosen)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3},
        {"kernel_size": (3, 2), "stride": None},
        {"kernel_size": [2, 3], "stride": []},
        {"kernel_size": [3], "stride": [2], "padding": [1], "dilation": [1]},
        {"kernel_size": 3, "stride": (1, 2), "padding": (1, 0), "dilation": [1, 2], "ceil_mode": True},
    ],
)
@pytest.mark.parametrize("rule", [Native(), Minimal(), Hybrid(10)], ids=str)
def test_arguments_take_the_forms_that_pytorch_takes(arguments: dict, rule: Rule) -> None:
    input = fill((2, 3, 7, 8), "ties", 0, torch.float32)
    assert_same_bits(max_pool2d(input, **arguments, rule=rule), F.max_pool2d(input, **arguments))


# ------------------------------------------------------------------------------------------------ gradient


@thorough
@given(poolings(grads=(*FINITE, "special")), betas)
def test_gradient_is_the_transposed_jacobian_times_the_incoming_gradient(case: Pooling, beta: float) -> None:
    beta = beta or 1.0  # beta = 0 is native, below
    assert_is_product(gradient(case, Hybrid(beta)), case, beta, transposed=True)
    assert_is_product(gradient(case, Minimal()), case, 1, transposed=True)


@thorough
@given(poolings(grads=("ties", "noise", "special")))
def test_native_gradient_goes_to_the_argmax_in_the_working_type(case: Pooling) -> None:
    assert_is_product(gradient(case, Native()), case, 0, transposed=True, in_working_type=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stride", [2, 3])
def test_gradient_of_many_channels(layout: str, dtype: torch.dtype, stride: int) -> None:
    # More channels than a vector register holds, with windows that overlap or do not.
    geometry = tiling((3, 3)) | {"stride": (stride, stride), "padding": (1, 1)}
    input = lay_out(fill((1, 35, 5, 6), "ties", 0, dtype), layout)
    grad = fill((1, 35, *output_size(5, 6, geometry)), "noise", 1, dtype)
    case = Pooling(input, grad, grad, geometry)
    assert_is_product(gradient(case, Hybrid(1000)), case, 1000, transposed=True)


@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)
def test_sixteen_bit_gradients_are_rounded_once(dtype: torch.dtype) -> None:
    # Three overlapping windows send 1, half a spacing above 1, and a little more to the middle value.
    half = torch.finfo(dtype).eps / 2
    grads = [1.0, half, 2.0**-24]
    input = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0], dtype=dtype).view(1, 1, 5).requires_grad_()
    output = max_pool2d(input, (1, 3), stride=1, rule=Minimal())
    (result,) = torch.autograd.grad(output, input, torch.tensor([[grads]], dtype=dtype))
    assert result[0, 0, 2].item() == rounded(sum(map(Fraction, grads)), dtype) == 1 + 2 * half


@thorough
@given(poolings(geometry=geometries(overlaps=False)), betas)
def test_the_gradient_of_a_window_sums_to_the_gradient_of_its_output(case: Pooling, beta: float) -> None:
    beta = beta or 1.0
    *_, height, width = case.input.shape
    cells = windows(height, width, case.geometry)
    result = gradient(case, Hybrid(beta))
    assume(result.isfinite().all())
    entries = defaultdict(list)
    for entry in jacobian(case, beta):
        entries[entry.row].append(entry)
    info = torch.finfo(case.dtype)
    results, grads = planes_of(result.double()), planes_of(case.grad.double())
    for plane, number in product(range(len(results)), range(len(cells))):
        grad = Fraction(grads[plane][number])
        total = sum(Fraction(results[plane][cell]) for cell in cells[number])
        here = entries[plane * len(cells) + number]
        # Each of the k values is off by less than 4 roundings in float64, one in float32 on the way to 16
        # bits, and one in the working type, all relative to its absolute terms; underflow adds a spacing.
        size = sum(entry.terms for entry in here) * abs(grad)
        relative = Fraction(info.eps) / 2 + 8 * Fraction(2) ** -53
        relative += Fraction(2) ** -23 if case.dtype in SIXTEEN_BITS else 0
        smallest = Fraction(info.tiny) * Fraction(info.eps)
        assert abs(total - grad) <= relative * size + 2 * len(here) * smallest


@pytest.mark.parametrize("rule", [Minimal(), Hybrid(10)], ids=str)
@pytest.mark.parametrize(
    ("size", "arguments"),
    [
        ((1, 1), {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": 2}),
        ((4, 1), {"kernel_size": (1, 2), "stride": 1, "padding": (0, 1), "dilation": (1, 2)}),
    ],
)
def test_a_window_of_padding_only_is_refused(rule: Rule, size: tuple, arguments: dict) -> None:
    # Not compared with native: PyTorch's own backward writes outside the image here, and outside its memory.
    with pytest.raises(ValueError, match="nothing but padding"):
        max_pool2d(torch.ones(1, 1, *size), **arguments, rule=rule)


# ----------------------------------------------------------------------------------------------- agreement


@thorough
@given(poolings(geometry=geometries(overlaps=False), grads=(*FINITE, "special")), betas)
def test_all_rules_agree_bit_for_bit_without_ties_and_overlaps(case: Pooling, beta: float) -> None:
    *_, height, width = case.input.shape
    # Distinct values in every window, infinities and a NaN among them.
    values = torch.arange(float(height * width)).sub_(height * width / 2)
    values[:3] = torch.tensor([NAN, INF, -INF])[: height * width]
    planes = case.input.shape[:-2].numel()
    order = torch.rand(planes, height * width, generator=torch.Generator().manual_seed(0)).argsort()
    distinct = values[order].view(case.input.shape).to(case.dtype)
    case = case._replace(input=torch.empty_like(case.input).copy_(distinct))
    expected = gradient(case, Native())
    for rule in (Minimal(), Hybrid(beta)):
        assert_same_bits_up_to_nan(gradient(case, rule), expected)


@thorough
@given(poolings(grads=(*FINITE, "special")))
def test_hybrid_0_is_native_and_hybrid_1_is_minimal_bit_for_bit(case: Pooling) -> None:
    assert_same_bits_up_to_nan(gradient(case, Hybrid(0)), gradient(case, Native()))
    assert_same_bits_up_to_nan(gradient(case, Hybrid(1)), gradient(case, Minimal()))


# ------------------------------------------------------------------------- forward mode and second derivative


def dual(primal: Tensor, tangent: Tensor) -> Tensor:
    """A dual tensor; PyTorch makes none whose elements share memory, as those of an expanded tensor do."""
    return forward_ad.make_dual(primal.contiguous() if 0 in primal.stride() else primal, tangent)


@thorough
@given(poolings(grads=(*FINITE, "special")), betas)
def test_forward_mode_is_the_jacobian_times_the_tangent(case: Pooling, beta: float) -> None:
    for rule in (Native(), Minimal(), Hybrid(beta)):
        with forward_ad.dual_level():
            output = max_pool2d(dual(case.input, case.vector), **case.geometry, rule=rule)
            value, tangent = forward_ad.unpack_dual(output)
        assert_same_bits(value, F.max_pool2d(case.input, **case.geometry))
        assert_is_product(tangent, case, rule_beta(rule), transposed=False)


@thorough
@given(poolings(grads=(*FINITE, "special")), betas)
def test_the_gradient_is_linear_with_the_jacobian_as_its_transpose(case: Pooling, beta: float) -> None:
    for rule in (Native(), Minimal(), Hybrid(beta)):
        input, grad = case.differentiable(), case.grad.detach().requires_grad_()
        output = max_pool2d(input, **case.geometry, rule=rule)
        (pulled,) = torch.autograd.grad(output, input, grad, create_graph=True)
        second, constant = torch.autograd.grad(pulled, (grad, input), case.vector, allow_unused=True)
        assert_is_product(second, case, rule_beta(rule), transposed=False)
        assert constant is None or constant.eq(0).all()


@thorough
@given(poolings(), betas.filter(bool))
def test_derivatives_of_every_order_of_modes_are_the_same_linear_maps(case: Pooling, beta: float) -> None:
    rule = Hybrid(beta)
    with forward_ad.dual_level():
        # Forward over reverse: the derivative of J^T g in direction g is J^T g.
        input = case.differentiable()
        output = max_pool2d(input, **case.geometry, rule=rule)
        zero = dual(torch.zeros_like(case.grad), case.grad)
        (pulled,) = torch.autograd.grad(output, input, zero, create_graph=True)
        assert_same_bits_up_to_nan(forward_ad.unpack_dual(pulled).tangent, gradient(case, rule))
    with forward_ad.dual_level():
        # Reverse over forward: the derivative of J v with respect to v is J, transposed.
        vector = case.vector.detach().requires_grad_()
        output = max_pool2d(dual(case.input, vector), **case.geometry, rule=rule)
        tangent = forward_ad.unpack_dual(output).tangent
        assert_same_bits_up_to_nan(torch.autograd.grad(tangent, vector, case.grad)[0], gradient(case, rule))


@pytest.mark.parametrize("rule", [Native(), Minimal(), Hybrid(10)], ids=str)
@pytest.mark.parametrize(
    "geometry",
    [
        {"kernel_size": 2},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1},
        {"kernel_size": 2, "stride": 1, "dilation": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": (1, 2), "ceil_mode": True},
    ],
    ids=["tiling", "overlapping", "dilated", "ceil_mode"],
)
def test_finite_differences_where_no_window_ties(rule: Rule, geometry: dict) -> None:
    # A hundredth apart at least, and finite differences move by 1e-6: no argmax changes.
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    input = (order.double() / 100).view(1, 2, 5, 6).requires_grad_()

    def pool(values: Tensor) -> Tensor:
        return max_pool2d(values, **geometry, rule=rule)

    assert gradcheck(pool, input, check_forward_ad=True)
    assert gradgradcheck(pool, input, check_fwd_over_rev=True, check_rev_over_rev=True)


# ------------------------------------------------------------------------------------------------ composed

COMPOSED_BETAS = (0, 1, 10, 100, 1000, 10000, 100000, 0.3, 1000.1, -2.5)


@st.composite
def tilings(draw: st.DrawFn) -> Pooling:
    kernel, tiles = draw(pairs(1, 4)), draw(pairs(1, 3))
    size = tuple(k * n for k, n in zip(kernel, tiles, strict=True))
    return draw(tensors(size, tiles, tiling(kernel), (*INPUTS, "extreme"), (*FINITE, "special")))


def composed_reference(case: Pooling, beta: float) -> tuple[Tensor, Tensor]:
    """Output and gradient of `beta * amax + (1 - beta) * max_pool2d`, every operation rounded on its own.

    A 16-bit operation is a float32 operation whose result is rounded to 16 bits.
    """
    wide = np.float64 if case.dtype == torch.float64 else np.float32

    def planes(tensor: Tensor) -> np.ndarray:
        return tensor.flatten(-2).flatten(0, -2).double().numpy()

    def round_(values: np.ndarray) -> np.ndarray:
        return torch.from_numpy(values.astype(wide)).to(case.dtype).double().numpy().astype(wide)

    *_, height, width = case.input.shape
    cells = np.array(windows(height, width, case.geometry))
    _, indices = F.max_pool2d(case.input, **case.geometry, return_indices=True)
    is_chosen = cells == planes(indices)[..., None]
    share, rest = wide(beta), wide(1 - beta)
    with np.errstate(all="ignore"):
        values, grad = planes(case.input).astype(wide)[:, cells], planes(case.grad).astype(wide)[..., None]
        maximum = values.max(axis=-1, keepdims=True)
        output = round_(round_(share * maximum) + round_(rest * maximum))
        is_maximum = values == maximum
        # PyTorch converts the numbers of maxima to the working type before it divides.
        count = round_(is_maximum.sum(axis=-1, keepdims=True))
        minimal = round_(round_(round_(share * grad) * is_maximum) / count)
        # PyTorch adds to zeros, which turns -0 into +0.
        native = np.where(is_chosen, round_(rest * grad), wide(0)) + wide(0)
        gradient = np.empty((len(values), height * width), wide)
        gradient[:, cells] = round_(minimal + native)
    return (
        torch.from_numpy(output).to(case.dtype).view(case.grad.shape),
        torch.from_numpy(gradient).to(case.dtype).view(case.input.shape),
    )


def assert_follows_the_published_program(case: Pooling, beta: float) -> None:
    rule = Hybrid(beta, "composed")
    output, expected_gradient = composed_reference(case, beta)
    # Adding 0 drops the sign of zeros: which of +0 and -0 amax returns is left open.
    assert_same_bits_up_to_nan(max_pool2d(case.input, **case.geometry, rule=rule) + 0, output + 0)
    assert_same_bits_up_to_nan(gradient(case, rule), expected_gradient)


@settings(thorough, max_examples=300)
@given(tilings(), st.sampled_from(COMPOSED_BETAS))
def test_composed_follows_the_published_program_bit_for_bit(case: Pooling, beta: float) -> None:
    assert_follows_the_published_program(case, beta)


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 17), (torch.float16, 47), (torch.float32, 17)])
def test_composed_rounds_the_number_of_maxima(dtype: torch.dtype, size: int) -> None:
    # 17 * 17 has 9 bits and 47 * 47 has 12. Of a single window PyTorch does not round the number.
    input, grad = torch.zeros(1, 9, size, size, dtype=dtype), fill((1, 9, 1, 1), "noise", 0, dtype)
    assert_follows_the_published_program(Pooling(input, input, grad, tiling((size, size))), 10)


def test_composed_overflow_is_nan_forward_and_finite_backward() -> None:
    input = torch.full((1, 1, 2, 2), 100.0, dtype=torch.float16, requires_grad=True)
    output = max_pool2d(input, 2, rule=Hybrid(1000, "composed"))
    (result,) = torch.autograd.grad(output, input, torch.ones_like(output))
    assert output.isnan().all()  # 100000 - 99900, of which neither is finite in float16
    assert result.flatten().tolist() == [250 - 999, 250, 250, 250]


def test_composed_sends_nan_to_a_whole_window_with_a_nan() -> None:
    input = torch.tensor([[[NAN, 1.0, 1.0, 0.0]]], requires_grad=True)
    (result,) = torch.autograd.grad(max_pool2d(input, (1, 2), rule=Hybrid(2, "composed")).sum(), input)
    # Second window: 2 / 1 - 1 at the only maximum.
    np.testing.assert_array_equal(result.flatten(), [NAN, NAN, 1.0, 0.0])


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 2, "stride": 1},
        {"kernel_size": 2, "stride": (2, 3)},
        {"kernel_size": 2, "padding": 1},
        {"kernel_size": 2, "dilation": 2},
        {"kernel_size": (2, 5)},
        {"kernel_size": (5, 2)},
        {"kernel_size": 5, "ceil_mode": True},
    ],
    ids=str,
)
def test_composed_refuses_windows_that_do_not_tile(arguments: dict) -> None:
    message = r"composed.*needs stride = kernel_size.*got kernel_size=.*12 x 12.*Use evaluation='exact'"
    with pytest.raises(ValueError, match=message):
        max_pool2d(torch.zeros(1, 1, 12, 12), **arguments, rule=Hybrid(10, "composed"))


def test_composed_refuses_to_return_indices() -> None:
    with pytest.raises(ValueError, match=r"no indices; use evaluation='exact'"):
        max_pool2d(torch.zeros(1, 1, 2, 2), 2, return_indices=True, rule=Hybrid(10, "composed"))


# ------------------------------------------------------------------------------------------------- modules

RULES = [Native(), Minimal(), Hybrid(10), Hybrid(10, "composed")]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_module_is_the_function(rule: Rule) -> None:
    input = fill((2, 3, 6, 6), "ties", 0, torch.float32).requires_grad_()
    module = MaxPool2d(2, rule=rule)
    assert isinstance(module, nn.MaxPool2d)
    assert f"rule={rule}" in repr(module)
    expected = max_pool2d(input, 2, rule=rule)
    assert_same_bits(module(input), expected)
    grads = [torch.autograd.grad(output.square().sum(), input)[0] for output in (module(input), expected)]
    assert_same_bits(*grads)


@pytest.mark.parametrize("rule", RULES[:3], ids=str)
def test_the_module_takes_every_argument_of_pytorchs(rule: Rule) -> None:
    input = fill((2, 3, 9, 9), "ties", 0, torch.float32)
    arguments = (3, 2, 1, 2, True, True)  # kernel_size, stride, padding, dilation, return_indices, ceil_mode
    actual, expected = MaxPool2d(*arguments, rule=rule)(input), nn.MaxPool2d(*arguments)(input)
    assert_same_bits(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize("rule", ["minimal", 10.0, None, Minimal])
def test_a_rule_of_another_type_is_refused(rule: object) -> None:
    with pytest.raises(TypeError, match=r"rule must be Native\(\), Minimal\(\) or Hybrid\(beta\), got"):
        max_pool2d(torch.zeros(1, 1, 2, 2), 2, rule=rule)


@pytest.mark.parametrize("rule", RULES[:3], ids=str)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 0}, "should not be zero"),
        ({"kernel_size": -1}, "greater than zero"),
        ({"kernel_size": 2, "stride": 0}, "should not be zero"),
        ({"kernel_size": 2, "padding": 2}, "half of"),
        ({"kernel_size": 2, "dilation": 0}, "greater than zero"),
        ({"kernel_size": 9}, "too small"),
    ],
    ids=str,
)
def test_bad_geometry_is_refused_by_pytorch(rule: Rule, arguments: dict, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        max_pool2d(torch.zeros(1, 1, 4, 4), **arguments, rule=rule)


@pytest.mark.parametrize(("size", "message"), [(0, "should not be zero"), (-1, "greater than zero")])
def test_bad_kernels_of_composed_are_refused_by_pytorch(size: int, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        max_pool2d(torch.zeros(1, 1, 4, 4), size, rule=Hybrid(10, "composed"))


def test_three_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one or two integers, got \(2, 2, 2\)"):
        max_pool2d(torch.zeros(1, 1, 4, 4), (2, 2, 2), rule=Minimal())


class Mean:
    """A rule from outside: the mean of a window."""

    def __str__(self) -> str:
        return "mean"


def test_a_rule_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def mean(input: Tensor, geometry) -> Tensor:
        return F.avg_pool2d(input, geometry.kernel, geometry.stride, geometry.padding, geometry.ceil_mode)

    monkeypatch.setitem(pooling.POOLINGS, Mean, mean)
    input = fill((2, 3, 7, 8), "noise", 0, torch.float32).requires_grad_()
    model = replace_max_pools(nn.Sequential(nn.MaxPool2d((3, 2), 2, 1)), Mean())
    outputs = model(input), F.avg_pool2d(input, (3, 2), 2, 1)
    assert_same_bits(*outputs)
    assert_same_bits(*(torch.autograd.grad(output.square().sum(), input)[0] for output in outputs))
    assert "rule=mean" in repr(model[0])
    with pytest.raises(ValueError, match="rule mean has no indices"):
        max_pool2d(input, 2, return_indices=True, rule=Mean())


def test_a_rule_of_ones_own_that_was_not_registered_is_refused() -> None:
    with pytest.raises(TypeError, match="rule must be"):
        max_pool2d(torch.zeros(1, 1, 2, 2), 2, rule=Mean())


def pools(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.MaxPool2d)]


def test_replacing_keeps_every_setting() -> None:
    original = nn.MaxPool2d((3, 2), (2, 1), 1, (1, 2), return_indices=True, ceil_mode=True).eval()
    pool = replace_max_pools(original, Hybrid(10))
    assert type(pool) is MaxPool2d
    for name in ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode"):
        assert getattr(pool, name) == getattr(original, name)
    assert pool.rule == Hybrid(10)
    assert not pool.training


def test_replacing_again_changes_the_rule() -> None:
    model = replace_max_pools(nn.Sequential(MaxPool2d(2, rule=Native())), Minimal())
    assert model[0].rule == Minimal()


@pytest.mark.parametrize("build", [vgg11, resnet18])
def test_replacing_in_torchvision_models(build) -> None:
    torch.manual_seed(0)
    model = build(weights=None).eval()
    # A flat half, so that windows tie behind the first ReLU.
    input = torch.randn(1, 3, 64, 64)
    input[..., 32:] = 0.5

    def run() -> tuple[Tensor, Tensor]:
        logits = model(input)
        first = next(model.parameters())
        return logits, torch.autograd.grad(logits.square().sum(), first)[0]

    logits, native = run()
    count = len(pools(model))
    for rule in (Hybrid(0), Minimal(), Hybrid(10)):
        replace_max_pools(model, rule)
        assert [pool.rule for pool in pools(model)] == [rule] * count
        output, grad = run()
        assert_same_bits(output, logits)
        assert grad.isfinite().all()
        assert torch.equal(grad, native) == (rule == Hybrid(0))
