"""Smooth poolings and rounded maxima against their definitions, window by window, in many more digits.

A result is right if it is what the type makes of some number within the error of float64 of the exact one: rounding is
monotonic, so that it lies between the roundings of both ends. The error, in units u = 2**-53 of the largest terms: a difference
of two values, a quotient by T, an exponential that turns its argument's relative error into an absolute one (of at most 745
units, beyond which it is 0), w additions, and a quotient or product more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import lay_out
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from nonsmooth import plotting
from nonsmooth.pooling import MaxPool2d, max_pool2d, replace_max_pools, rounded, smooth
from nonsmooth.pooling.windows import round_to_bits
from nonsmooth.precision import PRECISIONS
from nonsmooth.rules import Average, Boltzmann, LogSumExp, Native, Rounded, Rule, Strided, parse_rule

CPU = torch.device("cpu")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced", "expanded")
LEADS = ((2,), (1, 1), (2, 3), (0, 2), (2, 0))
ARITHMETICS = {
    precision.dtype: precision for precision in PRECISIONS.values() if precision.name in str(precision.dtype)
}
TEMPERATURES = (1e-4, 0.1, 1.0, 3.7, 1e5)
SMOOTH = (Boltzmann, LogSumExp)
EVERY = (Average(), Boltzmann(0.1), LogSumExp(0.5), Rounded(3.5))
U = 2.0**-53
INF, NAN = math.inf, math.nan

thorough = settings(deadline=None, derandomize=True, max_examples=150)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
both = pytest.mark.parametrize("kind", SMOOTH)


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
        # Half of the largest number, so that no difference overflows in float64.
        "extreme": [info.max / 2, -info.max / 2, info.smallest_normal * info.eps, info.tiny, 1.0, 0.0],
        "special": [1.0, 0.0, NAN, INF, -INF, 2.0],
    }
    palette = torch.tensor(palettes[kind], dtype=torch.float64)
    return palette[torch.randint(len(palette), shape, generator=generator)].to(dtype)


@st.composite
def cases(
    draw: st.DrawFn, kinds=("noise", "relu", "zeros", "few", "extreme"), leads=LEADS
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """An input, a gradient of its pooled output, and the kernel."""
    kernel, tiles = ((draw(st.integers(1, 3)), draw(st.integers(1, 3))) for _ in range(2))
    size = tuple(k * n for k, n in zip(kernel, tiles, strict=True))
    lead, dtype, seed = draw(st.sampled_from(leads)), draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**32))
    input = lay_out(fill((*lead, *size), draw(st.sampled_from(kinds)), seed, dtype), draw(st.sampled_from(LAYOUTS)))
    grad = lay_out(fill((*lead, *tiles), "noise", seed + 1, dtype), draw(st.sampled_from(LAYOUTS)))
    return input, grad, kernel


rules = st.builds(lambda kind, temperature: kind(temperature), st.sampled_from(SMOOTH), st.sampled_from(TEMPERATURES))


def pool(input: Tensor, grad: Tensor, kernel: tuple[int, int] | int, rule: Rule) -> tuple[Tensor, Tensor]:
    """Output and gradient of the input, in the arithmetic of its type."""
    leaf = input.detach().requires_grad_()
    with ARITHMETICS[input.dtype].arithmetic(CPU):
        output = max_pool2d(leaf, kernel, rule=rule)
        return output.detach(), torch.autograd.grad(output, leaf, grad)[0]


def windows_of(input: Tensor, kernel: tuple[int, int]) -> Iterator[tuple[tuple, list[tuple]]]:
    """For each window, the index of its output and those of its values."""
    *lead, height, width = input.shape
    for first in product(*map(range, lead)):
        for row, column in product(range(height // kernel[0]), range(width // kernel[1])):
            inside = product(range(kernel[0]), range(kernel[1]))
            yield (*first, row, column), [(*first, row * kernel[0] + i, column * kernel[1] + j) for i, j in inside]


def nearest(value: Fraction, dtype: torch.dtype) -> float:
    """`value` as `dtype` holds it, to nearest even; infinite from half a unit above the largest number."""
    info = torch.finfo(dtype)
    magnitude = abs(value)
    exponent = max(math.floor(mpmath.log(to_mp(magnitude), 2)), math.frexp(info.smallest_normal)[1] - 1) if value else 0
    # The logarithm may be off at powers of two.
    exponent += magnitude >= Fraction(2) ** (exponent + 1)
    quantum = Fraction(2) ** exponent * Fraction(info.eps)
    rounded_value = round(magnitude / quantum) * quantum
    result = INF if rounded_value > Fraction(info.max) else float(rounded_value)
    return math.copysign(result, value)


def to_mp(value: Fraction) -> mpmath.mpf:
    return mpmath.mpf(value.numerator) / mpmath.mpf(value.denominator)


def to_fraction(value: mpmath.mpf) -> Fraction:
    """`value`, but 0 for what is far below every type's smallest number."""
    return Fraction(0) if abs(value) < mpmath.mpf(2) ** -2000 else Fraction(*mpmath.libmp.to_rational(value._mpf_))


