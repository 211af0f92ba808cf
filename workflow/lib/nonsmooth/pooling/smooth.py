"""Smooth poolings in place of the maximum, each computed in float64 and rounded once.

`boltzmann` is the mean of a window's values with weights exp(x / T), `logsumexp` is T log(mean(exp(x / T))). Values enter as
differences from the window's maximum, so that no exponential overflows and equal values are their own mean, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nonsmooth.eager import custom_op
from nonsmooth.pooling.windows import WIDE, Geometry, round_once, tiled


def average_pool2d(input: Tensor, geometry: Geometry) -> Tensor:
    """PyTorch's average pooling, in which padding does not count. Raises ValueError for dilation, which that has not."""
    if geometry.dilation != (1, 1):
        raise ValueError(f"max_pool2d: rule average needs dilation 1, got {geometry.dilation}")
    return torch.nn.functional.avg_pool2d(
        input, geometry.kernel, geometry.stride, geometry.padding, geometry.ceil_mode, count_include_pad=False
    )


@custom_op("nonsmooth::boltzmann_pool2d")
def boltzmann_pool2d(input: Tensor, kernel: Sequence[int], temperature: float) -> Tensor:
    largest, below, weights = _weighted(input, kernel, temperature)
    return _pooled(largest, _product(weights, below).sum(dim=0), input)


@custom_op("nonsmooth::boltzmann_pool2d_backward")
def boltzmann_pool2d_backward(grad: Tensor, input: Tensor, kernel: Sequence[int], temperature: float) -> Tensor:
    _, below, weights = _weighted(input, kernel, temperature)
    mean = _product(weights, below).sum(dim=0)
    return _gradient(grad, _product(weights, 1 + (below - mean) / temperature), input, kernel)


@custom_op("nonsmooth::logsumexp_pool2d")
def logsumexp_pool2d(input: Tensor, kernel: Sequence[int], temperature: float) -> Tensor:
    largest, below = _below_largest(input, kernel)
    # Of 1 less than the exponentials, so that nothing cancels at a high temperature, where all are close to 1.
    mean = (below / temperature).expm1().mean(dim=0)
    return _pooled(largest, temperature * mean.log1p(), input)


@custom_op("nonsmooth::logsumexp_pool2d_backward")
def logsumexp_pool2d_backward(grad: Tensor, input: Tensor, kernel: Sequence[int], temperature: float) -> Tensor:
    _, _, weights = _weighted(input, kernel, temperature)
    return _gradient(grad, weights, input, kernel)


def _below_largest(input: Tensor, kernel: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The maximum of each window, and the values less that, with the positions in a window as dimension 0: not a number at
    infinities where the maximum is one."""
    # In this layout sums are fast, and have one order whatever the layout of the input.
    values = tiled(input.to(WIDE), kernel).movedim((-3, -1), (0, 1)).contiguous().flatten(0, 1)
    largest = values.amax(dim=0)
    return largest, values - largest


def _weighted(input: Tensor, kernel: Sequence[int], temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """`_below_largest`, and weights exp(x / T) divided by their sum, all of a window NaN where its maximum is not finite."""
    largest, below = _below_largest(input, kernel)
    exponentials = (below / temperature).exp()
    return largest, below, exponentials / exponentials.sum(dim=0)


def _product(weights: Tensor, factors: Tensor) -> Tensor:
    """Weights times factors; a weight of 0 makes 0 also of an infinite factor, which it outweighs in the limit."""
    return (weights * factors).masked_fill(weights == 0, 0.0)


def _pooled(largest: Tensor, shift: Tensor, input: Tensor) -> Tensor:
    """The maximum plus `shift`, rounded to the type of `input`; an infinite maximum stays."""
    return round_once(torch.where(largest.isinf(), largest, largest + shift), input.dtype)


def _gradient(grad: Tensor, slope: Tensor, input: Tensor, kernel: Sequence[int]) -> Tensor:
    """`grad` times the derivative `slope`, rounded to the type of `input`, in its place there and laid out like it."""
    product = round_once(grad.to(WIDE) * slope, input.dtype)
    result = product.unflatten(0, tuple(kernel)).movedim((0, 1), (-3, -1)).reshape(input.shape)
    return result if input.is_contiguous() else torch.empty_like(input).copy_(result)


def _save(ctx, inputs: tuple[Tensor, Sequence[int], float], output: Tensor) -> None:
    input, ctx.kernel, ctx.temperature = inputs
    ctx.save_for_backward(input)


for pool, pool_backward in (
    (boltzmann_pool2d, boltzmann_pool2d_backward),
    (logsumexp_pool2d, logsumexp_pool2d_backward),
):
    pool.register_fake(lambda input, kernel, temperature: tiled(input, kernel)[..., 0, :, 0].contiguous())
    pool_backward.register_fake(lambda grad, input, kernel, temperature: torch.empty_like(input))
    # Once differentiable: the operators of the backward passes have no derivative, and PyTorch says so.
    pool.register_autograd(
        lambda ctx, grad, backward=pool_backward: (
            backward(grad, *ctx.saved_tensors, ctx.kernel, ctx.temperature), None, None,
        ),
        setup_context=_save,
    )  # fmt: skip
