"""The six levels, and 16-bit arithmetic on a CPU against float32 kernels and one rounding, bit for bit.

Every operation of `OPERATIONS` has cases here. A case is a function of its operands, called twice with the
same values: in 16 bits under test, and in a wide type outside, where nothing of `nonsmooth.precision` runs.
Bounds are derived: u is the unit roundoff of the level, U32 = 2**-24 that of the accumulation.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nonsmooth import optimizers, pooling, training
from nonsmooth.architectures import ARCHITECTURES, NORMALIZATIONS
from nonsmooth.pooling import compiled, exact, norm, rounded, smooth
from nonsmooth.pooling.kernels import kernels
from nonsmooth.precision import OPERATIONS, PRECISIONS, Rounding, backend_flags
from nonsmooth.rules import parse_rule

aten = torch.ops.aten
CPU = torch.device("cpu")
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
RULES = ("native", "minimal", "hybrid-10-exact", "hybrid-10-composed")
U32 = 2.0**-24
# In float32 exactly these numbers, and not in 16 bits.
LARGE, SMALL, TINY = (torch.tensor(value).item() for value in (0.9, 0.03, 5e-4))

half_types = pytest.mark.parametrize("level", HALVES)


class Recorder(TorchDispatchMode):
    """The operations that reach it and have a 16-bit tensor among their operands."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[torch._ops.OpOverload] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(isinstance(leaf, Tensor) and leaf.dtype in HALVES.values() for leaf in tree_leaves((args, kwargs))):
            self.operations.add(func)
        return func(*args, **kwargs)

    @property
    def names(self) -> set[str]:
        """Base names of the operations that are not views."""
        return {f.overloadpacket.__name__.removesuffix("_") for f in self.operations if not f.is_view}


class Operands:
    """A repeatable sequence of operands of 16-bit values, stored in 16 bits or in a wide type.

    `kind` is `plain` (standard normal) or `extreme`: both zeros, subnormal and normal numbers of every size
    up to the largest, and infinities.
    """

    def __init__(self, dtype: torch.dtype, kind: str, wide: torch.dtype | None = None) -> None:
        self.half, self.kind, self.wide = dtype, kind, wide
        self.dtype = wide or dtype
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        values = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        if self.kind == "extreme":
            limits = torch.finfo(self.half)
            lowest, highest = (torch.tensor(x).log2().item() for x in (limits.smallest_normal * limits.eps, limits.max))
            exponent = torch.rand(shape, generator=self.generator) * (highest - lowest + 1) + lowest
            values = values.sign() * torch.exp2(exponent.double())
            chance = torch.rand(shape, generator=self.generator)
            values = values.clamp(limits.min, limits.max).where(chance > 0.05, 0.0 * values.sign())
            values = values.where(chance < 0.99, torch.inf * values.sign())
        return values.to(self.half).to(self.dtype)

    def positive(self, *shape: int) -> Tensor:
        return self(*shape).abs()

    def labels(self, count: int, classes: int) -> Tensor:
        return torch.arange(count) * 7 % classes

    def stored(self, value: Tensor) -> Tensor:
        """`value` as 16 bits hold it."""
        return value.to(self.half).to(self.dtype)


Case = Callable[[Operands], Tensor | tuple[Tensor, ...]]


def gradients(function: Callable[..., Tensor], d: Operands, *operands: Tensor) -> tuple[Tensor, ...]:
    """Gradients of `function` by autograd, for a gradient of the output drawn from `d`."""
    operands = tuple(operand.requires_grad_() for operand in operands)
    output = function(*operands)
    with torch.no_grad():
        grad = d(*output.shape)
    return torch.autograd.grad(output, operands, grad)


def in_place(function: Callable[[Tensor], Tensor], operand: Tensor) -> Tensor:
    """The operand after `function` changed it, which has to return it."""
    version = operand._version
    assert function(operand) is operand
    assert operand._version > version
    return operand


def log_softmax_gradient(d: Operands) -> Tensor:
    """The derivative uses the stored output, which is rounded."""
    x = d(7, 10)
    if d.wide is None:
        return gradients(lambda x: F.log_softmax(x, 1), d, x)[0]
    return aten._log_softmax_backward_data(d(7, 10), d.stored(F.log_softmax(x, 1)), 1, d.dtype)


def batch_norm(d: Operands, training: bool, *shape: int) -> tuple[Tensor, ...]:
    x, weight, bias, mean = d(*shape), d(shape[1]), d(shape[1]), d(shape[1])
    variance = d.positive(shape[1])
    return F.batch_norm(x, mean, variance, weight, bias, training, LARGE), mean, variance


def batch_norm_gradients(d: Operands, training: bool, *shape: int) -> tuple[Tensor, ...]:
    x, weight, bias, mean = d(*shape), d(shape[1]), d(shape[1]), d(shape[1])
    variance = d.positive(shape[1])
    return gradients(
        lambda x, weight, bias: F.batch_norm(x, mean, variance, weight, bias, training), d, x, weight, bias
    )


def pooling_operator(operator: Callable[..., Tensor], d: Operands, transposed: bool) -> Tensor:
    """The hybrid Jacobian of 2 x 2 windows, k = 1 to 4, applied to a random gradient or tangent."""
    x = d(2, 3, 8, 8).relu()
    values, indices = F.max_pool2d(x, 2, return_indices=True)
    operand = d(*values.shape) if transposed else d(*x.shape)
    return operator(operand, x, values, indices, [2, 2], [2, 2], [0, 0], [1, 1], 10.0)


def compiled_pooling(d: Operands, backward: bool) -> tuple[Tensor, ...]:
    """2 x 2 windows: the maxima and where they are, or the gradient."""
    if kernels() is None:
        pytest.skip("no compiler")
    input, geometry = d(2, 3, 8, 8).relu(), ([2, 2], [2, 2], [0, 0], [1, 1], False)
    output, codes = compiled.max_pool2d_with_codes(input, *geometry)
    if not backward:
        return output, codes
    return (compiled.max_pool2d_with_codes_backward(d(*output.shape), input, codes, *geometry, 10.0),)