def assert_rounded(actual: Tensor, exact: mpmath.mpf, error: float) -> None:
    """`actual` is what its type makes of a number within `error` of `exact`; float64 underflows on the way to it, too."""
    error = Fraction(error) + Fraction(2) ** -1070
    value = to_fraction(exact)
    assert nearest(value - error, actual.dtype) <= actual.item() <= nearest(value + error, actual.dtype)


def defined(rule: Rule, values: list[float]) -> tuple[mpmath.mpf, list[mpmath.mpf]]:
    """The pooled value and its derivatives as they are defined, without any care for overflow."""
    temperature = mpmath.mpf(rule.temperature)
    values = [mpmath.mpf(value) for value in values]
    exponentials = [mpmath.exp(value / temperature) for value in values]
    total = mpmath.fsum(exponentials)
    weights = [exponential / total for exponential in exponentials]
    if isinstance(rule, LogSumExp):
        return temperature * mpmath.log(total / len(values)), weights
    mean = mpmath.fsum(weight * value for weight, value in zip(weights, values, strict=True))
    slopes = [weight * (1 + (value - mean) / temperature) for weight, value in zip(weights, values, strict=True)]
    return mean, slopes


@thorough
@given(cases(), rules)
def test_output_and_gradient_are_rounded_once(case: tuple, rule: Rule) -> None:
    input, grad, kernel = case
    output, result = pool(input, grad, kernel, rule)
    assert output.dtype == result.dtype == input.dtype
    assert output.shape == grad.shape
    assert result.shape == input.shape
    size = math.prod(kernel)
    with mpmath.workdps(60):
        for window, cells in windows_of(input, kernel):
            values = [input[cell].item() for cell in cells]
            value, slopes = defined(rule, values)
            spread = min(max(values) - min(values), 800 * rule.temperature)
            # Of the weights relatively, and of the mean of the differences from the maximum relatively to the spread.
            relative = (size + 4 + 3 * spread / rule.temperature) * U
            assert_rounded(
                output[window], value, 2 * abs(max(values)) * U + 2 * spread * relative + size * rule.temperature * U**2
            )
            for cell, slope in zip(cells, slopes, strict=True):
                size_of_terms = 1 if isinstance(rule, LogSumExp) else 1 + 2 * spread / rule.temperature
                incoming = grad[window].item()
                error = abs(incoming) * 3 * relative * size_of_terms
                assert_rounded(result[cell], mpmath.mpf(incoming) * slope, error)


