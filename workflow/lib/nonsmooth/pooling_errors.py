"""How far the published pooling is from a maximum: relative errors of its value, and of its gradient where nothing ties.

Measured where it works: at what enters the poolings of a network before training, and at the gradients that arrive there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from nonsmooth import training
from nonsmooth.cells import TrainingCell
from nonsmooth.pooling import MaxPool2d
from nonsmooth.pooling.rounded import round_significand
from nonsmooth.pooling.windows import WIDE
from nonsmooth.precision import PRECISIONS, Precision
from nonsmooth.rules import Hybrid
from nonsmooth.traces import pass_through

CPU = torch.device("cpu")
COLUMNS = (
    "dataset", "architecture", "normalization", "precision", "beta", "layer", "seed", "windows", "nonzero", "untied",
    "forward_error", "forward_error_max", "above_bound", "forward_nonfinite", "backward_error", "backward_error_max",
    "backward_nonfinite", "rounded_error", "bound",
)  # fmt: skip


class Pooling(NamedTuple):
    """One call of a pooling layer: its module, the input x and the gradient g that arrives at its output."""

    module: nn.MaxPool2d
    x: Tensor
    g: Tensor


def composed_errors(cell: TrainingCell, images: Tensor, labels: Tensor, betas: Iterable[float]) -> pd.DataFrame:
    """Errors of composed pooling in every pooling layer of a network with the native rule, at its initial weights.

    Args:
        cell: dataset, architecture, normalization, precision and seed of the network.
        images: a normalised float32 minibatch (N, C, H, W). labels: (N,).
        betas: of the hybrid rule.

    Returns:
        A row per beta and layer, `COLUMNS`. Of `windows`, `nonzero` have a maximum other than 0, and `untied` have one maximum
        and a gradient other than 0. `forward_error` is the mean over the former of abs(output - maximum) / abs(maximum),
        `backward_error` that over the latter of abs(gradient - g) / abs(g), both over what is finite, NaN if nothing is, and computed in
        float64; `_max` are the largest. `forward_nonfinite`, `backward_nonfinite`: how many are not finite although
        maximum or g is. `above_bound`: the share of the finite values whose error is above `bound`, see `forward_bound`.
        `rounded_error`: the mean error of the maxima rounded to p - log2(2 beta) of their p bits; NaN where it is not
        computed, for beta < 1 and in float64.

    Raises:
        ValueError: the windows of a pooling do not tile its input; the CPU cannot do the precision.
    """
    precision = PRECISIONS[cell.precision]
    identity = {name: getattr(cell, name) for name in ("dataset", "architecture", "normalization", "precision")}
    poolings = record_poolings(cell, images, labels)
    rows = [
        {**identity, "beta": beta, "layer": layer, "seed": cell.seed, **layer_errors(pooling, beta, precision)}
        for beta in betas
        for layer, pooling in poolings
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def record_poolings(cell: TrainingCell, images: Tensor, labels: Tensor) -> list[tuple[str, Pooling]]:
    """The calls of poolings in a forward pass of the cell's initial network, in their order, by the name of the layer.

    With a loss scaler the gradients are those of the loss as it is scaled in the first step.
    """
    precision = PRECISIONS[cell.precision]
    model = training.initial_model(cell).train()
    calls: list[tuple[str, nn.MaxPool2d, Tensor, Tensor]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.MaxPool2d):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: calls.append((name, module, *inputs, output))
            )
    with precision.arithmetic(CPU):
        logits = model(precision.cast_batch(images))
        for _, _, _, output in calls:
            output.retain_grad()
        precision.loss_scaler(CPU).scale(training.mean_loss(logits, labels, precision)).backward()
    return [(name, Pooling(module, x.detach(), output.grad)) for name, module, x, output in calls]


def layer_errors(pooling: Pooling, beta: float, precision: Precision) -> dict[str, Any]:
    """The measurements of one layer, by their columns; see `composed_errors`."""
    module, x, g = pooling
    geometry = (module.kernel_size, module.stride, module.padding, module.dilation)
    composed = MaxPool2d(*geometry, ceil_mode=module.ceil_mode, rule=Hybrid(beta, "composed"))
    passed = pass_through(x, g, composed, precision)
    output, received, maximum, count, true = (tensor.numpy() for tensor in (*passed[:4], g.to(WIDE)))
    nonzero = np.isfinite(maximum) & (maximum != 0)
    untied = (count == 1) & np.isfinite(maximum) & np.isfinite(true) & (true != 0)
    bound = forward_bound(beta, precision.unit_roundoff)
    forward = relative_errors(output[nonzero], maximum[nonzero])
    backward = relative_errors(received[untied], true[untied])
    return {
        "windows": maximum.size,
        "nonzero": len(forward),
        "untied": len(backward),
        **_summary("forward", forward),
        **_summary("backward", backward),
        "above_bound": _mean(forward[np.isfinite(forward)] > bound),
        "rounded_error": rounded_error(maximum[nonzero], beta, precision),
        "bound": bound,
    }


def forward_bound(beta: float, unit_roundoff: float) -> float:
    """The largest relative error of fl(fl(beta m) + fl((1 - beta) m)), if nothing over- or underflows: u (abs(beta) + abs(1 - beta)).

    Each product is rounded. Their sum is not for beta >= 2 and beta <= -1, where they are within a factor of 2 of each other and of
    opposite signs (Sterbenz), nor at 0 and 1, where one is 0; in between it adds u, of a sum that is off itself.
    """
    products = unit_roundoff * (abs(beta) + abs(1 - beta))
    is_sum_exact = beta >= 2 or beta <= -1 or beta in (0, 1)
    return products if is_sum_exact else products + unit_roundoff * (1 + products)


def rounded_error(maxima: np.ndarray, beta: float, precision: Precision) -> float:
    """Mean relative error of finite `maxima` other than 0 that are rounded to p - log2(2 beta) of their p bits.

    NaN for beta < 1, which rounds nothing away, and for p = 53, where float64 cannot show it.
    """
    bits = -math.log2(precision.unit_roundoff)
    if beta < 1 or bits >= 53:
        return math.nan
    rounded = round_significand(torch.from_numpy(maxima), bits - math.log2(2 * beta))
    return _mean(relative_errors(rounded.numpy(), maxima))


def relative_errors(values: np.ndarray, true: np.ndarray) -> np.ndarray:
    """abs(value - true) / abs(true) in float64; not finite where `values` is not."""
    return np.abs(values - true) / np.abs(true)


def _summary(name: str, errors: np.ndarray) -> dict[str, Any]:
    """Mean and maximum of the finite errors, and how many are not."""
    finite = errors[np.isfinite(errors)]
    return {
        f"{name}_error": _mean(finite),
        f"{name}_error_max": float(finite.max()) if len(finite) else math.nan,
        f"{name}_nonfinite": len(errors) - len(finite),
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan
