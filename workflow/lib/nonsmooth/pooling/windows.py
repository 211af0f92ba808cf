"""The windows of a pooling, and the arithmetic that all poolings share: one rounding, and selection without arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Jacobians are applied in this type and the result is rounded to the working type once.
WIDE = torch.float64


class Geometry(NamedTuple):
    """Window geometry in the order of PyTorch's arguments."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    ceil_mode: bool

    @classmethod
    def of(cls, kernel_size, stride, padding, dilation, ceil_mode) -> Geometry:
        kernel = pair(kernel_size)
        has_stride = stride is not None and (isinstance(stride, int) or len(stride) > 0)
        return cls(kernel, pair(stride) if has_stride else kernel, pair(padding), pair(dilation), bool(ceil_mode))

    @property
    def overlaps(self) -> bool:
        """Whether an input value can lie in two windows (a safe yes for interleaved dilated windows)."""
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        return any(span > stride for span, stride in zip(spans, self.stride, strict=True))

    def tiles(self, input: Tensor) -> bool:
        """Whether the windows lie side by side and cover the input."""
        height, width = input.shape[-2:]
        (kh, kw), stride, padding, dilation, _ = self
        is_plain = stride == self.kernel and padding == (0, 0) and dilation == (1, 1)
        return is_plain and min(kh, kw) > 0 and height % kh == 0 and width % kw == 0

    def require_tiling(self, input: Tensor, what: str, remedy: str = "") -> None:
        """Raises ValueError unless the windows lie side by side and cover the input; the message begins with `what`."""
        if not self.tiles(input):
            height, width = input.shape[-2:]
            raise ValueError(
                f"max_pool2d: {what} needs stride = kernel_size, no padding, no dilation and windows that tile the input; "
                f"got kernel_size={self.kernel}, stride={self.stride}, padding={self.padding}, dilation={self.dilation} on "
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


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    if len(values) not in (1, 2):
        raise ValueError(f"max_pool2d: expected one or two integers, got {value!r}")
    return (values[0], values[-1])


class Windows:
    """The windows of a pooling, one kernel position at a time.

    Everything is laid out like the output, (..., H_out, W_out): for each of the kh * kw positions of the
    kernel, in scan order, a strided view holds the input value that every window sees there. Positions in
    the padding read as NaN, which equals nothing, so that padding never ties.
    """

    def __init__(self, input: Tensor, output: Tensor, indices: Tensor, geometry: Geometry) -> None:
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

    def chosen(self) -> Iterator[Tensor]:
        """For each kernel position: is it PyTorch's argmax."""
        (kh, kw), (sh, sw), (top, left), (dh, dw), _ = self.geometry
        rows, columns = self.output.shape[-2:]
        device = self.indices.device
        row = self.indices.div(self.width, rounding_mode="floor")
        column = self.indices - row * self.width
        row -= torch.arange(rows, device=device).mul_(sh).sub_(top)[:, None]
        column -= torch.arange(columns, device=device).mul_(sw).sub_(left)
        span = (kw - 1) * dw + 1
        place = row.mul_(span).add_(column).to(torch.int32)
        for i in range(kh):
            for j in range(kw):
                yield place == i * dh * span + j * dw


def tiled(input: Tensor, kernel: Sequence[int]) -> Tensor:
    """(..., H, W) as (..., H / kh, kh, W / kw, kw): the windows that tile it are dimensions -3 and -1."""
    (kh, kw), (height, width) = kernel, input.shape[-2:]
    return input.reshape(*input.shape[:-2], height // kh, kh, width // kw, kw)


def select(mask: Tensor, values: Tensor) -> Tensor:
    """`values` where `mask`, else +0: a product of bit patterns, faster than `where` and safe for inf and NaN."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    return (values.view(bits) * mask).view(values.dtype)


def round_once(values: Tensor, dtype: torch.dtype) -> Tensor:
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


def round_to_bits(values: Tensor, bits: int) -> Tensor:
    """float64 `values` rounded to `bits` significant bits (2 to 53), to nearest even, whatever their exponent."""
    cut = 53 - bits
    if cut == 0:
        return values
    pattern = values.view(torch.int64)
    last = (pattern >> cut) & 1
    # A carry out of the significand is the next exponent's.
    rounded = (pattern + ((1 << (cut - 1)) - 1) + last) & -(1 << cut)
    return torch.where(values.isfinite(), rounded.view(torch.float64), values)
