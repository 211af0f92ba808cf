"""Euclidean norms of windows in place of their maxima; no derivative at a window of zeros, where one is chosen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nonsmooth.eager import custom_op
from nonsmooth.pooling.windows import WIDE, round_once, tiled


class NormPool2d(torch.autograd.Function):
    """Euclidean norms of windows that tile the input; once differentiable."""

    @staticmethod
    def forward(ctx, input: Tensor, kernel: tuple[int, int], derivative: float) -> Tensor:
        ctx.save_for_backward(input)
        ctx.kernel, ctx.derivative = kernel, derivative
        return norm_pool(input, kernel)

    @staticmethod
    def backward(ctx, grad: Tensor):
        if torch.is_grad_enabled():  # PyTorch's `once_differentiable` misses that the result depends on the input
            raise RuntimeError("max_pool2d: norms can be differentiated once only, and create_graph=True asks for more")
        return norm_pool_backward(grad, *ctx.saved_tensors, ctx.kernel, ctx.derivative), None, None


@custom_op("nonsmooth::norm_pool2d")
def norm_pool(input: Tensor, kernel: Sequence[int]) -> Tensor:
    _, scale, norm = _scaled_norm(input, kernel)
    return round_once((scale * norm).squeeze(-1).squeeze(-2), input.dtype)


@custom_op("nonsmooth::norm_pool2d_backward")
def norm_pool_backward(grad: Tensor, input: Tensor, kernel: Sequence[int], derivative: float) -> Tensor:
    values, _, norm = _scaled_norm(input, kernel)
    direction = torch.where(norm == 0, derivative, values / norm)
    product = grad.to(WIDE)[..., :, None, :, None] * direction
    result = round_once(product.reshape(input.shape), input.dtype)
    return result if input.is_contiguous() else torch.empty_like(input).copy_(result)


@norm_pool.register_fake
def _(input, kernel) -> Tensor:
    return tiled(input, kernel)[..., 0, :, 0].contiguous()


@norm_pool_backward.register_fake
def _(grad, input, kernel, derivative) -> Tensor:
    return torch.empty_like(input)


def _scaled_norm(input: Tensor, kernel: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Tiled values in float64, divided by a power of two per window so that no square over- or underflows; that power;
    and the norm of the divided values. Dividing by it is exact, and so are squares of types narrower than float64."""
    values = tiled(input.to(WIDE), kernel)
    largest = values.abs().amax(dim=(-3, -1), keepdim=True)
    # The exponent's bits alone: the power of two at or below a normal number.
    scale = (largest.view(torch.int64) & (0x7FF << 52)).view(WIDE)
    scale = scale.clamp(min=torch.finfo(WIDE).tiny).where(largest.isfinite(), 1.0)
    values = values / scale
    return values, scale, values.square().sum(dim=(-3, -1), keepdim=True).sqrt()


def composed_norm_pool2d(input: Tensor, kernel: Sequence[int], derivative: float) -> Tensor:
    """Norms and their derivatives in the working precision, an operation at a time; squares may under- and overflow.

    Where the computed norm is 0 the root's derivative is infinite, and its product with the values not a number. There the root
    is not used, but a function that is 0 and has the derivative asked for.
    """
    values = tiled(input, kernel)
    # Autocast would add in float32, were the type not given.
    squares = (values * values).sum(dim=(-3, -1), dtype=input.dtype)
    is_zero = squares == 0
    roots = squares.masked_fill(is_zero, 1).sqrt()
    # Adding +0 turns -0, from a negative derivative, into +0.
    zeros = derivative * (values - values.detach()).sum(dim=(-3, -1), dtype=input.dtype) + 0.0
    return torch.where(is_zero, zeros, roots)
