"""The parts of the published pooling, each against its definition, window by window in exact fractions that are rounded to a format.

What has all parts is the published program, which autodiff differentiates; what has none is PyTorch's pooling.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import lay_out
from torch import Tensor

from nonsmooth.pooling import max_pool2d
from nonsmooth.pooling.composed import BITS, PartlyComposedMaxPool2d
from nonsmooth.pooling.windows import round_to_bits
from nonsmooth.precision import PRECISIONS
from nonsmooth.rules import EVALUATIONS, Evaluation, Hybrid, Native

CPU = torch.device("cpu")
WORKING = ("float16", "bfloat16", "float32", "float64")
BETAS = (-2.5, 0.0, 0.3, 1.0, 2.0, 7.7, 100.0, 1000.0, 10000.0)
BETWEEN = [name for name in EVALUATIONS if name not in ("exact", "composed")]

thorough = settings(deadline=None, derandomize=True, max_examples=150)


class Format(NamedTuple):
    """A binary floating-point format; without `lowest` and `largest` its exponent has no limits."""

    bits: int
    lowest: int | None = None
    largest: float | None = None

    def round(self, value: Fraction | float) -> float:
        """The nearest value of the format, ties to even; what is not finite stays."""
        if isinstance(value, float) and not math.isfinite(value):
            return value
        exact = Fraction(value)
        if exact == 0:
            return 0.0
        exponent = exact.numerator.bit_length() - exact.denominator.bit_length()
        exponent -= abs(exact) < Fraction(2) ** exponent
        if self.lowest is not None:
            exponent = max(exponent, self.lowest)
        unit = Fraction(2) ** (exponent - self.bits + 1)
        rounded = round(exact / unit) * unit
        if self.largest is not None and abs(rounded) > self.largest:
            return math.inf if rounded > 0 else -math.inf
        return float(rounded)


FORMATS = {
    "float16": Format(11, -14, 65504.0),
    "bfloat16": Format(8, -126, float(torch.finfo(torch.bfloat16).max)),
    "float32": Format(24, -126, float(torch.finfo(torch.float32).max)),
    "float64": Format(53, -1022, float(torch.finfo(torch.float64).max)),
}


class Plain:
    """The arithmetic of one part, an operation at a time."""

    def __init__(self, name: str, wide: bool, unlimited: bool) -> None:
        operations = "float32" if wide and name != "float64" else name
        limited = FORMATS[operations]
        self.stored = FORMATS[name]
        self.format = Format(limited.bits) if unlimited else limited
        # PyTorch multiplies by a number in float32, unless the type is wider.
        self.first = self.format if name == "float64" else Format(24) if unlimited else FORMATS["float32"]
        self.number = (lambda value: value) if name == "float64" else lambda value: float(np.float32(value))

    def times(self, number: float, value: float) -> float:
        number = self.number(number)
        if not math.isfinite(value):
            return number * value
        return self.format.round(self.first.round(Fraction(number) * Fraction(value)))

    def plus(self, a: float, b: float) -> float:
        if not (math.isfinite(a) and math.isfinite(b)):
            return a + b
        return self.format.round(Fraction(a) + Fraction(b))

    def over(self, a: float, count: int) -> float:
        return a if not math.isfinite(a) else self.format.round(Fraction(a) / count)


def reference(window: list[float], grad: float, beta: float, name: str, parts: Evaluation) -> tuple[float, list[float]]:
    """Output and gradient of one window of finite values in scan order."""
    largest = max(window)
    maxima = [value == largest for value in window]
    count, first = sum(maxima), maxima.index(True)
    output = largest
    if parts.forward:
        plain = Plain(name, parts.wide_forward, parts.unlimited)
        combined = plain.plus(plain.times(beta, largest), plain.times(1 - beta, largest))
        output = plain.stored.round(combined)
    native = [grad if place == first else 0.0 for place in range(len(window))]
    if not (parts.backward if count == 1 else parts.jacobian):
        return output, native
    if not parts.backward:
        stored = FORMATS[name]
        chosen = Fraction(grad) * (count - Fraction(beta) * (count - 1)) / count
        other = Fraction(grad) * Fraction(beta) / count
        exact = [chosen if place == first else other if is_one else 0 for place, is_one in enumerate(maxima)]
        return output, [stored.round(value) for value in exact]
    plain = Plain(name, parts.wide, parts.unlimited)
    share = plain.over(plain.times(beta, grad), count)
    # What is no maximum gets the product with a mask of zeros, a NaN where the product overflowed.
    shares = [share if is_one else 0.0 * share for is_one in maxima]
    whole = [plain.times(1 - beta, grad) if place == first else 0.0 for place in range(len(window))]
    return output, [plain.stored.round(plain.plus(a, b)) for a, b in zip(shares, whole, strict=True)]


def run(input: Tensor, grad: Tensor, function, name: str) -> tuple[Tensor, Tensor]:
    leaf = input.detach().requires_grad_()
    with PRECISIONS[name].arithmetic(CPU):
        output = function(leaf)
        return output.detach(), torch.autograd.grad(output, leaf, grad)[0]


def pool(input: Tensor, grad: Tensor, kernel: tuple[int, int], beta: float, evaluation: str, name: str):
    return run(input, grad, lambda leaf: max_pool2d(leaf, kernel, rule=Hybrid(beta, evaluation)), name)


def same(a: Tensor, b: Tensor) -> bool:
    """Equal values, NaN at the same places, and zeros of any sign."""
    return (
        a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(0.25), b.nan_to_num(0.25))
    )


def values(name: str) -> st.SearchStrategy[float]:
    """Finite values of a precision: few, so that windows tie, some near its limits, and any."""
    info = torch.finfo(PRECISIONS[name].dtype)
    few = [-1.0, -0.0, 0.0, 0.5, 1.0, 3.0]
    # In float64 the reference of the Jacobian must not overflow where the library computes in float64.
    edge = 2.0**-40 if name == "float64" else 1.0
    limits = [info.max * edge, -info.max * edge, info.tiny, info.tiny * info.eps, info.max * edge / 512]
    anything = st.integers(-4000, 4000).map(lambda n: torch.tensor(n / 512).to(PRECISIONS[name].dtype).item())
    return st.sampled_from(few) | st.sampled_from(limits) | anything


@st.composite
def cases(draw) -> tuple[str, tuple[int, int], Tensor, Tensor, float]:
    name = draw(st.sampled_from(WORKING))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    lead = draw(st.sampled_from([(1, 1), (2, 1), (3,)]))
    rows, columns = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    shape = (*lead, rows * kernel[0], columns * kernel[1])
    pooled = (*lead, rows, columns)
    dtype = PRECISIONS[name].dtype

    def tensor(size: tuple[int, ...]) -> Tensor:
        count = math.prod(size)
        drawn = draw(st.lists(values(name), min_size=count, max_size=count))
        return torch.tensor(drawn, dtype=torch.float64).reshape(size).to(dtype)

    return name, kernel, tensor(shape), tensor(pooled), draw(st.sampled_from(BETAS))


@thorough
@given(cases(), st.sampled_from(BETWEEN))
def test_every_evaluation_is_its_definition(case, evaluation: str) -> None:
    name, kernel, input, grad, beta = case
    output, gradient = pool(input, grad, kernel, beta, evaluation, name)
    lead = input.shape[:-2]
    for index in product(*map(range, lead), *map(range, output.shape[-2:])):
        *front, row, column = index
        place = (
            *front,
            slice(row * kernel[0], (row + 1) * kernel[0]),
            slice(column * kernel[1], (column + 1) * kernel[1]),
        )
        wanted = reference(
            input[place].flatten().double().tolist(), grad[index].item(), beta, name, EVALUATIONS[evaluation]
        )
        assert same(output[index].double(), torch.tensor(wanted[0], dtype=torch.float64))
        assert same(gradient[place].flatten().double(), torch.tensor(wanted[1], dtype=torch.float64))


SPECIAL = [-1.0, -0.0, 0.0, 1.0, 2.0, math.inf, -math.inf, math.nan, 60000.0, 1e-7]


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("name", WORKING)
def test_all_parts_together_are_the_published_program_bit_for_bit(name: str, beta: float) -> None:
    """Also where values or gradients are not finite."""
    draws = torch.Generator().manual_seed(0)
    dtype = PRECISIONS[name].dtype
    noise = torch.randn(40, 3, 6, 6, generator=draws).relu().mul(4)
    palette = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), noise.shape, generator=draws)]
    input = torch.where(torch.rand(40, 1, 1, 1, generator=draws) < 0.5, noise, palette).to(dtype)
    grad = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), (40, 3, 3, 3), generator=draws)].to(dtype)
    published = pool(input, grad, (2, 2), beta, "composed", name)
    parts = run(input, grad, lambda leaf: PartlyComposedMaxPool2d.apply(leaf, (2, 2), beta, "composed"), name)
    assert all(map(same, parts, published))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("name", WORKING)
def test_the_range_changes_nothing_where_nothing_leaves_it(name: str, beta: float) -> None:
    draws = torch.Generator().manual_seed(1)
    dtype = PRECISIONS[name].dtype
    input = torch.randn(8, 3, 8, 8, generator=draws).relu().to(dtype)
    grad = torch.randn(8, 3, 4, 4, generator=draws).to(dtype)
    for evaluation in [other for other in BETWEEN if "unlimited" in other]:
        limited = evaluation.replace("_unlimited", "")
        assert all(map(same, *(pool(input, grad, (2, 2), beta, other, name) for other in (evaluation, limited))))


def test_overflow_is_what_the_range_decides() -> None:
    """1,000 x 70 is above 65,504: infinite minus infinite. With 11 bits and no limit both products are multiples of 64."""
    input, grad = torch.zeros(1, 1, 2, 2).half(), torch.ones(1, 1, 1, 1).half()
    input[..., 0, 0] = 70
    assert pool(input, grad, (2, 2), 1000.0, "forward", "float16")[0].isnan().all()
    assert pool(input, grad, (2, 2), 1000.0, "forward_unlimited", "float16")[0].item() == 70016 - 69952


@pytest.mark.parametrize("evaluation", BETWEEN)
def test_over_the_reals_every_evaluation_is_max_pooling_where_nothing_ties(evaluation: str) -> None:
    """Small integers and a power of two make float64 exact."""
    draws = torch.Generator().manual_seed(2)
    input = torch.stack([torch.randperm(36, generator=draws).reshape(6, 6) for _ in range(12)]).double()[:, None] - 18
    grad = torch.randint(-9, 9, (12, 1, 3, 3), generator=draws).double()
    native = run(input, grad, lambda leaf: max_pool2d(leaf, 2, rule=Native()), "float64")
    assert all(map(same, pool(input, grad, (2, 2), 8.0, evaluation, "float64"), native))


def test_the_modifiers_change_what_they_say_and_nothing_in_wider_types() -> None:
    draws = torch.Generator().manual_seed(3)
    single = torch.randn(16, 2, 8, 8, generator=draws)
    grad = torch.randn(16, 2, 4, 4, generator=draws)
    narrow, wide, all_wide = (
        pool(single.half(), grad.half(), (2, 2), 1000.0, evaluation, "float16")
        for evaluation in ("composed", "composed_wide", "composed_float32")
    )
    assert same(narrow[0], wide[0])
    assert not same(narrow[1], wide[1])
    assert not same(narrow[0], all_wide[0])
    for name in ("float32", "float64"):
        data = [tensor.to(PRECISIONS[name].dtype) for tensor in (single, grad)]
        plain = pool(*data, (2, 2), 1000.0, "composed", name)
        for evaluation in ("composed_wide", "composed_float32"):
            assert all(map(same, pool(*data, (2, 2), 1000.0, evaluation, name), plain))


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced", "expanded"])
@pytest.mark.parametrize("evaluation", BETWEEN)
def test_memory_layout_changes_no_bit(evaluation: str, layout: str) -> None:
    draws = torch.Generator().manual_seed(4)
    input = torch.randn(2, 3, 4, 6, generator=draws).relu().half()
    grad = torch.randn(2, 3, 2, 2, generator=draws).half()
    laid = lay_out(input, layout)
    expected = pool(laid.contiguous(), grad, (2, 3), 1000.0, evaluation, "float16")
    assert all(map(same, pool(laid, grad, (2, 3), 1000.0, evaluation, "float16"), expected))


@pytest.mark.parametrize("evaluation", BETWEEN)
def test_no_images(evaluation: str) -> None:
    output, gradient = pool(torch.zeros(0, 3, 4, 4), torch.zeros(0, 3, 2, 2), (2, 2), 10.0, evaluation, "float32")
    assert (output.shape, gradient.shape) == ((0, 3, 2, 2), (0, 3, 4, 4))


@pytest.mark.parametrize("evaluation", BETWEEN)
def test_a_window_with_a_nan_passes_its_gradient_on_or_loses_it(evaluation: str) -> None:
    """It has no maximum that equals its values, so that it does not tie; the published arithmetic divides by their number, 0."""
    input = torch.tensor([[[[1.0, math.nan], [0.0, 2.0]]]])
    output, gradient = pool(input, torch.ones(1, 1, 1, 1), (2, 2), 10.0, evaluation, "float32")
    assert output.isnan().all()
    is_composed = EVALUATIONS[evaluation].backward
    assert (
        gradient.isnan().all() if is_composed else torch.equal(gradient[0, 0], torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    )


@pytest.mark.parametrize("evaluation", BETWEEN)
def test_errors(evaluation: str) -> None:
    rule, input = Hybrid(10, evaluation), torch.ones(1, 1, 4, 4, requires_grad=True)
    with pytest.raises(
        ValueError, match=rf"rule hybrid-10-{evaluation} needs stride = kernel_size.*Use evaluation='exact'"
    ):
        max_pool2d(input, 3, rule=rule)
    with pytest.raises(ValueError, match=rf"rule hybrid-10-{evaluation} has no indices; use evaluation='exact'"):
        max_pool2d(input, 2, return_indices=True, rule=rule)
    with pytest.raises(RuntimeError, match="differentiated once only"):
        torch.autograd.grad(max_pool2d(input, 2, rule=rule).sum(), input, create_graph=True)


@thorough
@given(st.floats(allow_subnormal=False), st.integers(2, 53))
def test_rounding_to_bits_is_rounding_to_the_nearest(value: float, bits: int) -> None:
    rounded = round_to_bits(torch.tensor([value], dtype=torch.float64), bits)
    largest = float(torch.finfo(torch.float64).max)
    assert same(rounded, torch.tensor([Format(bits, None, largest).round(value)], dtype=torch.float64))


def test_the_bits_are_those_of_the_types() -> None:
    assert {dtype: 1 - math.log2(torch.finfo(dtype).eps) for dtype in BITS} == BITS
