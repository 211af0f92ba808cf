"""Tied window maxima in one image: where the derivative of max pooling is a choice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from nonsmooth import training
from nonsmooth.cells import TrainingCell
from nonsmooth.precision import PRECISIONS


def find_ties(image: torch.Tensor, model: nn.Module, precision_name: str) -> dict[str, np.ndarray]:
    """The tied maxima in the windows of a network's first max pooling, for one image.

    Args:
        image: normalised float32 (C, H, W).
        model: a float32 network; it is cast to the precision in place.

    Returns:
        `activations` (channels, H', W') float64: the input of the pooling; `tied` of the same shape: is it one
        of k > 1 equal maxima of its window; `maxima` and `count` (channels, rows, columns): the value and
        the number k of maxima of each window.
    """
    precision = PRECISIONS[precision_name]
    seen: list[tuple[nn.MaxPool2d, torch.Tensor]] = []
    precision.cast_model(model).eval()
    pool = next(module for module in model.modules() if isinstance(module, nn.MaxPool2d))
    hook = pool.register_forward_pre_hook(lambda module, inputs: seen.append((module, inputs[0].detach())))
    with torch.no_grad(), precision.arithmetic(torch.device("cpu")):
        model(precision.cast_batch(image[None]))
    hook.remove()
    values = seen[0][1][0].double()
    kernel, stride, padding, dilation = (
        (n, n) if isinstance(n, int) else tuple(n) for n in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    )
    size = kernel[0]
    is_tiled = (kernel, stride, padding, dilation) == ((size, size), (size, size), (0, 0), (1, 1))
    if not is_tiled or any(n % size for n in values.shape[-2:]):
        raise ValueError("ties: only for square windows that tile their input")
    windows = values.unfold(-2, size, size).unfold(-2, size, size)
    maxima = windows.amax((-2, -1))
    is_maximum = values == maxima.repeat_interleave(size, -2).repeat_interleave(size, -1)
    count = (windows == maxima[..., None, None]).sum((-2, -1))
    is_tied = is_maximum & (count > 1).repeat_interleave(size, -2).repeat_interleave(size, -1)
    arrays = {"activations": values, "tied": is_tied, "maxima": maxima, "count": count}
    return {name: array.numpy() for name, array in arrays.items()}


def tie_counts(measured: dict[str, dict[str, np.ndarray]]) -> pd.DataFrame:
    """Per precision: windows, tied windows, tied at zero, tied above zero, and the mean size of a tie."""
    rows: list[dict[str, Any]] = []
    for precision, arrays in measured.items():
        tied = arrays["count"] > 1
        rows.append(
            {
                "precision": precision,
                "windows": tied.size,
                "tied": int(tied.sum()),
                "tied_at_zero": int((tied & (arrays["maxima"] == 0)).sum()),
                "tied_above_zero": int((tied & (arrays["maxima"] > 0)).sum()),
                "mean_size_of_ties": float(arrays["count"][tied].mean()) if tied.any() else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def initial_network(architecture: str, dataset: str, seed: int) -> nn.Module:
    """The network that a cell with this seed starts from, in float32 with the native rule and no normalization."""
    return training.initial_model(TrainingCell(dataset=dataset, architecture=architecture, seed=seed))
