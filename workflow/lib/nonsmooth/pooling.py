"""Max pooling with a chosen derivative at ties.

All rules agree wherever a window has one maximum, so over the reals they are the same program almost
everywhere. `max_pool2d` is a drop-in for `torch.nn.functional.max_pool2d` with one more argument. One rule is another
pooling in its place: Euclidean norms, whose derivative is a choice at zero windows only.
Definitions: arXiv 2401.02736, and `docs/methods.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nonsmooth.modules import replace_modules
from nonsmooth.rules import Hybrid, Minimal, Native, Norm, Rule, parse_rule, rule_beta

__all__ = ["Hybrid", "MaxPool2d", "Minimal", "Native", "Norm", "Rule", "max_pool2d", "parse_rule", "replace_max_pools"]

# The Jacobian is applied in this type and the result is rounded to the working type once.
WIDE = torch.float64

# Rules beyond those of this module, by type: a function of the input and the window geometry.
POOLINGS: dict[type, Callable[[Tensor, _Geometry], Tensor]] = {}


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
        rule: `Native()`, `Minimal()`, `Hybrid(beta, evaluation)`, or `Norm(derivative, evaluation)` for norms in place of
            maxima.

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

    Raises:
        ValueError: `Hybrid(evaluation="composed")` or `Norm` with windows that do not tile the input, which the
            published program cannot do, or with `return_indices`; minimal or exact hybrid with a window that
            holds nothing but padding (possible with dilation), where PyTorch's argmax points nowhere.
        RuntimeError, TypeError: from PyTorch, for a geometry or dtype it refuses; `Norm` with integers, or exact and
            differentiated with create_graph=True.
    """
    geometry = _Geometry.of(kernel_size, stride, padding, dilation, ceil_mode)
    match rule:
        case Hybrid(beta=beta, evaluation="composed"):
            if return_indices:
                raise ValueError("max_pool2d: a composed rule has no indices; use evaluation='exact'")
            return _composed(input, geometry, beta)
        case Norm(derivative=derivative, evaluation=evaluation):
            if return_indices:
                raise ValueError(f"max_pool2d: rule {rule} has no indices")
            if not input.is_floating_point():
                raise TypeError(f"max_pool2d: rule {rule} needs floating-point input, got {input.dtype}")
            geometry.require_tiling(input, f"rule {rule}")
            norm_pool = _composed_norm if evaluation == "composed" else _NormPool2d.apply
            return norm_pool(input, geometry.kernel, derivative)
        # At beta = 0 no other maximum gets anything, not even 0 * inf.
        case Native() | Hybrid(beta=0):
            return torch.nn.functional.max_pool2d(input, *geometry, return_indices=return_indices)
        case Minimal() | Hybrid():
            geometry.require_input_in_every_window(input)
            output, indices = _ExactMaxPool2d.apply(input, geometry, rule_beta(rule))
        case _ if type(rule) in POOLINGS:
            if return_indices:
                raise ValueError(f"max_pool2d: rule {rule} has no indices")
            return POOLINGS[type(rule)](input, geometry)
        case _:
            raise TypeError(f"max_pool2d: rule must be Native(), Minimal() or Hybrid(beta), got {rule!r}")
    return (output, indices) if return_indices else output


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


