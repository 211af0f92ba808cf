"""Float64 convolutions of small images on a CPU as one matrix product for many images.

PyTorch's own multiply image by image, which takes up to eight times as long where an image is small, as in deep layers. The
order of summation is another one, so this is for the replays only, never for the working precision.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode

# Output positions of an image up to which one product for many images is faster.
LARGEST = 64
# Bytes of the matrix of patches that is made at a time.
CHUNK = 2**26


class MatrixConvolutions(TorchDispatchMode):
    """While active, two-dimensional float64 convolutions on a CPU and their derivatives are matrix products."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            images, weight, bias, stride, padding, dilation, transposed, _, groups = args
            if _fits(images, weight, stride, padding, dilation, transposed, groups):
                return _forward(images, weight, bias, stride, padding, dilation)
        elif func is torch.ops.aten.convolution_backward.default:
            gradient, images, weight, _, stride, padding, dilation, transposed, _, groups, wanted = args
            if _fits(images, weight, stride, padding, dilation, transposed, groups):
                return _backward(gradient, images, weight, stride, padding, dilation, wanted)
        return func(*args, **(kwargs or {}))


def _fits(images: Tensor, weight: Tensor, stride, padding, dilation, transposed: bool, groups: int) -> bool:
    if images.dtype != torch.float64 or images.device.type != "cpu" or images.dim() != 4 or transposed or groups != 1:
        return False
    rows, columns = _output_size(images, weight, stride, padding, dilation)
    return 0 < rows * columns <= LARGEST and images.numel() > 0


def _forward(images, weight, bias, stride, padding, dilation) -> Tensor:
    matrix = weight.permute(2, 3, 1, 0).reshape(-1, len(weight))  # (kh kw channels, outputs)
    parts = []
    for part in _chunks(images, weight, stride, padding, dilation):
        patches, size = _patches(part, weight, stride, padding, dilation)
        found = patches @ matrix if bias is None else torch.addmm(bias, patches, matrix)
        parts.append(found.view(len(part), *size, len(weight)).permute(0, 3, 1, 2))
    return torch.cat(parts).contiguous()


def _backward(gradient, images, weight, stride, padding, dilation, wanted) -> tuple[Tensor | None, ...]:
    of_images, of_weight, of_bias = wanted
    outputs, channels, kh, kw = weight.shape
    matrix = weight.permute(0, 2, 3, 1).reshape(outputs, -1)
    weight_gradient = torch.zeros_like(matrix)
    parts = []
    chunks = _chunks(images, weight, stride, padding, dilation)
    for part, g in zip(
        chunks, gradient.split(_images_per_chunk(images, weight, stride, padding, dilation)), strict=True
    ):
        rows, columns = g.shape[-2:]
        flat = g.permute(0, 2, 3, 1).reshape(-1, outputs)
        if of_weight:
            weight_gradient.addmm_(flat.mT, _patches(part, weight, stride, padding, dilation)[0])
        if of_images:
            back = (flat @ matrix).view(len(part), rows, columns, kh, kw, channels)
            frame = part.new_zeros(_padded_shape(part, padding))
            for i in range(kh):
                for j in range(kw):
                    top, left = i * dilation[0], j * dilation[1]
                    frame[
                        :,
                        top : top + (rows - 1) * stride[0] + 1 : stride[0],
                        left : left + (columns - 1) * stride[1] + 1 : stride[1],
                    ] += back[:, :, :, i, j]
            height, width = part.shape[-2:]
            inner = frame[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width]
            parts.append(inner.permute(0, 3, 1, 2))
    return (
        torch.cat(parts).contiguous() if of_images else None,
        weight_gradient.view(outputs, kh, kw, channels).permute(0, 3, 1, 2).contiguous() if of_weight else None,
        gradient.sum((0, 2, 3)) if of_bias else None,
    )


def _output_size(images: Tensor, weight: Tensor, stride, padding, dilation) -> tuple[int, int]:
    sizes = zip(images.shape[-2:], weight.shape[-2:], stride, padding, dilation, strict=True)
    rows, columns = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
    return rows, columns


def _images_per_chunk(images: Tensor, weight: Tensor, stride, padding, dilation) -> int:
    rows, columns = _output_size(images, weight, stride, padding, dilation)
    return max(1, CHUNK // (8 * rows * columns * weight[0].numel()))


def _chunks(images: Tensor, weight: Tensor, stride, padding, dilation) -> Iterator[Tensor]:
    yield from images.split(_images_per_chunk(images, weight, stride, padding, dilation))


def _padded_shape(images: Tensor, padding) -> tuple[int, int, int, int]:
    count, channels, height, width = images.shape
    return count, height + 2 * padding[0], width + 2 * padding[1], channels


def _padded(images: Tensor, padding) -> Tensor:
    """(N, H, W, C) in a frame of zeros."""
    return pad(images.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))


def _patches(images: Tensor, weight: Tensor, stride, padding, dilation) -> tuple[Tensor, tuple[int, int]]:
    """A row of kh kw C values for every output position, and the number of rows and columns of the output."""
    rows, columns = _output_size(images, weight, stride, padding, dilation)
    frame = _padded(images, padding).contiguous()
    n, h, w, c = frame.stride()
    kh, kw = weight.shape[-2:]
    patches = frame.as_strided(
        (len(images), rows, columns, kh, kw, images.shape[1]),
        (n, h * stride[0], w * stride[1], h * dilation[0], w * dilation[1], c),
    )
    return patches.reshape(len(images) * rows * columns, -1), (rows, columns)
