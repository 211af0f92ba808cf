"""Native, exact and composed max pooling by compiled kernels: the bits and derivatives of the plain paths in less time."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from functools import cache, lru_cache
from types import ModuleType

import torch
from torch import Tensor

from nonsmooth.eager import custom_op
from nonsmooth.pooling.composed import combined, composed_max_pool2d
from nonsmooth.pooling.exact import JacobianProduct
from nonsmooth.pooling.kernels import MOST_POSITIONS, TYPES, Shape, kernels
from nonsmooth.pooling.windows import Geometry

logger = logging.getLogger(__name__)


def can_compile(input: Tensor, geometry: Geometry) -> bool:
    """Whether the functions below can pool `input` on a CPU: contiguous, in windows of 16 positions at most."""
    return input.device.type == "cpu" and _is_covered(input, geometry) and kernels() is not None


def can_compile_on_gpu(input: Tensor, geometry: Geometry, is_composed: bool = False) -> bool:
    """The same on a GPU; there composed pooling has kernels of its own."""
    if not input.is_cuda or not _is_covered(input, geometry) or (on_gpu := gpu_kernels()) is None:
        return False
    _, size = _shape(input.shape, geometry, torch.get_num_threads())
    is_small = max(input.numel(), size.numel()) <= on_gpu.MOST_VALUES
    return is_small and on_gpu.are_right(input.device, input.dtype, tuple(input.shape[-2:]), geometry, is_composed)


def _is_covered(input: Tensor, geometry: Geometry) -> bool:
    return (
        input.dtype in TYPES
        and input.is_contiguous()
        # With one channel both are true, and the layout of PyTorch's output depends on the strides.
        and not input.is_contiguous(memory_format=torch.channels_last)
        and math.prod(geometry.kernel) <= MOST_POSITIONS
        and not input._is_zerotensor()  # without memory
        and not torch.compiler.is_compiling()
    )


@cache
def gpu_kernels() -> ModuleType | None:
    """`triton_kernels`, which takes a while to import; None without Triton, as the log says, or if kernels are switched off."""
    if os.environ.get("NONSMOOTH_COMPILED") == "0":
        return None
    try:
        from nonsmooth.pooling import triton_kernels
    except ImportError as error:
        logger.warning("max pooling runs uncompiled, with the same bits but several times slower: %s", error)
        return None
    return triton_kernels


def is_transformed() -> bool:
    """Whether this is inside a transform of `torch.func`, or of forward-mode differentiation."""
    in_forward_mode = torch.autograd.forward_ad._current_level >= 0
    return in_forward_mode or torch._C._functorch.peek_interpreter_stack() is not None


class CompiledMaxPool2d(torch.autograd.Function):
    """`ExactMaxPool2d` where `can_compile` or `can_compile_on_gpu`, with codes of where the maxima are in place of indices.

    What is differentiated twice or in forward mode is computed by the plain path.
    """

    @staticmethod
    def forward(input: Tensor, geometry: Geometry, beta: float) -> tuple[Tensor, Tensor]:
        return max_pool2d_with_codes(input, *geometry)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        input, ctx.geometry, ctx.beta = inputs
        _, codes = output
        ctx.mark_non_differentiable(codes)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, codes)
        ctx.save_for_forward(input, codes)

    @staticmethod
    def backward(ctx, grad: Tensor | None, _):
        if grad is None:
            return None, None, None
        return _TransposedProduct.apply(grad, *ctx.saved_tensors, ctx.geometry, ctx.beta), None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor | None, *_):
        if tangent is None:
            return None, None
        input, _ = ctx.saved_tensors
        return _product(tangent, input, ctx.geometry, ctx.beta), None


class _TransposedProduct(torch.autograd.Function):
    """The transposed Jacobian times a gradient of the output."""

    @staticmethod
    def forward(grad, input, codes, geometry, beta) -> Tensor:
        return max_pool2d_with_codes_backward(grad, input, codes, *geometry, beta)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, input, codes, ctx.geometry, ctx.beta = inputs
        ctx.save_for_backward(input, codes)
        ctx.save_for_forward(input, codes)

    @staticmethod
    def backward(ctx, grad: Tensor):
        input, _ = ctx.saved_tensors
        return _product(grad, input, ctx.geometry, ctx.beta), None, None, None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor | None, *_):
        if tangent is None:
            return None
        return _TransposedProduct.apply(tangent, *ctx.saved_tensors, ctx.geometry, ctx.beta)


def _product(tangent: Tensor, input: Tensor, geometry: Geometry, beta: float) -> Tensor:
    """The Jacobian times a tangent of the input, by the plain path."""
    values, indices = torch.ops.aten.max_pool2d_with_indices(input.detach(), *geometry)
    return JacobianProduct.apply(tangent, input, values, indices, geometry, beta, False)


class CompiledNativeMaxPool2d(torch.autograd.Function):
    """PyTorch's own max pooling where `can_compile`, the windows tile the input, and nothing `is_transformed`.

    What is differentiated twice is computed by PyTorch. So are windows that overlap: it adds their gradients in the working type.
    """

    @staticmethod
    def forward(ctx, input: Tensor, geometry: Geometry) -> Tensor:
        ctx.geometry = geometry
        output, codes = max_pool2d_with_codes(input, *geometry)
        ctx.save_for_backward(input, codes)
        return output

    @staticmethod
    def backward(ctx, grad: Tensor):
        input, codes = ctx.saved_tensors
        if torch.is_grad_enabled():
            output = torch.nn.functional.max_pool2d(input, *ctx.geometry)
            return torch.autograd.grad(output, input, grad, create_graph=True)[0], None
        return native_with_codes_backward(grad, input, codes, ctx.geometry.kernel), None


class CompiledComposedMaxPool2d(torch.autograd.Function):
    """`composed_max_pool2d` where `can_compile` or `can_compile_on_gpu`, the windows tile the input, and nothing `is_transformed`.

    What is differentiated twice is computed by the plain path.
    """

    @staticmethod
    def forward(ctx, input: Tensor, geometry: Geometry, beta: float) -> Tensor:
        ctx.geometry, ctx.beta = geometry, beta
        output, codes = composed_with_codes(input, geometry.kernel, beta)
        ctx.save_for_backward(input, codes)
        return output

    @staticmethod
    def backward(ctx, grad: Tensor):
        input, codes = ctx.saved_tensors
        if torch.is_grad_enabled():
            output = composed_max_pool2d(input, ctx.geometry, ctx.beta)
            return torch.autograd.grad(output, input, grad, create_graph=True)[0], None, None
        return composed_with_codes_backward(grad, input, codes, ctx.geometry.kernel, ctx.beta), None, None


# Custom operators for the same reason as those of the plain path.


@custom_op("nonsmooth::max_pool2d_with_codes")
def max_pool2d_with_codes(
    input: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> tuple[Tensor, Tensor]:
    """The maxima, as PyTorch returns them, and an int16 for every window with a bit for each position that holds one."""
    geometry = Geometry.of(kernel, stride, padding, dilation, ceil_mode)
    shape, size = _shape(input.shape, geometry, torch.get_num_threads())
    output, codes = input.new_empty(size), input.new_empty(size, dtype=torch.int16)
    if input.is_cuda:
        gpu_kernels().forward(input, output, codes, geometry)
    else:
        kernels().forward[input.dtype](input.data_ptr(), output.data_ptr(), codes.data_ptr(), shape)
    return output, codes


@custom_op("nonsmooth::max_pool2d_with_codes_backward")
def max_pool2d_with_codes_backward(
    grad: Tensor,
    input: Tensor,
    codes: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    beta: float,
) -> Tensor:
    """The transposed hybrid Jacobian times `grad`; `input` says no more than its shape and type."""
    geometry = Geometry.of(kernel, stride, padding, dilation, ceil_mode)
    shape, _ = _shape(input.shape, geometry, torch.get_num_threads())
    grad, result = grad.contiguous(), torch.empty_like(input)
    if grad.is_cuda:
        gpu_kernels().backward(grad, codes, result, geometry, beta)
    else:
        kernels().backward[grad.dtype](grad.data_ptr(), codes.data_ptr(), result.data_ptr(), shape, beta)
    return result


@custom_op("nonsmooth::native_max_pool2d_with_codes_backward")
def native_with_codes_backward(grad: Tensor, input: Tensor, codes: Tensor, kernel: Sequence[int]) -> Tensor:
    """`grad` at PyTorch's argmax, where windows tile the input; `input` says no more than its shape and type."""
    shape, _ = _shape(input.shape, Geometry.of(kernel, None, 0, 1, False), torch.get_num_threads())
    grad, result = grad.contiguous(), torch.empty_like(input)
    kernels().native_backward[grad.dtype](grad.data_ptr(), codes.data_ptr(), result.data_ptr(), shape)
    return result