class _Geometry(NamedTuple):
    """Window geometry in the order of PyTorch's arguments."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    ceil_mode: bool

    @classmethod
    def of(cls, kernel_size, stride, padding, dilation, ceil_mode) -> _Geometry:
        kernel = _pair(kernel_size)
        has_stride = stride is not None and (isinstance(stride, int) or len(stride) > 0)
        return cls(kernel, _pair(stride) if has_stride else kernel, _pair(padding), _pair(dilation), bool(ceil_mode))

    @property
    def overlaps(self) -> bool:
        """Whether an input value can lie in two windows (a safe yes for interleaved dilated windows)."""
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        return any(span > stride for span, stride in zip(spans, self.stride, strict=True))

    def require_tiling(self, input: Tensor, what: str, remedy: str = "") -> None:
        """Raises ValueError unless the windows lie side by side and cover the input; the message begins with `what`."""
        height, width = input.shape[-2:]
        (kh, kw), stride, padding, dilation, _ = self
        is_plain = stride == self.kernel and padding == (0, 0) and dilation == (1, 1)
        if not (is_plain and min(kh, kw) > 0 and height % kh == 0 and width % kw == 0):
            raise ValueError(
                f"max_pool2d: {what} needs stride = kernel_size, no padding, no dilation and windows that tile the input; "
                f"got kernel_size={self.kernel}, stride={stride}, padding={padding}, dilation={dilation} on "
                f"{height} x {width}.{remedy}"
            )

    def require_input_in_every_window(self, input: Tensor) -> None:
        """Raises ValueError if a window lies in the padding altogether, which takes dilation and padding."""
        for size, kernel, stride, padding, dilation in zip(input.shape[-2:], *self[:4], strict=True):
            if padding == 0 or dilation == 1:
                continue
            # A window begins in the left padding or in the image; only the former can miss the image.
            for start in range(-padding, 0, stride):
                positions = range(start, start + kernel * dilation, dilation)
                if positions[-1] >= size + padding and not self.ceil_mode:
                    break  # the output ends before this window
                if not any(0 <= position < size for position in positions):
                    raise ValueError(
                        f"max_pool2d: with kernel_size={self.kernel}, stride={self.stride}, padding={self.padding}, "
                        f"dilation={self.dilation} a window on {tuple(input.shape[-2:])} holds nothing but padding, and "
                        "its maximum has no derivative"
                    )


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    if len(values) not in (1, 2):
        raise ValueError(f"max_pool2d: expected one or two integers, got {value!r}")
    return (values[0], values[-1])


class _Windows:
    """The windows of a pooling, one kernel position at a time.

    Everything is laid out like the output, (..., H_out, W_out): for each of the kh * kw positions of the
    kernel, in scan order, a strided view holds the input value that every window sees there. Positions in
    the padding read as NaN, which equals nothing, so that padding never ties.
    """

    def __init__(self, input: Tensor, output: Tensor, indices: Tensor, geometry: _Geometry) -> None:
        self.output, self.indices, self.geometry = output, indices, geometry
        height, width = input.shape[-2:]
        # One past the last row and column that any window reaches, in padded coordinates.
        reach = [
            (n - 1) * s + (k - 1) * d + 1
            for n, k, s, d in zip(output.shape[-2:], geometry.kernel, geometry.stride, geometry.dilation, strict=True)
        ]
        top, left = geometry.padding
        self.padded_shape = (max(reach[0], top + height), max(reach[1], left + width))
        self.inner = (..., slice(top, top + height), slice(left, left + width))
        self.is_padded = self.padded_shape != (height, width)
        self.width = width

        # Whether each kernel position holds a maximum. A window with a NaN has none here, and so k = 1.
        frame = self.padded(input, float("nan"))
        self.maxima = [values == output for values in self.views(frame)]
        count = torch.zeros_like(indices, dtype=torch.int32)
        for maximum in self.maxima:
            count += maximum
        self.count = count.clamp_(min=1).to(WIDE)

    def padded(self, tensor: Tensor, value: float) -> Tensor:
        """`tensor`, shaped like the input, in a frame of `value` that every window fits into."""
        if not self.is_padded:
            return tensor
        frame = tensor.new_full((*tensor.shape[:-2], *self.padded_shape), value)
        frame[self.inner] = tensor
        return frame

    def views(self, frame: Tensor) -> Iterator[Tensor]:
        """For each kernel position in scan order, the view of a padded tensor that the windows see there."""
        (kh, kw), (sh, sw), _, (dh, dw), _ = self.geometry
        rows, columns = self.output.shape[-2:]
        for i in range(kh):
            for j in range(kw):
                yield frame[
                    ...,
                    i * dh : i * dh + (rows - 1) * sh + 1 : sh,
                    j * dw : j * dw + (columns - 1) * sw + 1 : sw,
                ]

    def others(self) -> Iterator[Tensor]:
        """For each kernel position: is it a maximum that PyTorch's argmax did not choose."""
        (_, kw), (sh, sw), (top, left), (dh, dw), _ = self.geometry
        rows, columns = self.output.shape[-2:]
        device = self.indices.device
        row = self.indices.div(self.width, rounding_mode="floor")
        column = self.indices - row * self.width
        row -= torch.arange(rows, device=device).mul_(sh).sub_(top)[:, None]
        column -= torch.arange(columns, device=device).mul_(sw).sub_(left)
        for position, maximum in enumerate(self.maxima):
            i, j = divmod(position, kw)
            yield maximum & ((row != i * dh) | (column != j * dw))


class _ExactMaxPool2d(torch.autograd.Function):
    """Max pooling with the hybrid Jacobian; linear maps below, so it can be differentiated again."""

    @staticmethod
    def forward(input: Tensor, geometry: _Geometry, beta: float) -> tuple[Tensor, Tensor]:
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
        return _JacobianProduct.apply(grad, *ctx.saved_tensors, ctx.geometry, ctx.beta, True), None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor | None, *_):
        if tangent is None:
            return None, None
        return _JacobianProduct.apply(tangent, *ctx.saved_tensors, ctx.geometry, ctx.beta, False), None


