"""Layers with a point where the derivative is a choice, as one-parameter families of Jacobians.

Every choice is `J(c) = J(0) + c N`: for max pooling J(0) is the native rule, J(1) the minimal one and c = beta; for ReLU c is
the derivative at 0, and for Euclidean-norm pooling that at a zero window. N is zero but at ties and zeros. A kink is made
of the values that a forward pass saw, in whatever precision; its Jacobian is applied in the type of the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from nonsmooth.activations import ReLU
from nonsmooth.pooling import MaxPool2d
from nonsmooth.pooling.windows import Geometry, Windows, select
from nonsmooth.rules import Norm
from nonsmooth.zones.bounds import undecided_windows

# The modules whose derivative is a choice.
KINKED = (MaxPool2d, ReLU)
# What a census of a layer counts.
COUNTED = ("windows", "tied", "tied_at_zero", "tied_above_zero", "sum_of_sizes", "largest_size")


@dataclass
class Kink:
    """One application of a layer.

    Attributes:
        name: path of its module.
        input, output: as the forward pass saw them, detached.
        source: number of the kink whose output is the input, if one's is.
        harmless: windows behind which no gradient passes, such as those at zero after a ReLU whose derivative there is 0; they
            may be left out.
    """

    name: str
    input: Tensor
    output: Tensor
    source: int | None = None
    harmless: Tensor | None = None
    kind = ""

    @classmethod
    def of(cls, name: str, module: nn.Module, input: Tensor, output: Tensor) -> Kink:
        input, output = input.detach(), output.detach()
        if isinstance(module, ReLU):
            return ReluKink(name, input, output)
        geometry = Geometry.of(
            module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode
        )  # fmt: skip
        match module.rule:
            case Norm(evaluation="exact"):
                kind = NormPoolKink
            case Norm():
                kind = ComposedNormPoolKink
            case _:
                kind = MaxPoolKink
        return kind(name, input, output, geometry=geometry)

    @property
    def tied(self) -> Tensor:
        """Where N is not zero, shaped like the output."""
        raise NotImplementedError

    @property
    def all_zero(self) -> Tensor:
        """Windows of a ReLU's output that have no entry but 0, shaped like the output."""
        return self.output == 0

    def transposed(self, gradient: Tensor, coefficient: float | Tensor) -> Tensor:
        """`J(c)^T gradient` in the type of `gradient`, shaped like the input; c is a number, or one for each output."""
        raise NotImplementedError

    def jump(self, gradient: Tensor, change: float | Tensor) -> Tensor | None:
        """`change * N^T gradient`, which is exactly 0 where nothing ties or no gradient arrives; None if that is everywhere."""
        windows = (self._can_matter & (gradient != 0)).flatten().nonzero().squeeze(-1)
        if len(windows) == 0:
            return None
        jump = gradient.new_zeros(self.input.shape)
        self._add_jump(jump, gradient, change, windows)
        return jump

    def matters_outside(self, windows: Tensor) -> bool:
        """Whether a window that is not one of `windows` ties and is not harmless."""
        return bool((self._can_matter & ~windows).any())

    @cached_property
    def _can_matter(self) -> Tensor:
        """Tied windows that are not harmless."""
        return self.tied if self.harmless is None else self.tied & ~self.harmless

    def _add_jump(self, result: Tensor, gradient: Tensor, change: float | Tensor, windows: Tensor) -> None:
        """Add the jump of `windows`, flat positions in the output, to `result`, shaped like the input and contiguous."""
        raise NotImplementedError

    def undecided(self, bound: Tensor) -> Tensor:
        """Windows that do not tie, but may over the reals, if `bound` is that of the error of every entry of the input."""
        raise NotImplementedError

    def census(self) -> dict[str, int]:
        """`COUNTED`: how many windows there are, are tied, tied at zero, tied above zero; the sizes of ties."""
        tied = self.tied
        sizes = self.sizes[tied]
        at = self.output[tied]
        counts = (
            tied.numel(),
            tied.sum(),
            (at == 0).sum(),
            (at > 0).sum(),
            sizes.sum(),
            sizes.max() if sizes.numel() else 0,
        )
        return dict(zip(COUNTED, map(int, counts), strict=True))

    @property
    def sizes(self) -> Tensor:
        """Number of entries that tie, per window."""
        return torch.ones_like(self.output, dtype=torch.int32)


@dataclass
class ReluKink(Kink):
    """ReLU, with every entry a window of its own; tied where the input is 0 of either sign."""

    kind = "relu"

    @cached_property
    def tied(self) -> Tensor:
        return self.input == 0

    def undecided(self, bound: Tensor) -> Tensor:
        return ~self.tied & ~(self.input.abs() > bound)

    @cached_property
    def passes(self) -> Tensor:
        """Where the gradient passes whatever is chosen at 0; as in PyTorch, a NaN lets it pass."""
        return ~(self.input <= 0)

    def transposed(self, gradient: Tensor, coefficient: float | Tensor) -> Tensor:
        passed = select(self.passes, gradient)
        jump = None if _is_zero(coefficient) else self.jump(gradient, coefficient)
        return passed if jump is None else passed + jump

    def _add_jump(self, result: Tensor, gradient: Tensor, change: float | Tensor, windows: Tensor) -> None:
        result.view(-1)[windows] += (change * gradient).flatten()[windows]


