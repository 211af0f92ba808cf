"""The published program: max pooling composed of two poolings in the working precision."""

from __future__ import annotations

import torch
from torch import Tensor

from nonsmooth.pooling.windows import Geometry, tiled


def composed_max_pool2d(input: Tensor, geometry: Geometry, beta: float) -> Tensor:
    """The published program: a combination of two pooling outputs in the working precision.

    beta and 1 - beta stay Python numbers: as 16-bit tensors 1 - beta would be rounded. The minimal pool is an
    amax, whose gradient PyTorch multiplies by the mask of maxima and divides by their number.
    """
    native = torch.nn.functional.max_pool2d(input, *geometry)
    geometry.require_tiling(input, "evaluation='composed' follows a published program that", " Use evaluation='exact'.")
    minimal = tiled(input, geometry.kernel).amax(dim=(-3, -1))
    return beta * minimal + (1 - beta) * native
