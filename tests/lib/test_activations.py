"""ReLU with a chosen derivative at 0, against its definition, written out number by number.

Equality means equal bits, signs of zeros included; only which of the many NaNs stands for a NaN is left open.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import lay_out
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from nonsmooth.activations import ReLU, relu, replace_relus
from nonsmooth.precision import PRECISIONS

CPU = torch.device("cpu")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DERIVATIVES = (0, 1, 0.5, 0.1, -2, 1e4)
LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced", "expanded")
# Under each, the type of a tensor decides how it is computed.
LEVELS = (None, *(name for name, precision in PRECISIONS.items() if "cpu" in precision.devices))
INF, NAN = math.inf, math.nan

thorough = settings(deadline=None, derandomize=True, max_examples=150)
every_type = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_derivative = pytest.mark.parametrize("derivative", DERIVATIVES)


# ------------------------------------------------------------------------------------ operands, and reference


class Case(NamedTuple):
    """An input, and a gradient or tangent of its shape."""

    input: Tensor
    grad: Tensor

    def differentiable(self) -> Tensor:
        """The input as a leaf; detaching keeps its strides."""
        return self.input.detach().requires_grad_()


def special_values(dtype: torch.dtype) -> list[float]:
    """Zeros of both signs three times each, subnormal and normal numbers of both ends, infinities and NaN."""
    info = torch.finfo(dtype)
    positive = [info.smallest_normal * info.eps, info.smallest_normal, 1.0, 1 / 3, 1000.1, info.max, INF]
    return [0.0, -0.0] * 3 + positive + [-value for value in positive] + [NAN]


def fill(shape: tuple[int, ...], kind: str, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "noise":
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    palette = torch.tensor({"special": special_values(dtype), "zeros": [0.0, -0.0]}[kind], dtype=torch.float64)
    return palette[torch.randint(len(palette), shape, generator=generator)].to(dtype)


@st.composite
def cases(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = DTYPES) -> Case:
    """Sizes from 0, so that there are empty tensors, and beyond a vector register, with a remainder."""
    dtype = draw(st.sampled_from(dtypes))
    shape = (draw(st.integers(0, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.integers(0, 9)))
    kinds, layouts = st.sampled_from(("special", "zeros", "noise")), st.sampled_from(LAYOUTS)
    seeds = st.integers(0, 2**32)
    return Case(*(lay_out(fill(shape, draw(kinds), draw(seeds), dtype), draw(layouts)) for _ in range(2)))


def reference(case: Case, derivative: float) -> Tensor:
    """The derivative at each number times the gradient, by the definition.

    The product is that of PyTorch of a tensor and a number: float32 arithmetic for types of 16 and 32 bits.
    """
    dtype = case.input.dtype
    wide = np.float64 if dtype == torch.float64 else np.float32

    def at(x: float, g: float) -> float:
        if x == 0 and derivative != 1:
            return wide(g) * wide(derivative) if derivative else 0.0
        return 0.0 if x < 0 else g  # NaN is not below 0

    with np.errstate(all="ignore"):
        pairs = zip(case.input.flatten().tolist(), case.grad.flatten().tolist(), strict=True)
        values = np.array([at(x, g) for x, g in pairs], dtype=wide)
    return torch.from_numpy(values).to(dtype).view(case.input.shape)


def gradient(case: Case, derivative: float, level: str | None = None) -> Tensor:
    """By autograd, forward and backward inside of a level's arithmetic where one is given."""
    input = case.differentiable()
    if level is None:
        return torch.autograd.grad(relu(input, derivative), input, case.grad)[0]
    with PRECISIONS[level].arithmetic(CPU):
        return torch.autograd.grad(relu(input, derivative), input, case.grad)[0]


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[actual.element_size()]
    a, b = (
        tensor.detach().contiguous().masked_fill(tensor.isnan(), NAN).view(integers) for tensor in (actual, expected)
    )
    differing = (a != b).nonzero().tolist()
    assert not differing, f"first differing position {differing[0]}: {actual} is not {expected}"


# ------------------------------------------------------------------------------------- forward and gradient


@thorough
@given(cases(), st.sampled_from(DERIVATIVES))
def test_forward_is_torch_relu_bit_for_bit(case: Case, derivative: float) -> None:
    expected = torch.relu(case.input)
    before = case.input.clone()
    for input in (case.input, case.differentiable()):
        output = relu(input, derivative)
        assert_same_bits(output, expected)
        assert output.stride() == expected.stride()
    assert_same_bits(case.input, before)


@thorough
@given(cases(), st.sampled_from(DERIVATIVES) | st.floats(-1e30, 1e30), st.sampled_from(LEVELS))
def test_gradient_is_the_chosen_derivative_at_zero(case: Case, derivative: float, level: str | None) -> None:
    assert_same_bits(gradient(case, derivative, level), reference(case, derivative))