@dataclass
class MaxPoolKink(Kink):
    """Max pooling; tied where a window has k > 1 maxima."""

    geometry: Geometry | None = None
    kind = "max_pool"

    @cached_property
    def windows(self) -> Windows:
        # The output of a composed rule is not the maximum.
        maxima, indices = torch.ops.aten.max_pool2d_with_indices(self.input, *self.geometry)
        return Windows(self.input, maxima, indices, self.geometry)

    @cached_property
    def tied(self) -> Tensor:
        return self.windows.count > 1

    @property
    def sizes(self) -> Tensor:
        return self.windows.count.to(torch.int32)

    def undecided(self, bound: Tensor) -> Tensor:
        # A quick look with the largest bound, since most windows are apart by far.
        reach = 2 * bound.amax().item() if bound.numel() else 0.0
        maxima = self.windows.output
        near = torch.zeros_like(self.tied)
        frame = self.windows.padded(self.input, float("nan"))
        for values in self.windows.views(frame):
            near |= (values >= maxima - reach) & (values < maxima)
        return undecided_windows(self.input, bound, *self.geometry) if near.any() else near

    def transposed(self, gradient: Tensor, coefficient: float | Tensor) -> Tensor:
        result = gradient.new_zeros(self.input.shape)
        result.flatten(-2).scatter_add_(-1, self.windows.indices.flatten(-2), gradient.flatten(-2))
        windows = (self._can_matter & (gradient != 0)).flatten().nonzero().squeeze(-1)
        if not _is_zero(coefficient) and len(windows):
            self._add_jump(result, gradient, coefficient, windows)
        return result

    def _add_jump(self, result: Tensor, gradient: Tensor, change: float | Tensor, windows: Tensor) -> None:
        # -c g (k - 1) / k at the chosen maximum and c g / k at the others.
        (kh, kw), (sh, sw), (top, left), (dh, dw), _ = self.geometry
        (rows, columns), (height, width) = self.output.shape[-2:], self.input.shape[-2:]
        plane, within = windows // (rows * columns), windows % (rows * columns)
        first_row, first_column = within // columns * sh - top, within % columns * sw - left
        values, flat = self.input.flatten(), result.view(-1)
        chosen = plane * (height * width) + self.windows.indices.flatten()[windows]
        k = self.windows.count.flatten()[windows].to(gradient.dtype)
        share = (change * gradient).flatten()[windows] / k
        flat.index_add_(0, chosen, -share * (k - 1))
        for i in range(kh):
            for j in range(kw):
                row, column = first_row + i * dh, first_column + j * dw
                position = plane * (height * width) + row * width + column
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (position != chosen)
                position, part, maximum = position[inside], share[inside], values[chosen[inside]]
                is_maximum = values[position] == maximum
                flat.index_add_(0, position[is_maximum], part[is_maximum])


@dataclass
class NormPoolKink(Kink):
    """Euclidean-norm pooling; tied where every entry of a window is 0, whose number is the size of the tie."""

    geometry: Geometry | None = None
    kind = "norm_pool"

    @cached_property
    def tied(self) -> Tensor:
        return self.output == 0

    @property
    def sizes(self) -> Tensor:
        kernel = self.geometry.kernel
        return torch.full_like(self.output, kernel[0] * kernel[1], dtype=torch.int32)

    def undecided(self, bound: Tensor) -> Tensor:
        may_be_zero = self._blocks((self.input.abs() <= bound).to(torch.int32)).amin((-3, -1)) > 0
        return ~self.tied & may_be_zero

    def transposed(self, gradient: Tensor, coefficient: float | Tensor) -> Tensor:
        passed = self._direction(gradient.dtype) * self._spread(gradient)
        jump = None if _is_zero(coefficient) else self.jump(gradient, coefficient)
        return passed if jump is None else passed + jump

    def _direction(self, dtype: torch.dtype) -> Tensor:
        """Every entry divided by the norm of its window; 0 in tied windows."""
        largest = self._spread(self._blocks(self.input.to(dtype).abs()).amax((-3, -1)))
        scaled = self.input.to(dtype) / torch.where(largest == 0, 1, largest)
        norm = self._spread(self._blocks(scaled.square()).sum((-3, -1)).sqrt())
        return scaled / torch.where(norm == 0, 1, norm)

    def _add_jump(self, result: Tensor, gradient: Tensor, change: float | Tensor, windows: Tensor) -> None:
        added = torch.zeros_like(gradient, memory_format=torch.contiguous_format)
        added.view(-1)[windows] = (change * gradient).flatten()[windows]
        result += self._spread(added)

    def _blocks(self, values: Tensor) -> Tensor:
        """(..., rows, kh, columns, kw): the windows, which tile the input."""
        (kh, kw), (height, width) = self.geometry.kernel, values.shape[-2:]
        return values.reshape(*values.shape[:-2], height // kh, kh, width // kw, kw)

    def _spread(self, values: Tensor) -> Tensor:
        kh, kw = self.geometry.kernel
        return values.repeat_interleave(kh, -2).repeat_interleave(kw, -1)


@dataclass
class ComposedNormPoolKink(NormPoolKink):
    """Euclidean-norm pooling in the working precision, by whose norm a gradient is divided; tied where that is 0, if only because
    the squares underflow."""

    kind = "norm_pool_composed"

    @property
    def all_zero(self) -> Tensor:
        return self._blocks((self.input == 0).to(torch.int32)).amin((-3, -1)) > 0

    def _direction(self, dtype: torch.dtype) -> Tensor:
        return self.input.to(dtype) / self._spread(torch.where(self.tied, torch.inf, self.output.to(dtype)))


def _is_zero(coefficient: float | Tensor) -> bool:
    return not isinstance(coefficient, Tensor) and coefficient == 0
