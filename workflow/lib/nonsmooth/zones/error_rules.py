"""How one operation's rounding and the errors of its operands add up in its result.

u is the unit roundoff and gamma(n) = n u / (1 - n u) what n roundings change a number by at most, relative to its size (Higham,
Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). docs/methods.md derives the rule of batch normalization.
A rule is a function of an operation's result and of its positional arguments, with an `Operand` for every tensor. It
returns the bound of the result, float64, or None for options that it does not describe.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, prod
from typing import NamedTuple

import torch
from torch import Tensor

from nonsmooth.pooling.windows import WIDE

aten = torch.ops.aten


class Operand(NamedTuple):
    """A tensor in float64 and the bound of its error; None if it is exact."""

    value: Tensor
    error: Tensor | None

    @property
    def size(self) -> Tensor:
        return self.value.abs()

    @property
    def bound(self) -> Tensor:
        return torch.zeros_like(self.value) if self.error is None else self.error


def _roundoff(result: Tensor) -> float:
    """u: a rounding changes a number by u times its size at most."""
    return torch.finfo(result.dtype).eps / 2


def _underflow(result: Tensor) -> float:
    """The smallest positive number: a product that underflows changes by half of it at most."""
    return torch.finfo(result.dtype).smallest_normal * torch.finfo(result.dtype).eps


def _gamma(count: int, result: Tensor) -> float:
    """What `count` roundings, one after the other, change a number by, relative to its size."""
    relative = count * _roundoff(result)
    return relative / (1 - relative) if relative < 1 else inf


def _sum_of_products(
    result: Tensor,
    a: Operand,
    b: Operand,
    bias: Operand | None,
    product: Callable[[Tensor, Tensor], Tensor],
    terms: int,
) -> Tensor:
    """The bound of sums of `terms` products and a bias: every product goes through `terms` + 1 roundings at most."""
    # Dividing the error and multiplying by gamma in the end saves a second product and small numbers in between.
    gamma = _gamma(terms + 1, result)
    total = product(a.size if a.error is None else a.size + a.error / gamma, b.size)
    if b.error is not None:
        total = total + product(a.size + a.bound, b.error) / gamma
    error = gamma * total + (terms + 2) * _underflow(result)
    return error if bias is None else error + (gamma * bias.size + bias.bound)


def _convolution(result, input, weight, bias, stride, padding, dilation, transposed, output_padding, groups):
    if transposed:
        return None
    if bias is not None:
        bias = Operand(*(None if part is None else _per_channel(part, result) for part in bias))

    terms = prod(weight.value.shape[1:])

    def product(a: Tensor, b: Tensor) -> Tensor:
        # On a CPU float32 is several times as fast, and wide enough for a bound of non-negative numbers that is enlarged by
        # what their rounding, two conversions and underflow can take away. On a GPU it might be TF32.
        narrow = torch.float32 if a.device.type == "cpu" else WIDE
        tiny = torch.finfo(narrow).smallest_normal
        a, b = a.to(narrow) + tiny, b.to(narrow) + tiny
        found = aten.convolution(a, b, None, stride, padding, dilation, False, output_padding, groups).to(WIDE)
        return found * (1 + (terms + 4) * torch.finfo(narrow).eps) + terms * tiny

    return _sum_of_products(result, input, weight, bias, product, terms)


def _mm(result, a, b):
    return _sum_of_products(result, a, b, None, torch.mm, terms=a.value.shape[1])


def _addmm(result, bias, a, b):
    return _sum_of_products(result, a, b, bias, torch.mm, terms=a.value.shape[1])


def _relu(result, input):
    # A value that is negative for certain is exactly 0 afterwards.
    return input.bound.where(input.value > 0, (input.value + input.bound).clamp(min=0))


def _max_pool2d(result, input, *geometry):
    return torch.nn.functional.max_pool2d(input.bound, *geometry)


def _add(result, a, b):
    return _bounded(a, result).bound + _bounded(b, result).bound + _roundoff(result) * result.to(WIDE).abs()


def _mul(result, a, b):
    a, b = _bounded(a, result), _bounded(b, result)
    propagated = a.size * b.bound + a.bound * b.size + a.bound * b.bound
    return propagated + _roundoff(result) * result.to(WIDE).abs() + 4 * _underflow(result)


def _div(result, a, b):
    a, b = _bounded(a, result), _bounded(b, result)
    smallest = b.size - b.bound
    propagated = a.bound / smallest + (a.size / b.size) * (b.bound / smallest)
    error = propagated + _roundoff(result) * result.to(WIDE).abs() + 4 * _underflow(result)
    return error.where(smallest > 0, inf)


def _bounded(value: Operand | float, result: Tensor) -> Operand:
    """An operand; a Python number is rounded to the type of the result."""
    if isinstance(value, Operand):
        return value
    exact = torch.tensor(value, dtype=WIDE, device=result.device)
    return Operand(exact, (exact - exact.to(result.dtype)).abs())


def _cat(result, operands, dim=0):
    return torch.cat([operand.bound for operand in operands], dim)


def _copy(result, target, source, *_):
    return source.bound.expand_as(result)


def copied(result, input):
    return input.bound


def _sum_or_mean(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rule(result, input, *options):
        return _average(result, input, input.value.numel() // max(result.numel(), 1), lambda x: function(x, *options))

    return rule


def _avg_pool2d(result, input, kernel_size, *options):
    if len(options) > 4:  # another divisor
        return None
    terms = kernel_size[0] * kernel_size[-1]
    return _average(result, input, terms, lambda x: aten.avg_pool2d(x, kernel_size, *options))


def _adaptive_avg_pool2d(result, input, size):
    return _average(result, input, prod(input.value.shape[-2:]), lambda x: aten._adaptive_avg_pool2d(x, size))


def _average(result: Tensor, input: Operand, terms: int, average: Callable[[Tensor], Tensor]) -> Tensor:
    """The bound of sums of `terms` values, divided by, or multiplied by the rounded inverse of, an integer."""
    gamma = _gamma(terms + 1, result)
    return gamma * average(input.size + input.bound / gamma) + 2 * _underflow(result)


def _batch_norm(result, input, weight, bias, running_mean, running_var, training, momentum, epsilon):
    if any(operand is not None and operand.error is not None for operand in (weight, bias)):
        return None
    if training:
        mean, mean_error, variance, variance_error, distance = _batch_statistics(result, input)
    else:
        if running_mean.error is not None or running_var.error is not None:
            return None
        mean, variance = (_per_channel(operand.value, result) for operand in (running_mean, running_var))
        mean_error = variance_error = torch.zeros_like(mean)
        distance = (input.value - mean).abs()
    # The relative error of 1 / sqrt(variance + epsilon), times the weight.
    smallest = variance + epsilon - variance_error
    relative = variance_error / smallest
    relative = (relative / (2 * (1 - relative))).where((smallest > 0) & (relative < 1), inf)
    relative = relative + _gamma(7, result) * (1 + relative)
    scale = (1 if weight is None else _per_channel(weight.size, result)) * (1 + relative) / smallest.sqrt()
    # PyTorch computes (x - mean) * scale + bias, or x * scale + (bias - mean * scale), which cancels.
    rounding = _gamma(4, result)
    parts = input.size + mean.abs() + mean_error
    error = scale * (input.bound + mean_error + relative * (distance + input.bound) + rounding * parts)
    if bias is not None:
        error = error + rounding * _per_channel(bias.size, result)
    return error + _underflow(result) * (scale + parts + 4)


def _batch_statistics(result: Tensor, input: Operand) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mean and variance of a batch per channel, the errors of both, and the distances of the values to the mean."""
    dims = [0, *range(2, result.ndim)]

    def average(values: Tensor) -> Tensor:
        return values.mean(dims, keepdim=True)

    count = result.numel() // max(result.shape[1], 1)
    gamma = _gamma(2 * count + 8, result)
    mean = average(input.value)
    mean_error = average(input.bound) + gamma * average(input.size)
    centred = input.value - mean
    distance = centred.abs() + 2 * mean_error  # to the kernel's mean, too
    change = input.bound + _roundoff(result) * distance
    square, input_square = average(distance.square()), average(input.value.square())
    variance_error = (
        gamma * (square * (square + input_square)).sqrt()
        + average(change * (2 * distance + change))
        + mean_error.square()
        + 4 * _underflow(result)
    )
    # A sum of squares that overflows makes a scale of 0, and so a finite result.
    variance_error = variance_error.where(2 * count * square < torch.finfo(result.dtype).max, inf)
    return mean, mean_error, average(centred.square()), variance_error, distance


def _per_channel(values: Tensor, result: Tensor) -> Tensor:
    """`values` (C,) so that they broadcast over `result` (N, C, ...)."""
    return values.reshape(-1, *[1] * (result.ndim - 2))


RULES: dict[str, Callable[..., Tensor | None]] = {
    "_adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "_to_copy": copied,
    "add": _add,
    "addmm": _addmm,
    "avg_pool2d": _avg_pool2d,
    "cat": _cat,
    "clone": copied,
    "convolution": _convolution,
    "copy": _copy,
    "cudnn_batch_norm": _batch_norm,
    "div": _div,
    "max_pool2d_with_codes": _max_pool2d,
    "max_pool2d_with_indices": _max_pool2d,
    "mean": _sum_or_mean(aten.mean),
    "mm": _mm,
    "mul": _mul,
    "native_batch_norm": _batch_norm,
    "relu": _relu,
    "sub": _add,
    "sum": _sum_or_mean(aten.sum),
}
