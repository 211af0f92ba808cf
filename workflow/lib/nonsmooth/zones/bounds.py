"""A running bound on the rounding errors of a forward pass, and the poolings' windows that it leaves undecided.

A window that does not tie in float64 may tie over the reals. Where its gap, the largest value minus the runner-up, exceeds
the error bounds of the two, it does not. `nonsmooth.zones.error_rules` has the bound of every operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from nonsmooth.pooling.windows import WIDE, Geometry, Windows
from nonsmooth.zones.error_rules import RULES, Operand, copied

# The types whose operations the rules describe. In 16 bits kernels round more than once.
BOUNDED_TYPES = (torch.float32, torch.float64)
# Bounds are evaluated in float64, by sums and products of non-negative numbers: an operation of n terms makes them
# too small by a relative n * 2**-53 at most, which this makes up for up to 2**32 terms.
SLACK = 1 + 2.0**-20
# Keywords that say how a result is stored, or its type, which is looked at in the result.
HARMLESS_KEYWORDS = {"device", "dtype", "layout", "memory_format", "non_blocking", "pin_memory"}


class ErrorBounds(TorchDispatchMode):
    """While active, bounds the error of every tensor that a forward pass computes.

    The error is the distance to what exact arithmetic would give for the same weights and inputs, which count as
    exact. Operations run as they would otherwise, bit for bit. An operation without a rule has the bound infinity,
    and so has a value that is not finite. For passes in float32 and float64 under `torch.no_grad()`.

    ASSUME: products are summed in any order, with or without fused multiply-adds, but they are the products of the
    definition. True of PyTorch's float64 convolutions on a CPU (im2col and a matrix product) and of cuDNN's deterministic
    implicit products; not of Winograd's and Fourier algorithms, which oneDNN and cuDNN may choose in float32, nor of TF32.
    """

    def __init__(self) -> None:
        super().__init__()
        # The errors of a storage, element by element, and its type. So that views and writing in place need
        # no rule, and a bound lives as long as its tensor.
        self._errors: dict[StorageWeakRef, tuple[torch.dtype, Tensor]] = {}

    def of(self, tensor: Tensor) -> Tensor:
        """The bound of every entry of `tensor`, float64, of its shape; 0 for a tensor that nothing here computed."""
        error = self._error(tensor)
        return torch.zeros_like(tensor, dtype=WIDE) if error is None else error.clone()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__.removesuffix("_")
        if func.is_view or name == "_unsafe_view":
            return func(*args, **kwargs)
        is_written = func._schema.is_mutable
        operands = tree_map_only(Tensor, lambda tensor: self._operand(tensor, is_written), args)
        results = func(*args, **kwargs)
        first, *others = results if isinstance(results, tuple | list) else (results,)
        if _is_floating(first):
            rule = RULES.get(name) if _is_described(first, args, kwargs) else None
            if rule is copied and operands[0].error is None:
                return results  # an exact copy of what is exact
            self._store(first, None if rule is None else rule(first, *operands))
        if name in ("native_batch_norm", "cudnn_batch_norm") and args[5]:
            others += args[3:5]  # the running statistics, written although the schema does not say so
        for other in filter(_is_floating, others):
            self._store(other, None)
        return results

    def _operand(self, tensor: Tensor, is_written: bool) -> Operand:
        error = self._error(tensor)
        if is_written:
            return Operand(tensor.to(WIDE, copy=True), None if error is None else error.clone())
        return Operand(tensor.to(WIDE), error)

    def _error(self, tensor: Tensor) -> Tensor | None:
        """A view of the stored errors; None for an exact tensor."""
        dtype, errors = self._errors.get(StorageWeakRef(tensor.untyped_storage()), (None, None))
        if errors is None:
            return None
        if dtype != tensor.dtype:
            return torch.full_like(tensor, inf, dtype=WIDE)
        return errors.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def _store(self, result: Tensor, error: Tensor | None) -> None:
        self._errors = {storage: errors for storage, errors in self._errors.items() if not storage.expired()}
        if error is not None:
            error = error * SLACK
            is_known = (error < inf) & result.isfinite()  # False for a NaN
            if not is_known.all():
                error = error.where(is_known, inf)
        storage = result.untyped_storage()
        if self._error(result) is None:
            errors = torch.zeros(storage.nbytes() // result.element_size(), dtype=WIDE, device=result.device)
            self._errors[StorageWeakRef(storage)] = result.dtype, errors
        stored = self._error(result)
        if error is None:
            stored.fill_(inf)
        else:
            stored.copy_(error)


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_described(result: Tensor, args, kwargs) -> bool:
    """Whether a rule holds: nothing but floats, promoted without rounding, and no option that a rule ignores."""
    tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    return (
        result.dtype in BOUNDED_TYPES
        and kwargs.keys() <= HARMLESS_KEYWORDS
        and all(map(_is_floating, tensors))
        and all(torch.finfo(tensor.dtype).eps >= torch.finfo(result.dtype).eps for tensor in tensors)
    )


def undecided_windows(
    input: Tensor,
    bound: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The windows of a max pooling that do not tie, but may over the reals or may have another maximum there.

    Args:
        input: (N, C, H, W) or (C, H, W), what enters the pooling.
        bound: of the same shape, bounds of the errors of `input`; NaN counts as infinity.
        kernel_size, stride, padding, dilation, ceil_mode: as in `torch.nn.MaxPool2d`.

    Returns:
        bool, of the shape of the pooling's output: whether the largest value minus another one is at most the sum of
        their bounds. A tied window is not marked; one with a NaN that is not alone is.

    Raises:
        ValueError: a window holds nothing but padding.
    """
    geometry = Geometry.of(kernel_size, stride, padding, dilation, ceil_mode)
    geometry.require_input_in_every_window(input)
    bound = bound.to(WIDE).nan_to_num(nan=inf, posinf=inf)
    output, indices = torch.ops.aten.max_pool2d_with_indices(input, *geometry)
    windows = Windows(input, output, indices, geometry)
    largest_bound = bound.flatten(-2).gather(-1, indices.flatten(-2)).view_as(indices)
    undecided = torch.zeros_like(indices, dtype=torch.bool)
    frames = windows.padded(input.to(WIDE), 0.0), windows.padded(bound, -1.0)  # -1 marks padding
    for values, bounds in zip(*map(windows.views, frames), strict=True):
        is_apart = output.to(WIDE) - values > largest_bound + bounds
        undecided |= (bounds >= 0) & (values != output) & ~is_apart
    return undecided & (windows.count == 1)