def compiled_native_gradient(d: Operands) -> Tensor:
    if kernels() is None:
        pytest.skip("no compiler")
    input = d(2, 3, 8, 8).relu()
    _, codes = compiled.max_pool2d_with_codes(input, [2, 2], [2, 2], [0, 0], [1, 1], False)
    return compiled.native_with_codes_backward(d(2, 3, 4, 4), input, codes, [2, 2])


def norm_pooling(d: Operands) -> Tensor:
    """2 x 2 windows, some of them all zero."""
    return norm.norm_pool(d(2, 3, 8, 8).relu(), [2, 2])


def norm_pooling_gradient(d: Operands) -> Tensor:
    x = d(2, 3, 8, 8).relu()
    return norm.norm_pool_backward(d(2, 3, 4, 4), x, [2, 2], 1.0)


def smooth_pooling_gradient(operator: Callable[..., Tensor], d: Operands) -> Tensor:
    x = d(2, 3, 8, 8).relu()
    return operator(d(2, 3, 4, 4), x, [2, 2], 0.5)


def of_several(
    function: Callable[[list[Tensor], list[Tensor]], list[Tensor] | None], d: Operands
) -> tuple[Tensor, ...]:
    """What `function` makes of two lists of two tensors, or of the first of them in place."""
    first, second = [d(99), d(9, 11)], [d(99), d(9, 11)]
    return tuple(function(first, second) or first)


def unscaled(d: Operands) -> tuple[Tensor, ...]:
    """Gradients divided by a loss scale, and whether one was not finite."""
    gradients, found = [d(99), d(9, 11)], torch.zeros(())
    aten._amp_foreach_non_finite_check_and_unscale_(gradients, found, torch.tensor(2.0**-13))
    return *gradients, found.bool()