@thorough
@given(cases(), st.sampled_from(LEVELS))
def test_derivative_0_is_torch_relu_bit_for_bit(case: Case, level: str | None) -> None:
    input = case.differentiable()
    (expected,) = torch.autograd.grad(torch.relu(input), input, case.grad)
    for zero in (0, 0.0, -0.0):
        assert_same_bits(gradient(case, zero, level), expected)


@pytest.mark.parametrize(
    ("dtype", "level"),
    [(torch.float16, None), (torch.float16, "float16"), (torch.float16, "mixed16"), (torch.bfloat16, "bfloat16")],
    ids=str,
)
@every_derivative
def test_every_number_of_16_bits(dtype: torch.dtype, derivative: float, level: str | None) -> None:
    """As input, and as gradient at zeros of both signs."""
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    zeros = torch.zeros_like(numbers)
    zeros[::3] = -0.0
    for case in (Case(numbers, torch.full_like(numbers, 1 / 3)), Case(zeros, numbers)):
        assert_same_bits(gradient(case, derivative, level), reference(case, derivative))


@every_type
@pytest.mark.parametrize(
    ("input", "grad", "derivative", "expected"),
    [
        (0.0, 3.0, 0.5, 1.5),
        (-0.0, 3.0, 0.5, 1.5),
        (0.0, -3.0, -2, 6.0),
        (0.0, 3.0, 1e4, 3e4),
        (0.0, INF, 0.5, INF),
        (0.0, INF, -2, -INF),
        (0.0, INF, 0, 0.0),
        (0.0, NAN, 0, 0.0),
        (0.0, NAN, 0.5, NAN),
        (0.0, NAN, 1, NAN),
        (0.0, -0.0, 1, -0.0),
        (0.0, 0.0, -2, -0.0),
        (-1.0, INF, 0.5, 0.0),
        (-1.0, NAN, 0.5, 0.0),
        (-INF, -3.0, 0.5, 0.0),
        (INF, -3.0, 0.5, -3.0),
        (NAN, -3.0, 0.5, -3.0),
        (1e-7, -3.0, 0.5, -3.0),  # subnormal in float16
        (-1e-7, -3.0, 0.5, 0.0),
    ],
)
def test_table(input: float, grad: float, derivative: float, expected: float, dtype: torch.dtype) -> None:
    case = Case(*(torch.full((3,), value, dtype=dtype) for value in (input, grad)))
    assert_same_bits(gradient(case, derivative), torch.full((3,), expected, dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("level", [None, "float16"])
def test_gradient_beyond_16_bits_is_infinite(level: str | None) -> None:
    """A derivative that float16 cannot hold is no error, and multiplies small gradients rightly."""
    case = Case(torch.zeros(2, dtype=torch.float16), torch.tensor([1.0, 2.0**-10], dtype=torch.float16))
    assert gradient(case, 1e5, level).tolist() == [INF, torch.tensor(1e5 / 2**10).half().item()]


def test_a_scalar() -> None:
    input = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    relu(input, 0.25).backward()
    assert input.grad.item() == 0.25


def test_autocast_keeps_the_type_of_the_input() -> None:
    for dtype in (torch.float16, torch.float32):
        input = torch.tensor([0.0, 1.0], dtype=dtype, requires_grad=True)
        with PRECISIONS["mixed16"].arithmetic(CPU):
            output = relu(input, 0.5)
            output.backward(torch.tensor([3.0, 3.0], dtype=dtype))
        assert output.dtype == input.grad.dtype == dtype
        assert input.grad.tolist() == [1.5, 3.0]


# --------------------------------------------------------------------------- second derivative, forward mode


def dual(primal: Tensor, tangent: Tensor) -> Tensor:
    """A dual tensor; PyTorch makes none whose elements share memory, as those of an expanded tensor do."""
    return forward_ad.make_dual(primal.contiguous() if 0 in primal.stride() else primal, tangent)


@thorough
@given(cases(), st.sampled_from(DERIVATIVES))
def test_forward_mode_is_the_same_linear_map(case: Case, derivative: float) -> None:
    with forward_ad.dual_level():
        value, tangent = forward_ad.unpack_dual(relu(dual(case.input, case.grad), derivative))
    assert_same_bits(value, torch.relu(case.input))
    assert_same_bits(tangent, reference(case, derivative))


@thorough
@given(cases(), st.sampled_from(DERIVATIVES))
def test_the_gradient_is_linear_and_has_no_derivative_in_the_input(case: Case, derivative: float) -> None:
    input, grad = case.differentiable(), case.grad.detach().requires_grad_()
    (pulled,) = torch.autograd.grad(relu(input, derivative), input, grad, create_graph=True)
    again, constant = torch.autograd.grad(pulled, (grad, input), case.grad, allow_unused=True)
    assert_same_bits(again + 0, reference(case, derivative) + 0)  # sums of gradients lose the sign of zeros
    assert constant is None or constant.eq(0).all()


@thorough
@given(cases(), st.sampled_from(DERIVATIVES))
def test_mixed_modes_are_the_same_linear_map(case: Case, derivative: float) -> None:
    expected = reference(case, derivative) + 0  # sums of gradients lose the sign of zeros
    with forward_ad.dual_level():
        # Forward over reverse: the derivative of J g in direction g is J g.
        input = case.differentiable()
        output = relu(input, derivative)
        zero = dual(torch.zeros_like(case.grad), case.grad)
        (pulled,) = torch.autograd.grad(output, input, zero, create_graph=True)
        assert_same_bits(forward_ad.unpack_dual(pulled).tangent + 0, expected)
    with forward_ad.dual_level():
        # Reverse over forward: the derivative of J v with respect to v is J.
        vector = case.grad.detach().requires_grad_()
        tangent = forward_ad.unpack_dual(relu(dual(case.input, vector), derivative)).tangent
        assert_same_bits(torch.autograd.grad(tangent, vector, case.grad)[0] + 0, expected)


@every_derivative
def test_finite_differences_away_from_zero(derivative: float) -> None:
    """No number is closer to 0 than 0.1, and finite differences move by 1e-6."""
    noise = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    input = (noise + 0.1 * noise.sign()).requires_grad_()

    def function(values: Tensor) -> Tensor:
        return relu(values, derivative)

    assert gradcheck(function, input, check_forward_ad=True)
    assert gradgradcheck(function, input, check_fwd_over_rev=True, check_rev_over_rev=True)


def test_functions_of_torch_func() -> None:
    input, vector = torch.tensor([-1.0, -0.0, 0.0, 2.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = torch.tensor([0.0, 0.5, 0.75, 4.0])
    assert torch.func.jvp(lambda x: relu(x, 0.25), (input,), (vector,))[1].equal(expected)
    assert torch.func.vjp(lambda x: relu(x, 0.25), input)[1](vector)[0].equal(expected)


# --------------------------------------------------------------------------------------- refusals, modules


@pytest.mark.parametrize("bad", [NAN, INF, -INF, True, False, "0.5", ""])
@pytest.mark.parametrize("use", [lambda d: relu(torch.zeros(1), d), ReLU, lambda d: replace_relus(nn.ReLU(), d)])
def test_a_derivative_that_is_no_finite_number_is_refused(use, bad: object) -> None:
    with pytest.raises(ValueError, match="derivative at 0 must be a finite number, got"):
        use(bad)


@pytest.mark.parametrize("bad", [None, 1j, [0.5], 10**400], ids=str)
def test_what_is_no_number_is_refused(bad: object) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        ReLU(bad)


@every_derivative
@every_type
def test_the_module_is_the_function(dtype: torch.dtype, derivative: float) -> None:
    input = fill((99,), "special", 0, dtype).requires_grad_()
    grad = fill((99,), "special", 1, dtype)
    module = ReLU(derivative)
    assert_same_bits(module(input), relu(input, derivative))
    assert_same_bits(*(torch.autograd.grad(f(input), input, grad)[0] for f in (module, lambda x: relu(x, derivative))))
    assert f"derivative={derivative:g}" in repr(module)
    assert not list(module.parameters())
    assert not module.state_dict()


def test_the_default_is_the_relu_of_pytorch() -> None:
    case = Case(fill((99,), "special", 0, torch.float32), fill((99,), "special", 1, torch.float32))
    input = case.differentiable()
    for output in (relu(input), ReLU()(input)):
        assert_same_bits(torch.autograd.grad(output, input, case.grad)[0], reference(case, 0))


def test_replacing_reaches_every_relu_and_nothing_else() -> None:
    shared = nn.ReLU()
    others = [nn.ReLU6(), nn.LeakyReLU(), nn.Linear(2, 2)]
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Sequential(shared, nn.ModuleList([shared])), *others).eval()
    assert replace_relus(model, 0.5) is model
    relus = [module for module in model.modules() if isinstance(module, ReLU)]
    assert len(relus) == 2
    assert all(module.derivative == 0.5 and not module.training for module in relus)
    assert model[1][0] is model[1][1][0]
    assert list(model[2:]) == others
    assert not any(type(module) is nn.ReLU for module in model.modules())


def test_replacing_a_relu_gives_its_replacement() -> None:
    replaced = replace_relus(nn.ReLU(), -2)
    assert type(replaced) is ReLU
    assert replaced.derivative == -2


@every_derivative
def test_a_relu_that_wrote_in_place_leaves_its_input(derivative: float) -> None:
    model = replace_relus(nn.Sequential(nn.ReLU(inplace=True)), derivative)
    input = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    values = input * 1
    (values + model(values)).sum().backward()
    assert values.tolist() == [-1, 0, 1]
    assert input.grad.tolist() == [1, 1 + torch.tensor(derivative), 2]
