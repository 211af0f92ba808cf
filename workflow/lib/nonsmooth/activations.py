"""ReLU with a chosen derivative at 0.

Over the reals every choice is the same program almost everywhere (Bertoin et al., *Numerical influence of
ReLU'(0) on backpropagation*, NeurIPS 2021). PyTorch's choice is 0.
"""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor, nn

from nonsmooth.modules import replace_modules

__all__ = ["ReLU", "relu", "replace_relus"]


def relu(input: Tensor, derivative: float = 0.0) -> Tensor:
    """`torch.relu(input)`, bit for bit, whose derivative at 0 is `derivative`.

    Args:
        input: any shape, floating dtype and memory layout.
        derivative: a finite number. 0 is PyTorch's own ReLU; outside [0, 1] it leaves the subdifferential.

    The gradient g becomes `derivative * g` at zeros of either sign (PyTorch's product of a tensor and a number: for types
    of 16 bits in float32, then rounded), and PyTorch's elsewhere:
    g where the input is positive or NaN, 0 where it is negative. Can be differentiated again, and in forward mode.

    Raises ValueError for a derivative that is not finite.
    """
    _require_finite(derivative)
    return torch.relu(input) if derivative == 0 else _Relu.apply(input, float(derivative))


class ReLU(nn.Module):
    """`relu` as a module."""

    def __init__(self, derivative: float = 0.0) -> None:
        super().__init__()
        _require_finite(derivative)
        self.derivative = float(derivative)

    def forward(self, input: Tensor) -> Tensor:
        return relu(input, self.derivative)

    def extra_repr(self) -> str:
        return f"derivative={self.derivative:g}"


def replace_relus(model: nn.Module, derivative: float) -> nn.Module:
    """Replace every `torch.nn.ReLU` of `model` by a `ReLU` with this derivative at 0; see `replace_modules`."""
    return replace_modules(model, nn.ReLU, lambda _: ReLU(derivative))


def _require_finite(derivative: float) -> None:
    try:
        is_number = not isinstance(derivative, bool | str) and isfinite(derivative)
    except (TypeError, OverflowError):
        is_number = False
    if not is_number:
        raise ValueError(f"relu: the derivative at 0 must be a finite number, got {derivative!r}")


class _Relu(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, derivative: float) -> Tensor:
        return torch.relu(input)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        input, ctx.derivative = inputs
        # Not the output, which is 0 also where the input is negative.
        ctx.save_for_backward(input)
        ctx.save_for_forward(input)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _times_derivative(grad, ctx.saved_tensors[0], ctx.derivative), None

    @staticmethod
    def jvp(ctx, tangent: Tensor, _):
        return _times_derivative(tangent, ctx.saved_tensors[0], ctx.derivative)


def _times_derivative(tangent: Tensor, input: Tensor, derivative: float) -> Tensor:
    at_zero = tangent if derivative == 1 else tangent * derivative
    return torch.where(input == 0, at_zero, torch.ops.aten.threshold_backward(tangent, input, 0))
