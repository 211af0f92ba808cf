"""Max pooling with a chosen derivative at ties.

All rules agree wherever a window has one maximum, so over the reals they are the same program almost
everywhere. `max_pool2d` is a drop-in for `torch.nn.functional.max_pool2d` with one more argument. Some rules are another
pooling in its place: Euclidean norms, whose derivative is a choice at zero windows only, and smooth poolings.
Definitions: arXiv 2401.02736, and `docs/methods.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nonsmooth.modules import replace_modules
from nonsmooth.pooling.compiled import (
    CompiledComposedMaxPool2d,
    CompiledMaxPool2d,
    CompiledNativeMaxPool2d,
    can_compile,
    can_compile_on_gpu,
    is_transformed,
)
from nonsmooth.pooling.composed import PartlyComposedMaxPool2d, composed_max_pool2d
from nonsmooth.pooling.exact import ExactMaxPool2d
from nonsmooth.pooling.norm import NormPool2d, composed_norm_pool2d
from nonsmooth.pooling.rounded import round_significand
from nonsmooth.pooling.smooth import average_pool2d, boltzmann_pool2d, logsumexp_pool2d
from nonsmooth.pooling.windows import Geometry
from nonsmooth.rules import (
    Average,
    Boltzmann,
    Hybrid,
    LogSumExp,
    Minimal,
    Native,
    Norm,
    Rounded,
    Rule,
    Strided,
    parse_rule,
    rule_beta,
)

__all__ = [
    "Average",
    "Boltzmann",
    "Hybrid",
    "LogSumExp",
    "MaxPool2d",
    "Minimal",
    "Native",
    "Norm",
    "Rounded",
    "Rule",
    "max_pool2d",
    "parse_rule",
    "replace_max_pools",
]

# Rules beyond those of this package, by type: a function of the input and the window geometry.
POOLINGS: dict[type, Callable[[Tensor, Geometry], Tensor]] = {}


def max_pool2d(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    rule: Rule,
) -> Tensor | tuple[Tensor, Tensor]:
    """Max pooling of `input` whose derivative at ties follows `rule`.

    Args:
        input: (N, C, H, W) or (C, H, W), any floating dtype and memory layout; N may be 0.
        kernel_size, stride, padding, dilation, ceil_mode, return_indices: as in
            `torch.nn.functional.max_pool2d`.
        rule: `Native()`, `Minimal()`, `Hybrid(beta, evaluation)`; in place of maxima `Norm(derivative, evaluation)` for norms,
            `Average()`, `Boltzmann(temperature)` or `LogSumExp(temperature)` for smooth poolings; or `Rounded(bits)`.

    Returns:
        The pooled tensor in the dtype of `input`, and PyTorch's argmax with `return_indices`. For native,
        minimal and exact hybrid it is PyTorch's output bit for bit. With k maxima in a window the gradient g
        reaches PyTorch's argmax as `g * (k - beta * (k - 1)) / k` and every other maximum as
        `g * beta / k`, computed in float64 and rounded once (beta = 1 for minimal). +0 and -0 tie; padding
        never ties; a window with a NaN passes its gradient to the NaN that PyTorch chose. With exact `Norm`: the norm ||x||
        of each window, and the gradient `g * x / ||x||`, or `g * derivative` at every entry of a window of zeros, each
        computed in float64 and rounded once. A NaN in a window makes its norm and gradients NaN; an infinity makes the
        norm infinite and the gradient 0 at finite values, NaN at infinite ones. A norm that overflows in the dtype
        of `input` has the gradient of the true norm. With composed `Norm` every operation is in the dtype of `input`:
        the root of the sum of squares, and the gradient `g * x / output`, or `g * derivative` at every entry of a window
        whose output is 0, because its values are or their squares underflow. A norm that overflows has the gradient 0.
        With w_i = exp(x_i / T) / sum(exp(x_j / T)), `Boltzmann(T)` is y = sum(w_i x_i) with the gradient
        `g * w_i * (1 + (x_i - y) / T)`, and `LogSumExp(T)` is T log(mean(exp(x_i / T))) with the gradient `g * w_i`, each computed
        in float64 and rounded once. A NaN in a window makes both NaN; where the maximum is infinite, so is the output, and
        the gradients are NaN; a value of -inf beside finite ones has weight 0. `Average` is PyTorch's `avg_pool2d` without
        padding. `Rounded` is the maximum rounded as that says, with native's gradient.

    Raises:
        ValueError: a `Hybrid` that is not exact, `Norm`, `Boltzmann` or `LogSumExp` with windows that do not tile the input, which
            the published program cannot do; any of these, `Average` or `Rounded` with `return_indices`; `Average` with dilation;
            `Strided`, which has weights; minimal or exact hybrid with a window that holds nothing but padding (possible with
            dilation), where PyTorch's argmax points nowhere.
        RuntimeError, TypeError: from PyTorch, for a geometry or dtype it refuses; what is not a maximum with integers; exact `Norm`,
            `Boltzmann`, `LogSumExp` or a `Hybrid` between exact and composed, differentiated twice.
    """
    geometry = Geometry.of(kernel_size, stride, padding, dilation, ceil_mode)
    match rule:
        case Hybrid(beta=beta, evaluation="composed"):
            if return_indices:
                raise ValueError("max_pool2d: a composed rule has no indices; use evaluation='exact'")
            is_covered = geometry.tiles(input) and not is_transformed()
            if is_covered and (can_compile(input, geometry) or can_compile_on_gpu(input, geometry, is_composed=True)):
                return CompiledComposedMaxPool2d.apply(input, geometry, beta)
            return composed_max_pool2d(input, geometry, beta)
        case Norm(derivative=derivative, evaluation=evaluation):
            if return_indices:
                raise ValueError(f"max_pool2d: rule {rule} has no indices")
            if not input.is_floating_point():
                raise TypeError(f"max_pool2d: rule {rule} needs floating-point input, got {input.dtype}")
            geometry.require_tiling(input, f"rule {rule}")
            norm_pool = composed_norm_pool2d if evaluation == "composed" else NormPool2d.apply
            return norm_pool(input, geometry.kernel, derivative)
        case Hybrid(beta=beta, evaluation=evaluation) if evaluation != "exact":
            if return_indices:
                raise ValueError(f"max_pool2d: rule {rule} has no indices; use evaluation='exact'")
            geometry.require_tiling(input, f"rule {rule}", " Use evaluation='exact'.")
            return PartlyComposedMaxPool2d.apply(input, geometry.kernel, beta, evaluation)
        case Average() | Boltzmann() | LogSumExp() | Rounded() | Strided():
            if return_indices:
                raise ValueError(f"max_pool2d: rule {rule} has no indices")
            return _pool_in_its_place(input, geometry, rule)
        # At beta = 0 no other maximum gets anything, not even 0 * inf.
        case Native() | Hybrid(beta=0):
            is_covered = not return_indices and input.dim() in (3, 4) and geometry.tiles(input) and not is_transformed()
            if is_covered and can_compile(input, geometry):
                return CompiledNativeMaxPool2d.apply(input, geometry)
            return torch.nn.functional.max_pool2d(input, *geometry, return_indices=return_indices)
        case Minimal() | Hybrid():
            geometry.require_input_in_every_window(input)
            if not return_indices and (can_compile(input, geometry) or can_compile_on_gpu(input, geometry)):
                return CompiledMaxPool2d.apply(input, geometry, rule_beta(rule))[0]
            output, indices = ExactMaxPool2d.apply(input, geometry, rule_beta(rule))
        case _ if type(rule) in POOLINGS:
            if return_indices:
                raise ValueError(f"max_pool2d: rule {rule} has no indices")
            return POOLINGS[type(rule)](input, geometry)
        case _:
            raise TypeError(f"max_pool2d: rule must be Native(), Minimal() or Hybrid(beta), got {rule!r}")
    return (output, indices) if return_indices else output


def _pool_in_its_place(input: Tensor, geometry: Geometry, rule: Rule) -> Tensor:
    """What is not a maximum, or one that is rounded."""
    if not input.is_floating_point():
        raise TypeError(f"max_pool2d: rule {rule} needs floating-point input, got {input.dtype}")
    match rule:
        case Average():
            return average_pool2d(input, geometry)
        case Boltzmann(temperature):
            geometry.require_tiling(input, f"rule {rule}")
            return boltzmann_pool2d(input, geometry.kernel, temperature)
        case LogSumExp(temperature):
            geometry.require_tiling(input, f"rule {rule}")
            return logsumexp_pool2d(input, geometry.kernel, temperature)
        case Rounded(bits):
            return round_significand(torch.nn.functional.max_pool2d(input, *geometry), bits)
    raise ValueError(
        f"max_pool2d: rule {rule} is a convolution with weights of its own; nonsmooth.architectures.build makes networks with it"
    )


class MaxPool2d(nn.MaxPool2d):
    """`torch.nn.MaxPool2d` with a backward rule; see `max_pool2d`."""

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        rule: Rule,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)
        self.rule = rule

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
            rule=self.rule,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rule={self.rule}"


def replace_max_pools(model: nn.Module, rule: Rule) -> nn.Module:
    """Replace every `torch.nn.MaxPool2d` of `model` by one with `rule`; see `replace_modules`."""
    return replace_modules(
        model,
        nn.MaxPool2d,
        lambda pool: MaxPool2d(
            pool.kernel_size,
            pool.stride,
            pool.padding,
            pool.dilation,
            pool.return_indices,
            pool.ceil_mode,
            rule=rule,
        ),
    )