class _JacobianProduct(torch.autograd.Function):
    """The Jacobian times a tangent of the input, or its transpose times a gradient of the output."""

    @staticmethod
    def forward(operand, input, output, indices, geometry, beta, transposed) -> Tensor:
        product = _transposed_jacobian if transposed else _jacobian
        return product(operand, input, output, indices, *geometry[:4], beta)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, input, values, indices, *ctx.settings, ctx.transposed = inputs
        ctx.save_for_backward(input, values, indices)
        ctx.save_for_forward(input, values, indices)

    @staticmethod
    def backward(ctx, grad: Tensor):
        product = _JacobianProduct.apply(grad, *ctx.saved_tensors, *ctx.settings, not ctx.transposed)
        return product, None, None, None, None, None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor | None, *_):
        if tangent is None:
            return None
        return _JacobianProduct.apply(tangent, *ctx.saved_tensors, *ctx.settings, ctx.transposed)


# Custom operators, so that their inner arithmetic, which is in float64, is one operation to anything that
# watches operations, such as `nonsmooth.precision.RoundOnceOnCpu`.


@torch.library.custom_op("nonsmooth::max_pool2d_transposed_jacobian", mutates_args=())
def _transposed_jacobian(
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
    geometry = _Geometry(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), False)
    windows = _Windows(input, output, indices, geometry)
    grad = grad.to(WIDE)
    # Adding +0 turns -0 into +0, which is what PyTorch's accumulation into zeros gives.
    to_chosen = (windows.count - beta * (windows.count - 1)).mul_(grad).div_(windows.count).add_(0.0)
    to_others = (grad * beta).div_(windows.count).add_(0.0)
    if not geometry.overlaps:
        # An input value lies in one window at most, so that rounding before placing it is the one rounding.
        to_chosen, to_others = _round(to_chosen, input.dtype), _round(to_others, input.dtype)
    frame = to_others.new_zeros((*input.shape[:-2], *windows.padded_shape))
    if geometry.overlaps:
        for other, view in zip(windows.others(), windows.views(frame), strict=True):
            view += _select(other, to_others)
    else:
        for maximum, view in zip(windows.maxima, windows.views(frame), strict=True):
            view.copy_(_select(maximum, to_others))
    result = frame[windows.inner].contiguous()
    place = Tensor.scatter_add_ if geometry.overlaps else Tensor.scatter_
    place(result.flatten(-2), -1, indices.flatten(-2), to_chosen.flatten(-2))
    result = _round(result, input.dtype)
    return result if input.is_contiguous() else torch.empty_like(input).copy_(result)


@torch.library.custom_op("nonsmooth::max_pool2d_jacobian", mutates_args=())
def _jacobian(
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
    geometry = _Geometry(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), False)
    windows = _Windows(input, output, indices, geometry)
    tangent = tangent.to(WIDE)
    chosen = tangent.flatten(-2).gather(-1, indices.flatten(-2)).view_as(output)
    total = (windows.count - beta * (windows.count - 1)).mul_(chosen)
    frame = windows.padded(tangent, 0.0)
    for other, values in zip(windows.others(), windows.views(frame), strict=True):
        total += _select(other, beta * values)
    return _round(total.div_(windows.count), output.dtype)


@_transposed_jacobian.register_fake
def _(grad, input, output, indices, kernel, stride, padding, dilation, beta) -> Tensor:
    return torch.empty_like(input)


@_jacobian.register_fake
def _(tangent, input, output, indices, kernel, stride, padding, dilation, beta) -> Tensor:
    return torch.empty_like(output)