@thorough
@given(cases(), rules)
def test_outputs_are_between_what_they_tend_to(case: tuple, rule: Rule) -> None:
    """The maximum above, below the mean (or for Boltzmann the minimum) as the type holds them; equal values are their own mean."""
    input, grad, kernel = case
    output, result = pool(input, grad, kernel, rule)
    for window, cells in windows_of(input, kernel):
        values = [Fraction(input[cell].item()) for cell in cells]
        below = min(values) if isinstance(rule, Boltzmann) else sum(values) / len(values)
        slack = 4 * len(values) * max(map(abs, values)) * Fraction(U)
        assert nearest(below - slack, input.dtype) <= output[window].item() <= max(values)
        if len(set(values)) == 1:
            assert output[window].item() == values[0]
    # What a window passes on is what it got. The sizes of the slopes add up to 1 + 2 w / e at most, since abs(z) exp(z) <= 1 / e for
    # z < 0, and each is rounded once, with the error of the test above.
    size = math.prod(kernel)
    passed = result.double().unflatten(-1, (-1, kernel[1])).unflatten(-3, (-1, kernel[0])).sum((-3, -1))
    info = torch.finfo(input.dtype)
    units = info.eps / 2 + 3 * (size + 4 + 3 * 745) * U
    bound = grad.double().abs() * (1 + size) * units + size * info.smallest_normal * info.eps
    assert ((passed - grad.double()).abs() <= bound).all()


@both
@every_dtype
def test_a_low_temperature_is_the_maximum_and_a_high_one_the_mean(kind: type, dtype: torch.dtype) -> None:
    input = torch.arange(48, dtype=torch.float64).mul(7).remainder(48).view(2, 4, 6).to(dtype)  # without ties
    grad = fill((2, 2, 2), "noise", 0, dtype)
    for actual, expected in zip(
        pool(input, grad, (2, 3), kind(1e-19)), pool(input, grad, (2, 3), Native()), strict=True
    ):
        assert torch.equal(actual, expected)
    output, result = pool(input, grad, (2, 3), kind(1e18))
    # The shift of at most 48 from the maximum is off by six sums and six operations.
    tolerance = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 12 * 48 * U}
    torch.testing.assert_close(output, avg_pool2d(input.double(), (2, 3)).to(dtype), **tolerance)
    spread = grad.double().repeat_interleave(2, -2).repeat_interleave(3, -1) / 6
    torch.testing.assert_close(result, spread.to(dtype), **tolerance)


@thorough
@given(cases(kinds=("special",)), rules)
def test_windows_with_infinities_and_nans(case: tuple, rule: Rule) -> None:
    input, grad, kernel = case
    output, result = pool(input, torch.ones_like(grad), kernel, rule)
    for window, cells in windows_of(input, kernel):
        values = [input[cell].item() for cell in cells]
        if any(map(math.isnan, values)):
            assert output[window].isnan()
            assert all(result[cell].isnan() for cell in cells)
        elif math.isinf(max(values)):
            assert output[window] == max(values)
            assert all(result[cell].isnan() for cell in cells)
        else:
            finite = [value for value in values if math.isfinite(value)]
            with mpmath.workdps(60):
                value, _ = defined(rule, finite)
                if isinstance(rule, LogSumExp):  # the mean is over all of the window
                    value += rule.temperature * mpmath.log(mpmath.mpf(len(finite)) / len(values))
                assert_rounded(output[window], value, 1e-9 * max(1, rule.temperature * 1e-6))
            assert all(result[cell] == 0 for number, cell in enumerate(cells) if values[number] == -INF)
            assert all(result[cell].isfinite() for cell in cells)


def test_differences_that_overflow_in_float64_have_no_weight() -> None:
    largest = torch.finfo(torch.float64).max
    input = torch.tensor([[[largest, -largest], [0.0, largest]]], dtype=torch.float64)
    for rule in (Boltzmann(1), LogSumExp(1)):
        output, result = pool(input, torch.ones(1, 1, 1, dtype=torch.float64), 2, rule)
        assert output.item() == largest
        assert result.tolist() == [[[0.5, 0], [0, 0.5]]]


@pytest.mark.parametrize("temperature", [5e-324, 1.7976931348623157e308])
@both
def test_every_temperature_is_safe(kind: type, temperature: float) -> None:
    output, result = pool(fill((2, 4, 4), "relu", 0, torch.float32), torch.ones(2, 2, 2), 2, kind(temperature))
    assert output.isfinite().all()
    assert result.isfinite().all()


@pytest.mark.parametrize("grad", [INF, -INF, NAN])
@both
def test_a_gradient_that_is_not_finite_stays_in_its_window(kind: type, grad: float) -> None:
    incoming = torch.tensor([[[1.0, grad]]])
    result = pool(torch.zeros(1, 2, 4), incoming, 2, kind(1))[1]
    assert result[..., :2].eq(0.25).all()
    assert not result[..., 2:].isfinite().any()