@custom_op("nonsmooth::composed_max_pool2d_with_codes")
def composed_with_codes(input: Tensor, kernel: Sequence[int], beta: float) -> tuple[Tensor, Tensor]:
    """The combination of two poolings of windows that tile the input, and codes, which are 0 where a window has a NaN."""
    geometry = Geometry.of(kernel, None, 0, 1, False)
    if input.is_cuda:
        native, codes = max_pool2d_with_codes(input, *geometry)
        return combined(native, input, kernel, beta), codes.masked_fill_(native.isnan(), 0)
    shape, size = _shape(input.shape, geometry, torch.get_num_threads())
    output, codes = input.new_empty(size), input.new_empty(size, dtype=torch.int16)
    has_negative_zero = kernels().composed[input.dtype](
        input.data_ptr(), output.data_ptr(), codes.data_ptr(), shape, beta
    )
    if has_negative_zero:
        # Of zeros of both signs in a window each of the two poolings chooses one, in its own way.
        output = composed_max_pool2d(input, geometry, beta)
    return output, codes


@custom_op("nonsmooth::composed_max_pool2d_with_codes_backward")
def composed_with_codes_backward(
    grad: Tensor, input: Tensor, codes: Tensor, kernel: Sequence[int], beta: float
) -> Tensor:
    """The gradient of the input that autodiff computes for the composition; `input` says no more than its shape and type."""
    geometry = Geometry.of(kernel, None, 0, 1, False)
    shape, _ = _shape(input.shape, geometry, torch.get_num_threads())
    grad, result = grad.contiguous(), torch.empty_like(input)
    if grad.is_cuda:
        gpu_kernels().composed_backward(grad, codes, result, geometry, beta)
    else:
        kernels().composed_backward[grad.dtype](grad.data_ptr(), codes.data_ptr(), result.data_ptr(), shape, beta)
    return result


