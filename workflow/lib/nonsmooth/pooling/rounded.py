"""Values rounded to a number of significant bits that need not be an integer: what is left of them in a coarser arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

from nonsmooth.eager import custom_op
from nonsmooth.pooling.windows import WIDE, round_once


@custom_op("nonsmooth::round_significand")
def round_significand(values: Tensor, bits: float) -> Tensor:
    """The nearest multiple of 2^(floor(log2(abs(x))) + 1 - bits), ties to even, of every x, in float64; then rounded once to
    the type of `values`. Zeros, infinities and NaN stay. Its derivative is set to 1."""
    wide = values.to(WIDE)
    significand = 2 * torch.frexp(wide).mantissa  # 1 <= abs(significand) < 2
    power = wide / significand
    step = 2.0 ** (1 - bits)
    result = (significand / step).round() * step * power
    return round_once(torch.where(wide.isfinite() & (wide != 0), result, wide), values.dtype)


@round_significand.register_fake
def _(values, bits) -> Tensor:
    return torch.empty_like(values)


round_significand.register_autograd(lambda ctx, grad: (grad, None))
