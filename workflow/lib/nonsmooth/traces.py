"""What goes through the poolings of a network while it is trained: the largest activation at every step, and once per epoch
how far their outputs and gradients are from those of the true maximum. Nothing of the training is changed."""

from __future__ import annotations

from math import ceil, nan
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nonsmooth.cells import LAYERS
from nonsmooth.pooling import MaxPool2d
from nonsmooth.pooling.windows import WIDE, Geometry, Windows
from nonsmooth.precision import Precision
from nonsmooth.rules import EVALUATIONS, Hybrid, Minimal, Native, Rule, rule_beta

# Rows of largest activations that a run keeps; more steps share a row.
ACTIVATION_ROWS = 1000


class PoolingTrace:
    """Watches the poolings of a network in training.

    Attributes:
        layers: a row per epoch and pooling, of the epoch's first minibatch: what `pooling_errors` returns.
        activations: a row per pooling and up to `ACTIVATION_ROWS` runs of steps: the largest value that entered it in the steps
            up to `step`, from 1; NaN if one was NaN.
    """

    def __init__(self, model: nn.Module, precision: Precision, device: torch.device, steps: int) -> None:
        """`steps`: of the whole training."""
        self._pools = {name: module for name, module in model.named_modules() if isinstance(module, MaxPool2d)}
        self._precision, self._device = precision, device
        self._steps_per_row = max(1, ceil(steps / ACTIVATION_ROWS))
        self._step = 0
        self._is_close = False
        self._largest: dict[str, list[Tensor]] = {name: [] for name in self._pools}
        self._passed: dict[str, tuple[Tensor, Tensor]] = {}
        self.layers: list[dict[str, Any]] = []
        self.activations: list[dict[str, Any]] = []
        for name, pool in self._pools.items():
            pool.register_forward_hook(lambda module, inputs, output, name=name: self._see(name, *inputs, output))

    def begin_step(self, closely: bool = False) -> None:
        """Before a step's forward pass; `closely` keeps what the poolings get, for `end_step` to look at."""
        self._step += 1
        self._is_close = closely

    def _see(self, name: str, input: Tensor, output: Tensor) -> None:
        if not torch.is_grad_enabled():  # the test pass
            return
        self._largest[name].append(input.detach().amax())
        if self._is_close:
            x = input.detach()
            output.register_hook(lambda grad: self._passed.update({name: (x, grad.detach())}))

    def end_step(self, epoch: int) -> None:
        """After a step's backward pass."""
        for name, (x, grad) in self._passed.items():
            pool = self._pools[name]
            row = pooling_errors(x, grad, pool, self._precision)
            self.layers.append({"epoch": epoch, "step": self._step, "layer": name, **row})
        self._passed.clear()

    def end_epoch(self) -> None:
        """Read what was kept on the device; rows of steps do not cross epochs."""
        for name, kept in self._largest.items():
            if not kept:
                continue
            values = torch.stack(kept).double().cpu()
            first = self._step - len(kept)
            for start in range(0, len(kept), self._steps_per_row):
                part = values[start : start + self._steps_per_row]
                row = {"step": first + start + len(part), "layer": name, "max_activation": part.max().item()}
                self.activations.append(row)
            kept.clear()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` of another trace of the same network takes to go on, between two steps."""
        largest = {name: torch.stack(kept).double().cpu() for name, kept in self._largest.items() if kept}
        return {"step": self._step, "largest": largest, "layers": self.layers, "activations": self.activations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._step = state["step"]
        self.layers, self.activations = list(state["layers"]), list(state["activations"])
        for name, values in state["largest"].items():
            self._largest[name] = list(values.to(self._device))


def pooling_errors(input: Tensor, grad: Tensor, pool: MaxPool2d, precision: Precision) -> dict[str, Any]:
    """What one pooling does to its input and gradient, beside the true maximum.

    Args:
        input: (N, C, H, W), as it enters.
        grad: (N, C, H_out, W_out), the gradient of the output.
        pool: the layer.
        precision: whose arithmetic it runs in.

    Returns:
        `windows`; `tied_above_zero`, those whose maximum is above 0 and there several times; `jacobian_norm`, the mean over these of
        the Euclidean norm of the window's row of the Jacobian; `forward_error` and `forward_error_max`, the mean and largest
        |output - maximum| / |maximum| where the maximum is not 0 and the output finite; `backward_error` and `_max`, likewise of the
        gradient that reaches the maximum of a window which has one; `forward_nonfinite` and `backward_nonfinite`, the windows whose
        maximum or gradient is finite and becomes not finite; `max_activation`, the largest maximum. Errors are computed in
        float64. A mean over nothing, and all errors of a rule that is no max pooling, are NaN.
    """
    output, received, maximum, count, overlaps = pass_through(input, grad, pool, precision)
    is_single, is_tied = count == 1, (count > 1) & (maximum > 0)
    found = {
        "windows": maximum.numel(),
        "tied_above_zero": int(is_tied.sum()),
        "jacobian_norm": _mean(_jacobian_norms(pool.rule, count[is_tied])),
        **dict.fromkeys(LAYERS[6:-1], nan),
        "max_activation": maximum.max().item() if maximum.numel() else nan,
    }
    if isinstance(pool.rule, Native | Minimal | Hybrid):
        # With overlapping windows a value receives from several.
        is_alone = is_single & (not overlaps)
        found |= _errors("forward", output, maximum, torch.ones_like(is_single))
        found |= _errors("backward", received, grad.to(WIDE), is_alone)
    return found


class Passed(NamedTuple):
    """What one pooling makes of its input and gradient, per window and in float64.

    Attributes:
        output: of the pooling. received: the gradient that reaches the maximum that PyTorch chooses.
        maximum: the true one. count: how often it is there.
        overlaps: whether an input value can lie in two windows, so that its gradient is of both.
    """

    output: Tensor
    received: Tensor
    maximum: Tensor
    count: Tensor
    overlaps: bool


def pass_through(input: Tensor, grad: Tensor, pool: MaxPool2d, precision: Precision) -> Passed:
    """A forward and a backward pass through one pooling; arguments as of `pooling_errors`."""
    geometry = Geometry.of(pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    leaf = input.requires_grad_()
    with torch.enable_grad(), precision.arithmetic(input.device):
        output = pool.forward(leaf)  # without the module's hooks
        (gradient,) = torch.autograd.grad(output, leaf, grad)
    input = input.detach().to(WIDE)
    maximum, indices = torch.ops.aten.max_pool2d_with_indices(input, *geometry)
    received = gradient.to(WIDE).flatten(-2).gather(-1, indices.flatten(-2)).view_as(maximum)
    count = Windows(input, maximum, indices, geometry).count
    return Passed(output.detach().to(WIDE), received, maximum, count, geometry.overlaps)


def _errors(name: str, computed: Tensor, true: Tensor, where: Tensor) -> dict[str, Any]:
    is_asked, is_finite = where & true.isfinite(), computed.isfinite()
    relative = ((computed - true).abs() / true.abs())[is_asked & is_finite & (true != 0)]
    return {
        f"{name}_error": _mean(relative),
        f"{name}_error_max": relative.max().item() if len(relative) else nan,
        f"{name}_nonfinite": int((is_asked & ~is_finite).sum()),
    }


def _jacobian_norms(rule: Rule, count: Tensor) -> Tensor:
    """Of a window with k tied maxima: sqrt((1 - c)^2 + c (2 - c) / k), c = 0 for native, 1 for minimal, beta for hybrid."""
    if isinstance(rule, Hybrid) and not EVALUATIONS[rule.evaluation].jacobian:
        rule = Native()
    c = rule_beta(rule)
    return ((1 - c) ** 2 + c * (2 - c) / count).sqrt()


def _mean(values: Tensor) -> float:
    return values.mean().item() if len(values) else nan