@pytest.mark.parametrize("rule", EVERY, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@every_dtype
def test_memory_layouts_change_nothing(layout: str, dtype: torch.dtype, rule: Rule) -> None:
    plain = fill((2, 3, 6, 4), "relu", 0, dtype)
    plain = plain[:, :1].expand_as(plain) if layout == "expanded" else plain
    grad = fill((2, 3, 3, 2), "noise", 1, dtype)
    for actual, expected in zip(
        pool(lay_out(plain, layout), grad, (2, 2), rule), pool(plain.contiguous(), grad, (2, 2), rule), strict=True
    ):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("rule", [Average(), *(kind(t) for kind in SMOOTH for t in (0.1, 1, 10))], ids=str)
def test_gradients_are_finite_differences(rule: Rule) -> None:
    for kind in ("noise", "few"):
        input = fill((2, 2, 4, 6), kind, 0, torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: max_pool2d(x, (2, 3), rule=rule), input)


def test_boltzmann_falls_where_a_small_value_grows() -> None:
    """Its derivative by a value far below the mean is negative, unlike that of any maximum."""
    input = torch.tensor([[[0.0, 3.0]]], dtype=torch.float64)
    result = pool(input, torch.ones(1, 1, 1, dtype=torch.float64), (1, 2), Boltzmann(1))[1]
    weight = 1 / (1 + math.exp(3))
    assert result[0, 0, 0].item() == pytest.approx(weight * (1 - 3 * (1 - weight)), rel=1e-14)
    assert result[0, 0, 0] < 0
    assert pool(input, torch.ones(1, 1, 1, dtype=torch.float64), (1, 2), LogSumExp(1))[1].gt(0).all()


@pytest.mark.parametrize("function", [smooth.boltzmann_pool2d, smooth.logsumexp_pool2d])
def test_operators_follow_pytorchs_rules(function: Callable[..., Tensor]) -> None:
    backward = getattr(smooth, f"{function._name.removeprefix('nonsmooth::')}_backward")
    for layout in ("contiguous", "channels_last"):
        input = lay_out(fill((2, 3, 4, 4), "relu", 0, torch.float32), layout).requires_grad_()
        torch.library.opcheck(function, (input, [2, 2], 0.5))
        torch.library.opcheck(backward, (torch.ones(2, 3, 2, 2), input.detach(), [2, 2], 0.5))


def test_the_operator_of_rounding_follows_pytorchs_rules() -> None:
    torch.library.opcheck(rounded.round_significand, (fill((2, 3), "noise", 0, torch.float32).requires_grad_(), 3.5))


@both
def test_a_second_derivative_is_refused(kind: type) -> None:
    input = torch.ones(1, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(max_pool2d(input, 2, rule=kind(1)).sum(), input, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradient.sum().backward()


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
@both
def test_windows_that_do_not_tile_are_refused(kind: type, arguments: dict) -> None:
    message = rf"rule {kind(0.5)} needs stride = kernel_size.*got kernel_size=.*12 x 12"
    with pytest.raises(ValueError, match=message):
        max_pool2d(torch.zeros(1, 1, 12, 12), **arguments, rule=kind(0.5))


@pytest.mark.parametrize("rule", EVERY, ids=str)
def test_indices_and_integers_are_refused(rule: Rule) -> None:
    with pytest.raises(ValueError, match=f"rule {rule} has no indices"):
        max_pool2d(torch.zeros(1, 1, 2, 2), 2, return_indices=True, rule=rule)
    with pytest.raises(TypeError, match=rf"rule {rule} needs floating-point input, got torch\.int64"):
        max_pool2d(torch.zeros(1, 1, 2, 2, dtype=torch.int64), 2, rule=rule)


def test_a_convolution_is_no_function_of_its_input() -> None:
    with pytest.raises(ValueError, match=r"strided is a convolution with weights of its own; nonsmooth\.architectures"):
        max_pool2d(torch.zeros(1, 1, 2, 2), 2, rule=Strided())


@pytest.mark.parametrize("rule", EVERY, ids=str)
@pytest.mark.parametrize("level", ["float16", "bfloat16", "mixed16", "float32", "float64"])
def test_a_network_trains_with_it_in_every_precision(level: str, rule: Rule) -> None:
    precision = PRECISIONS[level]
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    model = precision.cast_model(replace_max_pools(model, rule))
    assert isinstance(model[2], MaxPool2d)
    assert f"rule={rule}" in repr(model)
    pooled: list[Tensor] = []
    model[2].register_forward_hook(lambda _, inputs, output: pooled.extend([*inputs, output]))
    with precision.arithmetic(CPU):
        model(precision.cast_batch(torch.rand(3, 1, 6, 6))).float().square().sum().backward()
    assert pooled[0].dtype == pooled[1].dtype == (precision.autocast or precision.dtype)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_their_colour_is_that_of_other_rules() -> None:
    assert {plotting.rule_family(str(rule)) for rule in (*EVERY, Strided())} == {"other"}


# -------------------------------------------------------------------------------------------------- averages


@pytest.mark.parametrize(
    "arguments",
    [{}, {"stride": 1}, {"padding": 1}, {"stride": 2, "padding": 1, "ceil_mode": True}, {"kernel_size": (2, 3)}],
    ids=str,
)
@every_dtype
def test_averages_are_of_what_lies_in_the_image(arguments: dict, dtype: torch.dtype) -> None:
    """Windows are those of max pooling, and padding does not count."""
    arguments = {"kernel_size": 3, **arguments}
    input = fill((2, 3, 7, 8), "noise", 0, dtype)
    with ARITHMETICS[dtype].arithmetic(CPU):
        output = max_pool2d(input, **arguments, rule=Average())
    windows = max_pool2d(input, **arguments, rule=Native())
    assert output.shape == windows.shape
    total = avg_pool2d(torch.nn.functional.pad(input.double(), (3, 3, 3, 3)), 1)
    ones = torch.nn.functional.pad(torch.ones(7, 8, dtype=torch.float64), (3, 3, 3, 3))
    kernel = (
        arguments["kernel_size"] if isinstance(arguments["kernel_size"], tuple) else (arguments["kernel_size"],) * 2
    )
    stride = arguments.get("stride", kernel)
    stride = stride if isinstance(stride, tuple) else (stride,) * 2
    start = 3 - arguments.get("padding", 0)
    unit = max(torch.finfo(dtype).eps, 2.0**-23 if dtype != torch.float64 else 0)
    for row, column in product(range(output.shape[-2]), range(output.shape[-1])):
        place = (..., slice(start + row * stride[0], start + row * stride[0] + kernel[0]),
                 slice(start + column * stride[1], start + column * stride[1] + kernel[1]))  # fmt: skip
        mean = total[place].sum((-2, -1)) / ones[place].sum()
        bound = unit * (mean.abs() + 9 * total[place].abs().amax((-2, -1)))
        assert ((output[..., row, column].double() - mean).abs() <= bound).all()


def test_averages_have_no_dilation() -> None:
    with pytest.raises(ValueError, match=r"rule average needs dilation 1, got \(2, 2\)"):
        max_pool2d(torch.zeros(1, 1, 8, 8), 2, dilation=2, rule=Average())


# ---------------------------------------------------------------------------------------------- rounded maxima

bits = st.integers(1, 53) | st.floats(0.01, 53)


@thorough
@given(cases(leads=[lead for lead in LEADS if lead[-1] != 0]), bits)  # PyTorch's pooling refuses no channels
def test_maxima_are_rounded_to_a_multiple(case: tuple, bits: float) -> None:
    """By the definition; where bits is no integer, the step and the quotient are rounded, so that what is near a midpoint may go
    either way."""
    input, grad, kernel = case
    output, result = pool(input, grad, kernel, Rounded(bits))
    assert torch.equal(result, pool(input, grad, kernel, Native())[1])
    with mpmath.workdps(60):
        for window, cells in windows_of(input, kernel):
            maximum = Fraction(max(input[cell].item() for cell in cells))
            if maximum == 0:
                assert output[window] == 0
                continue
            exponent = math.frexp(float(abs(maximum)))[1] - 1
            step = to_fraction(mpmath.power(2, exponent + 1 - mpmath.mpf(bits)))
            if float(bits).is_integer():
                assert output[window].item() == nearest(round(maximum / step) * step, input.dtype)
            else:
                quotient = maximum / step
                slack = abs(quotient) * Fraction(8 * U)
                allowed = {nearest(round(quotient + sign * slack) * step * (1 + Fraction(error * U)), input.dtype)
                           for sign in (-1, 1) for error in (-8, 0, 8)}  # fmt: skip
                assert min(allowed) <= output[window].item() <= max(allowed)
                assert round(quotient) != 0


@thorough
@given(
    st.integers(2, 53), st.lists(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False), min_size=1)
)
def test_rounding_to_whole_bits_is_ordinary_rounding(bits: int, values: list[float]) -> None:
    values = torch.tensor(values, dtype=torch.float64)
    assert torch.equal(rounded.round_significand(values, bits), round_to_bits(values, bits))


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 11), (torch.bfloat16, 8)], ids=str)
def test_rounding_to_the_bits_of_a_type_is_that_types_rounding(dtype: torch.dtype, bits: int) -> None:
    values = torch.randn(9999, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rounded.round_significand(values, bits), values.to(dtype).float())
    midpoints = 1 + (torch.arange(64) + 0.5) * 2.0 ** (1 - bits)
    assert torch.equal(rounded.round_significand(midpoints, bits), midpoints.to(dtype).float())


def test_rounding_has_no_limits_of_the_exponent_but_those_of_the_type() -> None:
    smallest = torch.tensor([5e-324, 3 * 5e-324, 1.5e-310, -1.3e308], dtype=torch.float64)
    assert rounded.round_significand(smallest, 1).tolist() == [
        5e-324,
        4 * 5e-324,
        math.ldexp(1, -1029),
        -math.ldexp(1, 1023),
    ]
    assert rounded.round_significand(torch.tensor([65504.0, -65504.0, 2.0**-24]).half(), 3).tolist() == [
        INF,
        -INF,
        2.0**-24,
    ]


@every_dtype
def test_rounding_keeps_what_has_no_digits(dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, -0.0, INF, -INF, NAN], dtype=dtype)
    for number in (0.03, 3.5, 53):
        result = rounded.round_significand(values, number)
        torch.testing.assert_close(result, values, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(result[:4].signbit(), values[:4].signbit())


def test_rounded_maxima_can_overlap_and_be_differentiated_twice() -> None:
    input = fill((1, 1, 5, 5), "noise", 0, torch.float64).requires_grad_()
    output = max_pool2d(input, 3, 2, 1, rule=Rounded(4))
    (gradient,) = torch.autograd.grad(output.square().sum(), input, create_graph=True)
    native = max_pool2d(input, 3, 2, 1, rule=Native())
    (expected,) = torch.autograd.grad(native, input, 2 * output.detach(), retain_graph=True)
    assert torch.equal(gradient, expected)
    assert torch.equal(
        torch.autograd.grad(gradient.sum(), input)[0],
        torch.autograd.grad(native, input, torch.full_like(native, 2.0))[0],
    )


def test_precision_law_of_composed_pooling() -> None:
    """Composed pooling at beta in p bits has the error of a maximum rounded to p - log2(2 beta) bits, on average (C9)."""
    input = fill((64, 64, 16, 16), "noise", 0, torch.float32).relu().half()
    maximum = max_pool2d(input.double(), 2, rule=Native())
    for beta in (10.0, 100.0, 300.0):
        errors = []
        for rule in (parse_rule(f"hybrid-{beta:g}-forward_unlimited"), Rounded(11 - math.log2(2 * beta))):
            output = pool(input, torch.ones_like(maximum).half(), 2, rule)[0].double()
            errors.append(((output - maximum).abs() / maximum)[maximum > 0].mean().item())
        assert abs(math.log2(errors[0] / errors[1])) < 1