# Shapes are not multiples of a vector's length, so that the kernels' remainders count, too.
CASES: dict[str, list[Case]] = {
    "_amp_foreach_non_finite_check_and_unscale": [unscaled],
    "_foreach_add": [
        lambda d: of_several(lambda a, b: torch._foreach_add(a, b, alpha=TINY), d),
        lambda d: of_several(lambda a, b: torch._foreach_add_(a, b, alpha=-SMALL), d),
        lambda d: of_several(lambda a, b: torch._foreach_add_(a, TINY), d),
    ],
    "_foreach_addcdiv": [lambda d: of_several(lambda a, b: torch._foreach_addcdiv_(a, b, b, [-SMALL, TINY]), d)],
    "_foreach_addcmul": [lambda d: of_several(lambda a, b: torch._foreach_addcmul_(a, b, b, TINY), d)],
    "_foreach_div": [lambda d: of_several(lambda a, b: torch._foreach_div_(a, [LARGE, SMALL]), d)],
    "_foreach_lerp": [lambda d: of_several(lambda a, b: torch._foreach_lerp_(a, b, 1 - LARGE), d)],
    "_foreach_mul": [lambda d: of_several(lambda a, b: torch._foreach_mul_(a, LARGE), d)],
    "_foreach_sqrt": [lambda d: tuple(torch._foreach_sqrt([d.positive(2999), d.positive(9, 11)]))],
    "_local_scalar_dense": [lambda d: torch.tensor([x.item() for x in d(9)], dtype=torch.float64)],
    "_to_copy": [lambda d: d(99).to(torch.float64)],
    "_unsafe_view": [lambda d: aten._unsafe_view(d(9, 11), [99])],
    "abs": [lambda d: d(99).abs(), lambda d: in_place(Tensor.abs_, d(99))],
    "amax": [lambda d: d(2, 3, 5, 2, 4, 2).amax((-3, -1))],
    "aminmax": [lambda d: tuple(torch.aminmax(d(99))), lambda d: tuple(torch.aminmax(d(9, 11), dim=1))],
    "argmax": [lambda d: d(33, 10).argmax(1)],
    "cat": [
        lambda d: torch.cat([d(2, 3, 5, 5), d(2, 4, 5, 5), d(2, 0, 5, 5)], 1),
        lambda d: gradients(lambda *xs: torch.cat(xs, 1), d, d(2, 3, 5, 5), d(2, 4, 5, 5)),
    ],
    "clone": [lambda d: d(7, 9).t().clone(memory_format=torch.contiguous_format)],
    "copy": [lambda d: in_place(lambda x: x.copy_(d(99)), d(99)), lambda d: torch.zeros(99).copy_(d(99))],
    "empty_like": [lambda d: torch.empty_like(d(99)).copy_(d(99))],
    "eq": [lambda d: d(9, 9) == d(9, 9).relu(), lambda d: d(99) == 0],
    "fill": [lambda d: in_place(lambda x: x.fill_(0.5), d(99))],
    "gather": [lambda d: d(9, 10).gather(1, d.labels(9, 10)[:, None])],
    "gt": [lambda d: d(9, 9) > d(9, 9).relu(), lambda d: d(99) > 0],
    "index": [lambda d: d(9, 10)[d.labels(33, 9)]],
    "isnan": [lambda d: torch.isnan(d(99) - d(99))],
    "lt": [lambda d: d(9, 9) < d(9, 9).relu(), lambda d: d(99) < 0],
    "masked_fill": [
        lambda d: d(99).masked_fill(d.labels(99, 2) == 0, 0.5),
        lambda d: in_place(lambda x: x.masked_fill_(d.labels(99, 2) == 0, d()), d(99)),
    ],
    "max": [lambda d: d(99).max(), lambda d: d(9, 11).max(1).values],
    "max_pool2d_with_codes": [lambda d: compiled_pooling(d, False)],
    "max_pool2d_with_indices": [
        lambda d: F.max_pool2d(d(2, 3, 8, 8), 2, return_indices=True),
        lambda d: F.max_pool2d(d(2, 3, 9, 9), 3, 2, 1, return_indices=True),
    ],
    "maximum": [lambda d: torch.maximum(d(9, 11), d(9, 11)), lambda d: torch.maximum(d(9, 11), d(11))],
    "native_max_pool2d_with_codes_backward": [compiled_native_gradient],
    "ne": [lambda d: d(9, 9) != d(9, 9).relu(), lambda d: d(99) != 0],
    "neg": [lambda d: -d(99), lambda d: in_place(Tensor.neg_, d(99))],
    "new_empty": [lambda d: d(99).new_empty(99).copy_(d(99))],
    "new_full": [lambda d: d(1).new_full((99,), 0.5)],
    "new_zeros": [lambda d: d(1).new_zeros(99)],
    "ones_like": [lambda d: torch.ones_like(d(99))],
    "relu": [lambda d: d(99).relu(), lambda d: in_place(Tensor.relu_, d(99))],
    "scatter": [
        lambda d: d(9, 10).scatter(1, d.labels(9, 10)[:, None], d(9, 1)),
        lambda d: in_place(lambda x: x.scatter_(1, d.labels(9, 10)[:, None], d(9, 1)), d(9, 10)),
    ],
    "select_backward": [
        lambda d: gradients(lambda x: x[3], d, d(9, 11)),
        lambda d: gradients(lambda x: x[:, 2], d, d(9, 11)),
    ],
    "threshold_backward": [lambda d: gradients(F.relu, d, d(99))],
    "where": [lambda d: torch.where(d.labels(99, 2) == 0, d(99), d(99))],
    "zero": [lambda d: in_place(Tensor.zero_, d(99))],
    "zeros_like": [lambda d: torch.zeros_like(d(99))],
    "add": [
        lambda d: d(99) + d(99),
        lambda d: d(9, 11) + d(11),
        lambda d: d(99) + d(),
        lambda d: d(99) + TINY,
        lambda d: torch.add(d(99), d(99), alpha=TINY),
        lambda d: in_place(lambda x: x.add_(d(99), alpha=-SMALL), d(99)),
        lambda d: in_place(lambda x: x.add_(TINY), d(99)),
    ],
    "sub": [
        lambda d: d(99) - d(99),
        lambda d: d(99) - TINY,
        lambda d: torch.sub(d(99), d(99), alpha=SMALL),
        lambda d: in_place(lambda x: x.sub_(d(99)), d(99)),
    ],
    "max_pool2d_jacobian": [lambda d: pooling_operator(exact.jacobian, d, False)],
    "max_pool2d_transposed_jacobian": [lambda d: pooling_operator(exact.transposed_jacobian, d, True)],
    "max_pool2d_with_codes_backward": [lambda d: compiled_pooling(d, True)],
    "boltzmann_pool2d": [lambda d: smooth.boltzmann_pool2d(d(2, 3, 8, 8).relu(), [2, 2], 0.5)],
    "boltzmann_pool2d_backward": [lambda d: smooth_pooling_gradient(smooth.boltzmann_pool2d_backward, d)],
    "logsumexp_pool2d": [lambda d: smooth.logsumexp_pool2d(d(2, 3, 8, 8).relu(), [2, 2], 0.5)],
    "logsumexp_pool2d_backward": [lambda d: smooth_pooling_gradient(smooth.logsumexp_pool2d_backward, d)],
    "round_significand": [
        lambda d: rounded.round_significand(d(999), 6.5),
        lambda d: rounded.round_significand(d(99), 3),
    ],
    "norm_pool2d": [norm_pooling],
    "norm_pool2d_backward": [norm_pooling_gradient],
    "mul": [
        lambda d: d(99) * d(99),
        lambda d: d(9, 11) * d(11),
        lambda d: d(99) * LARGE,
        lambda d: d(99) * (1.0 - 10000.0),
        lambda d: in_place(lambda x: x.mul_(LARGE), d(99)),
    ],
    "div": [
        lambda d: d(99) / d(99),
        lambda d: d(99) / LARGE,
        lambda d: d(99) / (d.labels(99, 9) + 1),
        lambda d: in_place(lambda x: x.div_(d(99)), d(99)),
    ],
    "sqrt": [lambda d: d.positive(2999).sqrt(), lambda d: in_place(Tensor.sqrt_, d.positive(99))],
    "_log_softmax": [lambda d: F.log_softmax(d(17, 10), 1)],
    "_log_softmax_backward_data": [log_softmax_gradient],
    "addcdiv": [
        lambda d: torch.addcdiv(d(99), d(99), d(99), value=-SMALL),
        lambda d: in_place(lambda x: x.addcdiv_(d(99), d(99), value=-SMALL), d(99)),
    ],
    "addcmul": [
        lambda d: torch.addcmul(d(99), d(99), d(99), value=TINY),
        lambda d: in_place(lambda x: x.addcmul_(d(99), d(99), value=TINY), d(99)),
    ],
    "addmm": [
        lambda d: F.linear(d(9, 61), d(7, 61), d(7)),
        lambda d: in_place(lambda x: x.addmm_(d(9, 61), d(61, 7)), d(9, 7)),
    ],
    "avg_pool2d": [
        lambda d: F.avg_pool2d(d(2, 3, 8, 8), 2),
        lambda d: F.avg_pool2d(d(2, 3, 9, 9), 3, 2, 1),
    ],
    "avg_pool2d_backward": [
        lambda d: gradients(lambda x: F.avg_pool2d(x, 2), d, d(2, 3, 8, 8)),
        lambda d: gradients(lambda x: F.avg_pool2d(x, 3, 2, 1), d, d(2, 3, 9, 9)),
    ],
    "convolution": [
        lambda d: F.conv2d(d(2, 3, 12, 12), d(4, 3, 5, 5), d(4)),
        lambda d: F.conv2d(d(2, 64, 7, 7), d(32, 64, 3, 3), stride=2, padding=1),
    ],
    "convolution_backward": [
        lambda d: gradients(F.conv2d, d, d(2, 3, 12, 12), d(4, 3, 5, 5), d(4)),
        lambda d: gradients(lambda x, w: F.conv2d(x, w, stride=2, padding=1), d, d(2, 9, 7, 7), d(8, 9, 3, 3)),
    ],
    "lerp": [
        lambda d: torch.lerp(d(99), d(99), 1 - LARGE),
        lambda d: torch.lerp(d(99), d(99), d(99)),
        lambda d: in_place(lambda x: x.lerp_(d(99), 1 - LARGE), d(99)),
    ],
    "max_pool2d_with_indices_backward": [
        lambda d: gradients(lambda x: F.max_pool2d(x, 2), d, d(2, 3, 8, 8)),
        lambda d: gradients(lambda x: F.max_pool2d(x, 3, 1, 1), d, d(2, 3, 9, 9)),
    ],
    "mean": [
        lambda d: d(17, 61).mean(),
        lambda d: d(2, 5, 7, 7).mean((2, 3)),
        lambda d: gradients(nn.AdaptiveAvgPool2d(1), d, d(2, 5, 7, 7)),
    ],
    "mm": [lambda d: d(9, 61) @ d(61, 7), lambda d: gradients(torch.mm, d, d(9, 61), d(61, 7))],
    "native_batch_norm": [
        lambda d: batch_norm(d, True, 8, 5, 3, 3),
        lambda d: batch_norm(d, True, 33, 5),
        lambda d: batch_norm(d, False, 8, 5, 3, 3),
    ],
    "native_batch_norm_backward": [
        lambda d: batch_norm_gradients(d, True, 8, 5, 3, 3),
        lambda d: batch_norm_gradients(d, True, 33, 5),
        lambda d: batch_norm_gradients(d, False, 8, 5, 3, 3),
    ],
    "nll_loss_backward": [lambda d: gradients(lambda x: F.nll_loss(x, d.labels(9, 10)), d, d(9, 10))],
    "nll_loss_forward": [lambda d: F.nll_loss(d(99, 10), d.labels(99, 10))],
    "sum": [lambda d: d(17, 61).sum(0), lambda d: d(17, 61).sum(1, keepdim=True), lambda d: d(17, 61).sum()],
}