def _select(mask: Tensor, values: Tensor) -> Tensor:
    """`values` where `mask`, else +0: a product of bit patterns, faster than `where` and safe for inf and NaN."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    return (values.view(bits) * mask).view(values.dtype)


def _round(values: Tensor, dtype: torch.dtype) -> Tensor:
    """`values` rounded once, to nearest even.

    PyTorch converts float64 to 16 bits through float32, which rounds twice. So the significand is cut to a few more
    bits than `dtype` has, the last of which says whether anything was cut (rounding to odd): exact in
    float32, also below its normal range, and enough for the one rounding that follows.
    """
    kept_bits = {torch.float16: 15, torch.bfloat16: 12}.get(dtype)
    if kept_bits is None or values.dtype != torch.float64:
        return values.to(dtype)
    cut = (1 << (53 - kept_bits)) - 1  # the bits to cut
    bits = values.view(torch.int64)
    is_cut = (bits & cut).add_(cut).bitwise_and_(cut + 1)  # their sum carries into the last kept bit, or not
    return is_cut.bitwise_or_(bits & ~cut).view(torch.float64).to(torch.float32).to(dtype)


def _composed(input: Tensor, geometry: _Geometry, beta: float) -> Tensor:
    """The published program: a combination of two pooling outputs in the working precision.

    beta and 1 - beta stay Python numbers: as 16-bit tensors 1 - beta would be rounded. The minimal pool is an
    amax, whose gradient PyTorch multiplies by the mask of maxima and divides by their number.
    """
    native = torch.nn.functional.max_pool2d(input, *geometry)
    geometry.require_tiling(input, "evaluation='composed' follows a published program that", " Use evaluation='exact'.")
    minimal = _tiled(input, geometry.kernel).amax(dim=(-3, -1))
    return beta * minimal + (1 - beta) * native


def _tiled(input: Tensor, kernel: Sequence[int]) -> Tensor:
    """(..., H, W) as (..., H / kh, kh, W / kw, kw): the windows that tile it are dimensions -3 and -1."""
    (kh, kw), (height, width) = kernel, input.shape[-2:]
    return input.reshape(*input.shape[:-2], height // kh, kh, width // kw, kw)


class _NormPool2d(torch.autograd.Function):
    """Euclidean norms of windows that tile the input; once differentiable."""

    @staticmethod
    def forward(ctx, input: Tensor, kernel: tuple[int, int], derivative: float) -> Tensor:
        ctx.save_for_backward(input)
        ctx.kernel, ctx.derivative = kernel, derivative
        return _norm_pool(input, kernel)

    @staticmethod
    def backward(ctx, grad: Tensor):
        if torch.is_grad_enabled():  # PyTorch's `once_differentiable` misses that the result depends on the input
            raise RuntimeError("max_pool2d: norms can be differentiated once only, and create_graph=True asks for more")
        return _norm_pool_backward(grad, *ctx.saved_tensors, ctx.kernel, ctx.derivative), None, None


@torch.library.custom_op("nonsmooth::norm_pool2d", mutates_args=())
def _norm_pool(input: Tensor, kernel: Sequence[int]) -> Tensor:
    _, scale, norm = _scaled_norm(input, kernel)
    return _round((scale * norm).squeeze(-1).squeeze(-2), input.dtype)


@torch.library.custom_op("nonsmooth::norm_pool2d_backward", mutates_args=())
def _norm_pool_backward(grad: Tensor, input: Tensor, kernel: Sequence[int], derivative: float) -> Tensor:
    values, _, norm = _scaled_norm(input, kernel)
    direction = torch.where(norm == 0, derivative, values / norm)
    product = grad.to(WIDE)[..., :, None, :, None] * direction
    result = _round(product.reshape(input.shape), input.dtype)
    return result if input.is_contiguous() else torch.empty_like(input).copy_(result)


@_norm_pool.register_fake
def _(input, kernel) -> Tensor:
    return _tiled(input, kernel)[..., 0, :, 0].contiguous()


@_norm_pool_backward.register_fake
def _(grad, input, kernel, derivative) -> Tensor:
    return torch.empty_like(input)


def _scaled_norm(input: Tensor, kernel: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Tiled values in float64, divided by a power of two per window so that no square over- or underflows; that power;
    and the norm of the divided values. Dividing by it is exact, and so are squares of types narrower than float64."""
    values = _tiled(input.to(WIDE), kernel)
    largest = values.abs().amax(dim=(-3, -1), keepdim=True)
    # The exponent's bits alone: the power of two at or below a normal number.
    scale = (largest.view(torch.int64) & (0x7FF << 52)).view(WIDE)
    scale = scale.clamp(min=torch.finfo(WIDE).tiny).where(largest.isfinite(), 1.0)
    values = values / scale
    return values, scale, values.square().sum(dim=(-3, -1), keepdim=True).sqrt()


def _composed_norm(input: Tensor, kernel: Sequence[int], derivative: float) -> Tensor:
    """Norms and their derivatives in the working precision, an operation at a time; squares may under- and overflow.

    Where the computed norm is 0 the root's derivative is infinite, and its product with the values not a number. There the root
    is not used, but a function that is 0 and has the derivative asked for.
    """
    values = _tiled(input, kernel)
    # Autocast would add in float32, were the type not given.
    squares = (values * values).sum(dim=(-3, -1), dtype=input.dtype)
    is_zero = squares == 0
    roots = squares.masked_fill(is_zero, 1).sqrt()
    # Adding +0 turns -0, from a negative derivative, into +0.
    zeros = derivative * (values - values.detach()).sum(dim=(-3, -1), dtype=input.dtype) + 0.0
    return torch.where(is_zero, zeros, roots)