@lru_cache(maxsize=1024)
def _shape(size: torch.Size, geometry: Geometry, threads: int) -> tuple[Shape, torch.Size]:
    """What the kernels want to know, and the size of the output. Raises PyTorch's RuntimeError for a geometry that it refuses."""
    pooled = torch.nn.functional.max_pool2d(torch.empty(size, device="meta"), *geometry).shape
    kernel, stride, padding, dilation, _ = geometry
    planes = math.prod(size[:-2])
    return Shape(planes, *size[-2:], *pooled[-2:], *kernel, *stride, *padding, *dilation, threads), pooled


@max_pool2d_with_codes.register_fake
def _(input, kernel, stride, padding, dilation, ceil_mode) -> tuple[Tensor, Tensor]:
    output, indices = torch.ops.aten.max_pool2d_with_indices(input, kernel, stride, padding, dilation, ceil_mode)
    return output, indices.to(torch.int16)


@max_pool2d_with_codes_backward.register_fake
def _(grad, input, codes, kernel, stride, padding, dilation, ceil_mode, beta) -> Tensor:
    return torch.empty_like(input)


@native_with_codes_backward.register_fake
def _(grad, input, codes, kernel) -> Tensor:
    return torch.empty_like(input)


@composed_with_codes.register_fake
def _(input, kernel, beta) -> tuple[Tensor, Tensor]:
    output, indices = torch.ops.aten.max_pool2d_with_indices(input, kernel)
    return output, indices.to(torch.int16)


@composed_with_codes_backward.register_fake
def _(grad, input, codes, kernel, beta) -> Tensor:
    return torch.empty_like(input)
