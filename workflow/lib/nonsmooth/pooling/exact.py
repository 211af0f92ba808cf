"""Max pooling whose forward pass is PyTorch's and whose Jacobian at ties is the hybrid one, rounded once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nonsmooth.eager import custom_op
from nonsmooth.pooling.windows import WIDE, Geometry, Windows, round_once, select


class ExactMaxPool2d(torch.autograd.Function):
    """Max pooling with the hybrid Jacobian; linear maps below, so it can be differentiated again."""

    @staticmethod
    def forward(input: Tensor, geometry: Geometry, beta: float) -> tuple[Tensor, Tensor]:
        return torch.ops.aten.max_pool2d_with_indices(input, *geometry)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        input, ctx.geometry, ctx.beta = inputs
        values, indices = output
        ctx.mark_non_differentiable(indices)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, values, indices)
        ctx.save_for_forward(input, values, indices)

    @staticmethod
    def backward(ctx, grad: Tensor | None, _):
        if grad is None:
            return None, None, None
        return JacobianProduct.apply(grad, *ctx.saved_tensors, ctx.geometry, ctx.beta, True), None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor | None, *_):
        if tangent is None:
            return None, None
        return JacobianProduct.apply(tangent, *ctx.saved_tensors, ctx.geometry, ctx.beta, False), None


class JacobianProduct(torch.autograd.Function):
    """The Jacobian times a tangent of the input, or its transpose times a gradient of the output."""

    @staticmethod
    def forward(operand, input, output, indices, geometry, beta, transposed) -> Tensor:
        product = transposed_jacobian if transposed else jacobian
        return product(operand, input, output, indices, *geometry[:4], beta)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, input, values, indices, *ctx.settings, ctx.transposed = inputs
        ctx.save_for_backward(input, values, indices)
        ctx.save_for_forward(input, values, indices)

    @staticmethod
    def backward(ctx, grad: Tensor):
        product = JacobianProduct.apply(grad, *ctx.saved_tensors, *ctx.settings, not ctx.transposed)
        return product, None, None, None, None, None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor | None, *_):
        if tangent is None:
            return None
        return JacobianProduct.apply(tangent, *ctx.saved_tensors, *ctx.settings, ctx.transposed)


# Custom operators, so that their inner arithmetic, which is in float64, is one operation to anything that
# watches operations, such as `nonsmooth.precision.RoundOnceOnCpu`.


@custom_op("nonsmooth::max_pool2d_transposed_jacobian")
def transposed_jacobian(
    grad: Tensor,
    input: Tensor,
    output: Tensor,
    indices: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    beta: float,
) -> Tensor:
    geometry = Geometry(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), False)
    windows = Windows(input, output, indices, geometry)
    grad = grad.to(WIDE)
    # Adding +0 turns -0 into +0, which is what PyTorch's accumulation into zeros gives.
    to_chosen = (windows.count - beta * (windows.count - 1)).mul_(grad).div_(windows.count).add_(0.0)
    to_others = (grad * beta).div_(windows.count).add_(0.0)
    if not geometry.overlaps:
        # An input value lies in one window at most, so that rounding before placing it is the one rounding.
        to_chosen, to_others = round_once(to_chosen, input.dtype), round_once(to_others, input.dtype)
    frame = to_others.new_zeros((*input.shape[:-2], *windows.padded_shape))
    views = list(windows.views(frame))
    if geometry.overlaps:
        chosen = list(windows.chosen())
        for maximum, is_chosen, view in zip(windows.maxima, chosen, views, strict=True):
            view += select(maximum & ~is_chosen, to_others)
        # Backwards, so that windows add to a value in scan order, on every device: PyTorch's scatter_add_ has on each its own.
        for is_chosen, view in zip(reversed(chosen), reversed(views), strict=True):
            view += select(is_chosen, to_chosen)
        result = frame[windows.inner].contiguous()
    else:
        for maximum, view in zip(windows.maxima, views, strict=True):
            view.copy_(select(maximum, to_others))
        result = frame[windows.inner].contiguous()
        result.flatten(-2).scatter_(-1, indices.flatten(-2), to_chosen.flatten(-2))
    result = round_once(result, input.dtype)
    return result if input.is_contiguous() else torch.empty_like(input).copy_(result)


@custom_op("nonsmooth::max_pool2d_jacobian")
def jacobian(
    tangent: Tensor,
    input: Tensor,
    output: Tensor,
    indices: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    beta: float,
) -> Tensor:
    geometry = Geometry(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), False)
    windows = Windows(input, output, indices, geometry)
    tangent = tangent.to(WIDE)
    chosen = tangent.flatten(-2).gather(-1, indices.flatten(-2)).view_as(output)
    total = (windows.count - beta * (windows.count - 1)).mul_(chosen)
    frame = windows.padded(tangent, 0.0)
    for maximum, is_chosen, values in zip(windows.maxima, windows.chosen(), windows.views(frame), strict=True):
        total += select(maximum & ~is_chosen, beta * values)
    return round_once(total.div_(windows.count), output.dtype)


@transposed_jacobian.register_fake
def _(grad, input, output, indices, kernel, stride, padding, dilation, beta) -> Tensor:
    return torch.empty_like(input)


@jacobian.register_fake
def _(tangent, input, output, indices, kernel, stride, padding, dilation, beta) -> Tensor:
    return torch.empty_like(output)
