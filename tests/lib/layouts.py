"""Memory layouts in which the tests of pooling and activations put their operands."""

from torch import Tensor


def lay_out(tensor: Tensor, layout: str) -> Tensor:
    """`tensor` (..., C, H, W) in another memory layout; `expanded` repeats its first channel."""
    match layout:
        case "channels_last":
            return tensor.movedim(-3, -1).contiguous().movedim(-1, -3)
        case "transposed":
            return tensor.mT.contiguous().mT
        case "sliced":
            *lead, height, width = tensor.shape
            return tensor.new_full((*lead, 2 * height + 1, width + 2), 7.0)[..., 1::2, 1:-1].copy_(tensor)
        case "expanded":
            return tensor[..., :1, :, :].expand_as(tensor)
    return tensor
