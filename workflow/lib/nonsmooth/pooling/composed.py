"""The published program, max pooling composed of two poolings in the working precision, and what lies between it and exact.

Over the reals the composition is max pooling. In floating point its parts can be told apart: the rounded output, the rounded
gradient of windows without ties, and the Jacobian at ties (`nonsmooth.rules.Evaluation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nonsmooth.pooling.exact import transposed_jacobian
from nonsmooth.pooling.windows import Geometry, round_once, round_to_bits, tiled
from nonsmooth.rules import EVALUATIONS, Evaluation

# Significant bits of the types.
BITS = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24, torch.float64: 53}


def composed_max_pool2d(input: Tensor, geometry: Geometry, beta: float) -> Tensor:
    """The published program: a combination of two pooling outputs in the working precision.

    beta and 1 - beta stay Python numbers: as 16-bit tensors 1 - beta would be rounded. The minimal pool is an
    amax, whose gradient PyTorch multiplies by the mask of maxima and divides by their number.
    """
    native = torch.nn.functional.max_pool2d(input, *geometry)
    geometry.require_tiling(input, "evaluation='composed' follows a published program that", " Use evaluation='exact'.")
    return combined(native, input, geometry.kernel, beta)


def combined(native: Tensor, input: Tensor, kernel: Sequence[int], beta: float) -> Tensor:
    """The published combination of PyTorch's maxima with the minimal pool of windows that tile the input."""
    minimal = tiled(input, kernel).amax(dim=(-3, -1))
    return beta * minimal + (1 - beta) * native


@dataclass(frozen=True)
class Arithmetic:
    """How the operations of a composition are computed and rounded; numbers such as beta stay Python's.

    Attributes:
        stored: type of what goes in and comes out.
        computed: type of the operations.
        bits: what each result is rounded to, without limits of the exponent; None where it is `computed`'s own rounding.
    """

    stored: torch.dtype
    computed: torch.dtype
    bits: int | None = None

    @classmethod
    def of(cls, dtype: torch.dtype, wide: bool, unlimited: bool) -> Arithmetic:
        """That of the working type, of float32 (or wider), or of one of these with an unlimited exponent."""
        operations = torch.promote_types(dtype, torch.float32) if wide else dtype
        return cls(dtype, torch.float64, BITS[operations]) if unlimited else cls(dtype, operations)

    def times(self, number: float, values: Tensor) -> Tensor:
        """`number * values`, as PyTorch multiplies by a number: 16 bits in float32, then rounded."""
        if self.bits is None or self.bits == BITS[torch.float64]:
            return number * values
        in_float32 = torch.tensor(number, dtype=torch.float32).double().item()
        return self.round(round_to_bits(in_float32 * values, BITS[torch.float32]))

    def round(self, values: Tensor) -> Tensor:
        """The result of an operation, rounded."""
        return values if self.bits is None else round_to_bits(values, self.bits)

    def store(self, values: Tensor) -> Tensor:
        """The last result in the working type."""
        return round_once(values, self.stored) if values.dtype == torch.float64 else values.to(self.stored)


class PartlyComposedMaxPool2d(torch.autograd.Function):
    """Max pooling with chosen parts of the published program; once differentiable. With all parts it has its bits."""

    @staticmethod
    def forward(ctx, input: Tensor, kernel: tuple[int, int], beta: float, evaluation: str) -> Tensor:
        parts = EVALUATIONS[evaluation]
        native, indices = torch.ops.aten.max_pool2d_with_indices(input, kernel)
        ctx.save_for_backward(input, native, indices)
        ctx.kernel, ctx.beta, ctx.parts = kernel, beta, parts
        if not parts.forward:
            return native
        arithmetic = Arithmetic.of(input.dtype, parts.wide_forward, parts.unlimited)
        minimal = tiled(input, kernel).amax(dim=(-3, -1))
        combined = arithmetic.times(beta, minimal.to(arithmetic.computed)) + arithmetic.times(
            1 - beta, native.to(arithmetic.computed)
        )
        return arithmetic.store(arithmetic.round(combined))

    @staticmethod
    def backward(ctx, grad: Tensor):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "max_pool2d: this evaluation can be differentiated once only, and create_graph=True asks for more"
            )
        return _gradient(grad, *ctx.saved_tensors, ctx.kernel, ctx.beta, ctx.parts), None, None, None


def _gradient(
    grad: Tensor, input: Tensor, native: Tensor, indices: Tensor, kernel: Sequence[int], beta: float, parts: Evaluation
) -> Tensor:
    """The gradient of the input: composed, exact or native at tied windows, composed or native at the others."""
    if parts.jacobian and not parts.backward:  # exact is native's where a window has one maximum
        return transposed_jacobian(grad, input, native, indices, kernel, kernel, (0, 0), (1, 1), beta)
    geometry = (kernel, kernel, (0, 0), (1, 1), False)
    to_native = torch.ops.aten.max_pool2d_with_indices_backward(grad, input, *geometry, indices)
    if not parts.backward:
        return to_native
    is_maximum = tiled(input, kernel) == _spread(native)
    count = is_maximum.sum(dim=(-3, -1), keepdim=True)
    composed = _composed_gradient(grad, is_maximum, count, input, indices, kernel, beta, parts)
    if parts.jacobian:
        return composed
    is_tied = (count > 1).expand_as(is_maximum).reshape(input.shape)
    return torch.where(is_tied, to_native, composed)


def _composed_gradient(grad, is_maximum, count, input, indices, kernel, beta, parts) -> Tensor:
    """What autodiff makes of the published program: the gradients of both poolings, added.

    A window's maxima get one share each, and PyTorch's argmax the rest on top; so everything is computed once per window and then
    placed. The published program divides by the number of maxima what it multiplied with their mask, so that a NaN's
    window, which has none, is NaN throughout, and so is what is no maximum where the product overflowed.
    """
    arithmetic = Arithmetic.of(grad.dtype, parts.wide, parts.unlimited)
    grad = grad.to(arithmetic.computed)
    count = count.squeeze(-1).squeeze(-2)
    share = arithmetic.round(arithmetic.times(beta, grad) / count).masked_fill(count == 0, torch.nan)
    chosen = arithmetic.store(arithmetic.round(share + arithmetic.times(1 - beta, grad)))
    shares = torch.where(is_maximum, _spread(arithmetic.store(share)), _spread(arithmetic.store(0 * share)))
    shares = shares.reshape(input.shape)
    return shares.flatten(-2).scatter(-1, indices.flatten(-2), chosen.flatten(-2)).view_as(shares)


def _spread(pooled: Tensor) -> Tensor:
    """A value per window, (..., H_out, W_out), beside `tiled`."""
    return pooled[..., :, None, :, None]