def assert_same_bits(result: Tensor, expected: Tensor) -> None:
    """Equal type and values, signs of zeros included; all NaNs are one."""
    assert result.dtype == expected.dtype
    torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)
    if result.is_floating_point():
        assert torch.equal(result.signbit() | result.isnan(), expected.signbit() | expected.isnan())


def outputs(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


# ------------------------------------------------------------------------------- 16-bit arithmetic on a CPU


def test_every_operation_has_cases() -> None:
    """But those that are compared with the operations that they consist of, in test_compiled_composed_pooling.py."""
    composed = {name for name, rounding in OPERATIONS.items() if rounding is Rounding.COMPOSED}
    assert set(CASES) == set(OPERATIONS) - composed


@pytest.mark.parametrize("kind", ["plain", "extreme"])
@half_types
@pytest.mark.parametrize("name", CASES)
def test_operation_rounds_as_its_rule_says(name: str, level: str, kind: str) -> None:
    dtype, rounding = HALVES[level], OPERATIONS[name]
    # MKL's float32 square root is not always the nearest float32, so that rounding it again can be wrong.
    wide = torch.float64 if name.endswith("sqrt") else torch.float32
    recorder = Recorder()
    for case in CASES[name]:
        with PRECISIONS[level].arithmetic(CPU), recorder:
            results = outputs(case(Operands(dtype, kind)))
        references = outputs(case(Operands(dtype, kind, wide=wide)))
        for result, reference in zip(results, references, strict=True):
            if rounding is Rounding.EXACT:
                # Every 16-bit number is a float32: nothing may be lost on the way to it.
                result = result.to(reference.dtype)
            elif reference.is_floating_point():
                reference = reference.to(dtype)
            assert_same_bits(result, reference)
    assert name in recorder.names


@half_types
def test_upcast_operations_never_reach_a_16_bit_kernel(level: str) -> None:
    upcast = {name for name, rounding in OPERATIONS.items() if rounding is Rounding.UPCAST}
    kernels = Recorder()
    with kernels, PRECISIONS[level].arithmetic(CPU):
        for name in upcast:
            for case in CASES[name]:
                case(Operands(HALVES[level], "plain"))
    assert not kernels.names & upcast
    # It does see what reaches 16-bit kernels: in-place results are copied.
    assert "copy" in kernels.names


@half_types
def test_unlisted_operation_is_refused_by_name(level: str) -> None:
    x = torch.ones(3, dtype=HALVES[level])
    with PRECISIONS[level].arithmetic(CPU):
        with pytest.raises(NotImplementedError, match=re.escape("aten.sigmoid.default; add 'sigmoid'")):
            x.sigmoid()
        with pytest.raises(NotImplementedError, match="sigmoid_"):
            x.sigmoid_()
        with pytest.raises(NotImplementedError, match="stack"):
            torch.stack([torch.ones(3), x])
        assert torch.ones(3).sigmoid().dtype == torch.float32
        row = x.view(3, 1).expand(3, 2).transpose(0, 1)[0]
    assert row.equal(x)
    assert x.sigmoid().dtype == HALVES[level]


@half_types
def test_output_arguments_are_written_or_refused(level: str) -> None:
    a = torch.ones(3, 3, dtype=HALVES[level])
    written = torch.zeros(3, 3, dtype=HALVES[level])
    with PRECISIONS[level].arithmetic(CPU):
        try:
            torch.mm(a, a, out=written)
        except NotImplementedError:
            return
    assert written.eq(3).all()


@half_types
def test_asked_result_type_is_kept(level: str) -> None:
    x = torch.full((4,), torch.finfo(HALVES[level]).max, dtype=HALVES[level])
    with PRECISIONS[level].arithmetic(CPU):
        total = x.sum(dtype=torch.float64)
        wide = x.mean(dtype=torch.float32)
    assert total.item() == 4 * x[0].item()
    assert wide.dtype == torch.float32


@half_types
@pytest.mark.parametrize("operation", [torch.add, torch.sub, torch.mul, torch.div])
def test_a_wider_operand_decides_the_type(operation: Callable[..., Tensor], level: str) -> None:
    half = Operands(HALVES[level], "plain")(99)
    single = torch.rand(99, generator=torch.Generator().manual_seed(0))
    with PRECISIONS[level].arithmetic(CPU):
        results = operation(half, single), operation(single, half), single.clone().add_(half)
    for result, reference in zip(
        results, (operation(half.float(), single), operation(single, half.float()), single + half.float()), strict=True
    ):
        assert_same_bits(result, reference)


def test_update_with_a_large_step_overflows_to_infinity() -> None:
    """PyTorch's own float16 kernel refuses an `alpha` or a scalar that float16 cannot hold."""
    x = torch.ones(3, dtype=torch.float16)
    with PRECISIONS["float16"].arithmetic(CPU):
        assert (x + 1e5).eq(torch.inf).all()
        assert x.clone().add_(x, alpha=-1e5).eq(-torch.inf).all()


@half_types
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_rounds_statistics_once(level: str, training: bool) -> None:
    """Output and running statistics against the formulas in float64: one rounding, 16 bits wide."""
    u, dtype = PRECISIONS[level].unit_roundoff, HALVES[level]
    d = Operands(dtype, "plain")
    x, weight, bias, mean, variance = d(8, 5, 3, 3) + 3, d(5), d(5), d(5), d.positive(5) + 0.5
    layer = nn.BatchNorm2d(5, dtype=dtype).train(training)
    layer.load_state_dict({"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}, strict=False)
    with PRECISIONS[level].arithmetic(CPU):
        output = layer(x)
        statistics = aten.native_batch_norm(x, weight, bias, mean.clone(), variance.clone(), True, 0.1, 1e-5)[1:]
    assert [s.dtype for s in statistics] == [torch.float32] * 2
    assert output.dtype == layer.running_mean.dtype == layer.running_var.dtype == dtype

    wide = x.double()
    batch_mean, batch_variance = wide.mean((0, 2, 3)), wide.var((0, 2, 3), unbiased=False)
    n = wide[:, 0].numel()
    # 72 sums in float32 and a few operations more, relative to the sum of absolute values.
    accumulation = (n + 16) * U32
    torch.testing.assert_close(statistics[0].double(), batch_mean, rtol=accumulation, atol=accumulation * 8)
    torch.testing.assert_close(statistics[1].double(), (batch_variance + 1e-5).rsqrt(), rtol=4 * accumulation, atol=0)
    if training:
        running = (
            0.9 * mean.double() + 0.1 * batch_mean,
            0.9 * variance.double() + 0.1 * batch_variance * n / (n - 1),
        )
    else:
        running = mean.double(), variance.double()
        batch_mean, batch_variance = running
    bounds = {"rtol": u * (1 + 2**-6), "atol": 32 * accumulation}
    torch.testing.assert_close(layer.running_mean.double(), running[0], **bounds)
    torch.testing.assert_close(layer.running_var.double(), running[1], **bounds)
    scale = weight.double() * (batch_variance + 1e-5).rsqrt()
    per_channel = (slice(None), None, None)
    expected = (wide - batch_mean[per_channel]) * scale[per_channel] + bias.double()[per_channel]
    torch.testing.assert_close(output.double(), expected, **bounds)


def test_batch_norm_of_mixed16_keeps_float32_parameters() -> None:
    layer = nn.BatchNorm2d(5)
    x = Operands(torch.float16, "plain")(8, 5, 3, 3)
    grad = Operands(torch.float16, "plain")(8, 5, 3, 3).flip(0)
    wide = nn.BatchNorm2d(5)
    expected = wide(x.float().requires_grad_()).half()
    expected_grads = gradients_of(wide, x.float(), grad.float())
    layer(x.float())
    layer.reset_running_stats()
    with PRECISIONS["mixed16"].arithmetic(CPU):
        output = layer(x)
        grads = gradients_of(layer, x, grad)
    assert_same_bits(output, expected)
    assert [g.dtype for g in grads] == [torch.float16, torch.float32, torch.float32]
    for result, reference in zip(grads, expected_grads, strict=True):
        assert_same_bits(result, reference.to(result.dtype))
    for buffer, reference in zip(layer.buffers(), wide.buffers(), strict=True):
        assert_same_bits(buffer, reference)


def gradients_of(layer: nn.Module, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(layer(x), (x, *layer.parameters()), grad)


sixteen_bit_levels = pytest.mark.parametrize("level", ["float16", "bfloat16", "mixed16"])


def logits_and_loss(model: nn.Module, level: str, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = model(PRECISIONS[level].cast_batch(images))
    return logits, F.cross_entropy(logits.float() if level == "mixed16" else logits, labels)


@sixteen_bit_levels
def test_training_steps_use_listed_operations_only(level: str, make_cell) -> None:
    """Two steps (the second has optimizer state) and an evaluation, of every kind of cell."""
    precision = PRECISIONS[level]
    training.configure(training.Settings())
    images, labels = Operands(torch.float16, "plain")(4, 1, 28, 28).float(), torch.arange(4)
    used: set[str] = set()
    for normalization, optimizer_name, rule in product(NORMALIZATIONS, ("sgd", "adam"), RULES):
        cell = make_cell(
            normalization=normalization,
            optimizer=optimizer_name,
            precision=level,
            rule=rule,
            relu_derivative=0.5 if rule == "minimal" else 0.0,
        )
        model = training.initial_model(cell)
        optimizer = optimizers.build_optimizer(cell, model)
        scaler = precision.loss_scaler(CPU)
        with precision.arithmetic(CPU), Recorder() as recorder:
            for _ in range(2):
                optimizer.zero_grad()
                logits, loss = logits_and_loss(model, level, images, labels)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            assert logits.dtype == (precision.autocast or precision.dtype)
            with torch.no_grad():
                model.eval()(precision.cast_batch(images))
        assert all(p.grad.dtype == p.dtype == precision.dtype for p in model.parameters())
        unlisted = recorder.names - OPERATIONS.keys()
        assert not unlisted, cell.path
        used |= recorder.names
    # The recorder sees what it should: a convolution and a pooling, forward and backward.
    assert {
        "convolution",
        "convolution_backward",
        "max_pool2d_with_indices" if kernels() is None else "native_max_pool2d_with_codes_backward",
        "amax" if kernels() is None else "composed_max_pool2d_with_codes_backward",
        "max_pool2d_transposed_jacobian" if kernels() is None else "max_pool2d_with_codes_backward",
    } <= used


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "lenet5"])
def test_every_architecture_uses_listed_operations_only(architecture: str, make_cell) -> None:
    """Forward, backward and evaluation; the optimizers are those of the test above."""
    training.configure(training.Settings())
    images, labels = Operands(torch.float16, "plain")(2, 3, 32, 32).float(), torch.arange(2)
    for normalization in NORMALIZATIONS:
        cell = make_cell(dataset="cifar10", architecture=architecture, normalization=normalization, relu_derivative=0.5)
        wide = training.initial_model(cell)
        cases = [("float16", "hybrid-10-composed")]
        if architecture in ("vgg11", "resnet18", "densenet121"):  # the others have more of the same layers
            cases = [("float16", rule) for rule in RULES]
            cases += [("bfloat16", "native"), ("mixed16", "hybrid-10-exact")] if normalization == "batch_norm" else []
        for level, rule in cases:
            model = PRECISIONS[level].cast_model(copy.deepcopy(wide))
            pooling.replace_max_pools(model, parse_rule(rule))
            with PRECISIONS[level].arithmetic(CPU), Recorder() as recorder:
                logits_and_loss(model, level, images, labels)[1].backward()
                with torch.no_grad():
                    model.eval()(PRECISIONS[level].cast_batch(images))
            assert all(p.grad.dtype == p.dtype == PRECISIONS[level].dtype for p in model.parameters())
            unlisted = recorder.names - OPERATIONS.keys()
            assert not unlisted, (normalization, level, rule)
            assert {"convolution", "convolution_backward"} <= recorder.names
            poolings = ("max_pool2d_with_codes", "composed_max_pool2d_with_codes", "max_pool2d_with_indices")
            assert recorder.names.intersection(poolings)


# ------------------------------------------------------------------- a step of a network, layer by layer


class Rounded(torch.autograd.Function):
    """float32 values and their gradients as 16 bits hold them."""

    @staticmethod
    def forward(ctx, value: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = dtype
        return value.to(dtype).float()

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad.to(ctx.dtype).float(), None


class Fork(torch.autograd.Function):
    """A value for two uses, the gradients of which are added and rounded."""

    @staticmethod
    def forward(ctx, value: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        ctx.dtype = dtype
        return value.clone(), value.clone()

    @staticmethod
    def backward(ctx, *grads: Tensor):
        return sum(grads).to(ctx.dtype).float(), None


def with_rounded_layers(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network in float32, in which what enters and leaves each layer is rounded, forward and backward.

    Sums of two (a residual connection, and its gradients) are rounded by the layer that comes next. In a dense block a
    value has many uses, and PyTorch adds their gradients one by one, the latest use first.
    """
    model = copy.deepcopy(model).float()

    def fork(layer: nn.Module, arguments: tuple[list[Tensor]]) -> tuple[list[Tensor]]:
        features = arguments[0]
        used = []
        for position, value in enumerate(features):
            one, features[position] = Fork.apply(value, dtype)
            used.append(one)
        return (used,)

    for module in model.modules():
        if type(module).__name__ == "_DenseLayer":
            module.register_forward_pre_hook(fork)
        if not list(module.children()):
            module.register_forward_pre_hook(lambda _, inputs: Rounded.apply(inputs[0], dtype))
            module.register_forward_hook(lambda _, inputs, output: Rounded.apply(output, dtype))
    return model


@pytest.mark.parametrize(
    ("architecture", "normalization", "level"),
    [
        *((name, "batch_norm", "float16") for name in ARCHITECTURES),
        *((name, "none", "float16") for name in ("lenet5", "vgg11", "resnet18", "densenet121")),
        ("densenet121", "batch_norm", "bfloat16"),
    ],
)
def test_a_step_is_that_of_float32_layers_rounded_once(
    architecture: str, normalization: str, level: str, make_cell
) -> None:
    """Bit for bit: gradients, running statistics, and weights after SGD, given the gradient of the logits."""
    dtype, precision = HALVES[level], PRECISIONS[level]
    dataset, shape = ("mnist_5k", (1, 28, 28)) if architecture == "lenet5" else ("cifar10", (3, 32, 32))
    cell = make_cell(
        dataset=dataset,
        architecture=architecture,
        normalization=normalization,
        precision=level,
        relu_derivative=0.5,
        learning_rate=SMALL,
        weight_decay=TINY,
    )
    training.configure(training.Settings())
    model = training.initial_model(cell)
    reference = with_rounded_layers(model, dtype)
    images = Operands(dtype, "plain", wide=torch.float32)(4, *shape)
    # A black part, so that windows tie, and ReLUs are at 0.
    images[..., :10] = 0

    seen: list[Tensor] = []
    hook = model.register_forward_hook(lambda _, inputs, logits: seen.append(logits) or logits.retain_grad())
    with precision.arithmetic(CPU):
        training.step(
            model,
            optimizers.build_optimizer(cell, model),
            precision.loss_scaler(CPU),
            precision,
            images,
            torch.arange(4),
        )
    hook.remove()

    before = [p.detach().clone() for p in reference.parameters()]
    logits = reference(images)
    assert_same_bits(seen[0], logits.to(dtype))
    logits.backward(seen[0].grad.float())
    for weight, old, wide in zip(model.parameters(), before, reference.parameters(), strict=True):
        grad = wide.grad.to(dtype)
        assert_same_bits(weight.grad, grad)
        direction = torch.add(grad.float(), old, alpha=TINY).to(dtype)
        assert_same_bits(weight, torch.add(old, direction.float(), alpha=-SMALL).to(dtype))
        assert grad.isfinite().all()
        assert grad.any()
    for buffer, wide in zip(model.buffers(), reference.buffers(), strict=True):
        assert_same_bits(buffer, wide.to(buffer.dtype))


# ------------------------------------------------------------------------------------------- the six levels


@pytest.mark.parametrize(
    ("level", "dtype", "explicit_bits", "scaled", "evaluation", "devices"),
    [
        ("float16", torch.float16, 10, False, "float16", ("cpu", "cuda")),
        ("bfloat16", torch.bfloat16, 7, False, "bfloat16", ("cpu", "cuda")),
        ("mixed16", torch.float32, 10, True, "float32", ("cpu", "cuda")),
        ("tf32", torch.float32, 10, False, "tf32", ("cuda",)),
        ("float32", torch.float32, 23, False, "float32", ("cpu", "cuda")),
        ("float64", torch.float64, 52, False, "float64", ("cpu", "cuda")),
    ],
)
def test_level(
    level: str,
    dtype: torch.dtype,
    explicit_bits: int,
    scaled: bool,
    evaluation: str,
    devices: tuple[str, ...],
) -> None:
    precision = PRECISIONS[level]
    assert precision.name == level
    assert precision.dtype == dtype
    assert precision.unit_roundoff == 2.0 ** -(explicit_bits + 1)
    assert precision.uses_loss_scaler is scaled
    assert precision.loss_scaler(CPU).is_enabled() is scaled
    assert precision.evaluation is PRECISIONS[evaluation]
    assert precision.devices == devices
    assert precision.cast_batch(torch.ones(2)).dtype == dtype
    model = precision.cast_model(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    assert {name: t.dtype for name, t in model.state_dict().items() if t.dtype != dtype} == {
        "1.num_batches_tracked": torch.int64
    }


def test_there_are_six_levels_and_roundoff_is_that_of_the_type() -> None:
    assert list(PRECISIONS) == ["float16", "bfloat16", "mixed16", "tf32", "float32", "float64"]
    for precision in PRECISIONS.values():
        if not precision.tf32:
            products = precision.autocast or precision.dtype
            assert precision.unit_roundoff == torch.finfo(products).eps / 2


def test_tf32_needs_a_gpu() -> None:
    for use in (PRECISIONS["tf32"].require, lambda device: PRECISIONS["tf32"].arithmetic(device).__enter__()):
        with pytest.raises(ValueError, match=r"precision tf32 needs a device of type .*cuda.*, got cpu"):
            use(CPU)
    PRECISIONS["tf32"].require(torch.device("cuda"))


def test_wide_levels_leave_operations_alone() -> None:
    x = torch.rand(5, dtype=torch.float16)
    for level in ("float32", "float64"):
        with PRECISIONS[level].arithmetic(CPU):
            assert x.sigmoid().dtype == torch.float16


def test_mixed16_multiplies_in_float16_and_keeps_the_rest() -> None:
    linear = nn.Linear(61, 7)
    x = torch.randn(9, 61, generator=torch.Generator().manual_seed(0))
    with PRECISIONS["mixed16"].arithmetic(CPU):
        output = linear(x)
        assert (x + x).dtype == torch.float32
    rounded = [t.half().float() for t in (x, linear.weight, linear.bias)]
    assert_same_bits(output, F.linear(*rounded).half())


# -------------------------------------------------------------------------------------------- backend flags


TF32_SWITCHES = {
    "as they are": "",
    "old names": "torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True",
    "matmul precision": "torch.set_float32_matmul_precision('high')",
    "new names": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "16-bit sums": "torch.backends.cuda.matmul.allow_fp16_accumulation = True",
}


@pytest.fixture(params=TF32_SWITCHES)
def user_flags(request: pytest.FixtureRequest) -> Iterator[dict]:
    """The backend flags after a user switched something on."""
    before = backend_flags()
    exec(TF32_SWITCHES[request.param])
    yield backend_flags()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for name, value in before.items():
        *path, attribute = name.split(".")
        owner = torch.backends
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, attribute, value)
    assert backend_flags() == before


def expected_flags(level: str) -> dict:
    tf32 = ("cuda.matmul.fp32_precision", "cudnn.conv.fp32_precision") if level == "tf32" else ()
    return {
        name: "tf32" if name in tf32 else "ieee" if name.endswith("fp32_precision") else False
        for name in backend_flags()
    }


def old_name_for_tf32() -> bool | str:
    try:
        return torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:  # PyTorch refuses where old and new names disagree.
        return "refused"


@pytest.mark.parametrize("level", PRECISIONS)
def test_flags_are_set_inside_and_restored(level: str, user_flags: dict) -> None:
    device = torch.device("cuda" if level == "tf32" else "cpu")
    before = old_name_for_tf32()
    with PRECISIONS[level].arithmetic(device):
        assert backend_flags() == expected_flags(level)
        with PRECISIONS["float64"].arithmetic(CPU):
            assert backend_flags() == expected_flags("float64")
        assert backend_flags() == expected_flags(level)
    assert backend_flags() == user_flags
    assert old_name_for_tf32() == before


def test_flags_and_arithmetic_are_restored_after_an_error(user_flags: dict) -> None:
    x = torch.rand(5, dtype=torch.float16)
    for level in ("float16", "mixed16", "float32"):
        with pytest.raises(ZeroDivisionError), PRECISIONS[level].arithmetic(CPU):
            raise ZeroDivisionError
        assert backend_flags() == user_flags
        assert not torch.is_autocast_enabled("cpu")
        assert x.sigmoid().dtype == torch.float16


# --------------------------------------------------------------------------------------- a bound on a network


class Bounded(NamedTuple):
    """An exact value in float64, and a bound on the error of the computed one."""

    value: Tensor
    error: Tensor | float

    @property
    def size(self) -> Tensor:
        """A bound on the computed value."""
        return self.value.abs() + self.error


class RunningError:
    """Bounds through a network of values stored with unit roundoff `u`, with sums accumulated in float32."""

    def __init__(self, precision) -> None:
        self.u = precision.unit_roundoff
        self.smallest = torch.finfo(precision.dtype).smallest_normal * torch.finfo(precision.dtype).eps

    def rounded(self, value: Tensor, error: Tensor) -> Bounded:
        """`value` known up to `error`, stored: relative error u, below the normal numbers an absolute one."""
        return Bounded(value, error + self.u * (value.abs() + error) + self.smallest / 2)

    def bilinear(self, product: Callable[..., Tensor], a: Bounded, b: Bounded, terms: int) -> Bounded:
        """A sum of `terms` products: the operands' errors, those of the float32 sum, and one rounding.

        |f(a + da, b + db) - f(a, b)| <= f(|a| + |da|, |b| + |db|) - f(|a|, |b|), entry by entry.
        """
        largest = product(a.size, b.size)
        error = largest - product(a.value.abs(), b.value.abs()) + 2 * terms * U32 * largest
        return self.rounded(product(a.value, b.value), error)


@half_types
def test_gradients_of_a_network_are_within_the_running_error_bound(level: str) -> None:
    """Convolution, ReLU, linear layer, cross-entropy: gradients against float64, each with its bound."""
    precision = PRECISIONS[level]
    d = Operands(precision.dtype, "plain")
    x, labels = d(4, 1, 6, 6), d.labels(4, 10)
    parameters = d(2, 1, 3, 3), d(2), d(10, 32), d(10)
    # Dyadic factors, so that the small weights are representable.
    w1, b1, w2, b2 = (p * factor for p, factor in zip(parameters, (0.25, 0.25, 0.125, 0.125), strict=True))

    leaves = [p.clone().requires_grad_() for p in (w1, b1, w2, b2)]
    with precision.arithmetic(CPU):
        hidden = F.conv2d(x, *leaves[:2]).relu().flatten(1)
        F.cross_entropy(F.linear(hidden, *leaves[2:]), labels).backward()

    exact = [p.double().requires_grad_() for p in (w1, b1, w2, b2)]
    z1 = F.conv2d(x.double(), *exact[:2])
    logits = F.linear(z1.relu().flatten(1), *exact[2:])
    F.cross_entropy(logits, labels).backward()

    bound = RunningError(precision)
    inputs, first, second = (Bounded(t.detach().double(), 0.0) for t in (x, w1, w2))
    with torch.no_grad():
        conv = bound.bilinear(F.conv2d, inputs, first, terms=10)
        z = bound.rounded(z1, conv.error + U32 * z1.abs())
        hidden = Bounded(z.value.relu().flatten(1), z.error.flatten(1))
        z2 = bound.bilinear(F.linear, hidden, second, terms=33)
        # log-softmax moves by at most twice the largest change of the logits; 32 operations in float32.
        log_p = F.log_softmax(logits, 1)
        change = 2 * z2.error.amax(1, keepdim=True) + 32 * U32 * (1 + logits.abs().amax(1, keepdim=True))
        log_p = bound.rounded(log_p, change.expand_as(log_p))
        # The derivative is (p - y) / N, from the stored log p and a stored 1 / N.
        p, y, n = log_p.value.exp(), F.one_hot(labels, 10).double(), len(labels)
        growth = torch.expm1(log_p.error) + 32 * U32
        dz2 = bound.rounded((p - y) / n, (p * growth + bound.u * (p * (1 + growth) + y)) / n)
        dw2 = bound.bilinear(lambda a, b: a.T @ b, dz2, hidden, terms=n)
        db2 = bound.bilinear(lambda a, b: (a * b).sum(0), dz2, Bounded(torch.ones(n, 1).double(), 0.0), terms=n)
        dhidden = bound.bilinear(lambda a, b: a @ b, dz2, second, terms=10)
        # ReLU's mask is uncertain where the error reaches the value.
        mask, uncertain = (z.value > 0).double().flatten(1), (z.value.abs() <= z.error).double().flatten(1)
        dz1 = Bounded(dhidden.value * mask, dhidden.error * mask.maximum(uncertain) + dhidden.size * uncertain)
        dz1 = Bounded(*(t.view_as(z1) for t in dz1))
        dw1 = bound.bilinear(lambda a, b: conv2d_weight(a, w1.shape, b), inputs, dz1, terms=64)
        db1 = bound.bilinear(lambda a, b: (a * b).sum((0, 2, 3)), dz1, Bounded(torch.ones(1).double(), 0.0), 64)

    for leaf, reference, bounded in zip(leaves, exact, (dw1, db1, dw2, db2), strict=True):
        torch.testing.assert_close(bounded.value, reference.grad)
        error = (leaf.grad.double() - reference.grad).abs()
        assert (error <= bounded.error).all()
        assert error.max() > 0
        # The bound says something: it is well below the gradient.
        assert bounded.error.max() < 100 * precision.unit_roundoff * reference.grad.abs().max()


# -------------------------------------------------------------------------------------------------- on a GPU

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def gpu_product(level: str, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """A product of two 256 x 256 matrices at `level`, the exact one, and the product of absolute values."""
    generator = torch.Generator().manual_seed(0)
    precision = PRECISIONS[level]
    a, b = (precision.cast_batch(torch.randn(256, 256, generator=generator)) for _ in range(2))
    with precision.arithmetic(device):
        result = (a.to(device) @ b.to(device)).cpu().double()
    return result, a.double() @ b.double(), a.double().abs() @ b.double().abs()


@needs_gpu
@pytest.mark.parametrize("level", PRECISIONS)
def test_gpu_products_are_within_their_bound(level: str) -> None:
    """Sums in float32 (or float64), operands rounded by TF32 and autocast, results by 16-bit storage."""
    precision = PRECISIONS[level]
    result, exact, absolute = gpu_product(level, torch.device("cuda"))
    u = precision.unit_roundoff
    accumulation = 2 * 256 * (u if level == "float64" else U32)
    rounds_operands = precision.tf32 or precision.autocast is not None
    operands = 2 * u + u**2 if rounds_operands else 0.0
    stores_half = level in ("float16", "bfloat16", "mixed16")
    bound = (operands + accumulation) * absolute
    bound += (u * (exact.abs() + bound) + 2.0**-25) if stores_half else 0.0
    assert ((result - exact).abs() <= bound).all()


@needs_gpu
@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0), reason="needs a GPU with TF32"
)
def test_gpu_tf32_is_off_at_float32_and_on_at_tf32() -> None:
    """A product of 1 + 2**-12 (12 explicit bits) and 1 keeps its last bit in float32 and loses it in TF32."""
    device = torch.device("cuda")
    matrix = torch.full((256, 256), 1 + 2.0**-12, device=device)
    images = matrix.view(4, 64, 16, 16)
    identity = torch.eye(256, device=device)
    kernel = F.pad(torch.eye(64, device=device).view(64, 64, 1, 1), (1, 1, 1, 1))
    for level, kept in (("float32", True), ("tf32", False)):
        with PRECISIONS[level].arithmetic(device):
            products = matrix @ identity, F.conv2d(images, kernel, padding=1)
        for result in products:
            assert result.eq(matrix[0, 0]).all().item() is kept


@needs_gpu
def test_gpu_half_precision_uses_its_own_kernels() -> None:
    x = torch.ones(3, dtype=torch.float16, device="cuda")
    with PRECISIONS["float16"].arithmetic(torch.device("cuda")):
        assert x.sigmoid().dtype == torch.float16
