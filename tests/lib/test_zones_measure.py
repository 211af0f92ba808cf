"""Comparisons of two programs, against a backward pass written out by hand, and on networks whose class is known.

The reference below differentiates both programs one after the other and subtracts; the library propagates the jumps at ties.
Tolerances are bounds of rounding: beside every gradient the reference carries the sum of the absolute values of its terms.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import permutations, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nonsmooth.architectures import ARCHITECTURES, build
from nonsmooth.cells import Program
from nonsmooth.precision import PRECISIONS, Precision
from nonsmooth.rules import Native
from nonsmooth.zones.kinks import COUNTED
from nonsmooth.zones.measure import (
    Comparison,
    Minibatch,
    network_loss,
    routed,
    with_derivatives,
    zone_class,
)
from nonsmooth.zones.tables import CLASSES

CPU = torch.device("cpu")
LEVELS = ("float16", "bfloat16", "mixed16", "float32", "float64")
PAIRS = (
    ("minimal", "native"), ("hybrid-10-exact", "native"), ("native+relu-1", "native"),
    ("minimal+relu-0.3", "hybrid-3-exact"), ("hybrid-0.1-exact+relu-1", "minimal"),
)  # fmt: skip
U = 2.0**-53
INF, NAN = math.inf, math.nan

# PyTorch says so whenever a flag of oneDNN is set.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
every_level = pytest.mark.parametrize("level", LEVELS)


def compare(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    level: str = "float32",
    pair: tuple[str, str] = ("minimal", "native"),
    replays: bool = True,
) -> Minibatch:
    program, reference = map(Program.parse, pair)
    return Comparison(model, program, reference, PRECISIONS[level], CPU, replays).measure(images, labels)


# ---------------------------------------------------------------------------------- a backward pass written out


class Reference:
    """Gradients of a `nn.Sequential` at the values of a forward pass, one layer after the other, in float64."""

    def __init__(self, model: nn.Sequential, values: list[Tensor], log_probabilities: Tensor, rounding=None) -> None:
        """
        Args:
            model: the layers, with the weights of the pass.
            values: the input and what every layer returned.
            log_probabilities: (N, classes).
            rounding: the type to which convolutions and linear layers round weights and inputs.
        """
        self.layers = list(model.named_children())
        self.values = [value.double() for value in values]
        self.log_probabilities, self.rounding = log_probabilities.double(), rounding
        self.tied = [self._ties(layer, x) for (_, layer), x in zip(self.layers, self.values, strict=False)]
        # Of a gradient's entry: roundings on the longest way from the loss.
        self.roundings = 10.0

    def _ties(self, layer: nn.Module, x: Tensor) -> Tensor | None:
        if isinstance(layer, nn.ReLU):
            return x == 0
        if isinstance(layer, nn.MaxPool2d):
            return torch.tensor([len(maxima) > 1 for _, maxima, _ in _windows(layer, x)])
        return None

    def gradients(self, labels: Tensor, coefficients: dict[int, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The gradients, and the sums of absolute terms; `coefficients` has c of each layer, or of its windows."""
        one_hot = F.one_hot(labels, self.log_probabilities.shape[1]).double()
        g = (self.log_probabilities.exp() - one_hot) / len(labels)
        size = (self.log_probabilities.exp() + one_hot) / len(labels)
        gradients, sizes = {}, {}
        self.roundings = 10.0
        for number, (name, layer) in reversed(list(enumerate(self.layers))):
            x = self.values[number]
            g, size = g.reshape(self.values[number + 1].shape), size.reshape(self.values[number + 1].shape)
            match layer:
                case nn.Linear() | nn.Conv2d():
                    if self.rounding is not None:
                        x = x.to(self.rounding).double()
                    found, g = _linear_backward(layer, x, self._weight(layer), g)
                    found_sizes, size = _linear_backward(layer, x.abs(), self._weight(layer).abs(), size)
                    self.roundings += layer.weight[0].numel() + g.numel() // g.shape[1]
                case nn.BatchNorm2d():
                    found, g, found_sizes, size = _normalization_backward(layer, x, g, size)
                    self.roundings += 4 * x.numel() // x.shape[1]
                case nn.ReLU():
                    c = torch.where(self.tied[number], coefficients[number], 0)
                    found, found_sizes = {}, {}
                    g = torch.where(x > 0, g, 0) + c * g
                    size = torch.where(x > 0, size, 0) + c.abs() * size
                case nn.MaxPool2d():
                    found, found_sizes = {}, {}
                    c = coefficients[number].expand(len(self.tied[number])).tolist()
                    g = _pooling_backward(layer, x, g, c)
                    # Of (k - c (k - 1)) / k and c / k, the absolute values of the terms.
                    size = _pooling_backward(layer, x, size, [0.0] * len(c)) + _pooling_backward(
                        layer, x, size, [abs(value) for value in c], cancels=False
                    )
                    self.roundings += 20
                case nn.Flatten():
                    found, found_sizes = {}, {}
            gradients |= {f"{name}.{key}": value for key, value in found.items()}
            sizes |= {f"{name}.{key}": value for key, value in found_sizes.items()}
        return gradients, sizes

    def _weight(self, layer: nn.Module) -> Tensor:
        weight = layer.weight.detach()
        return (weight if self.rounding is None else weight.to(self.rounding)).double()

    def difference(
        self, labels: Tensor, first: dict[int, Tensor], second: dict[int, Tensor]
    ) -> tuple[float, float, float, float]:
        """Infinity norms and L1 norms of the difference of two programs, each with a bound of its rounding."""
        (ours, our_sizes), (theirs, their_sizes) = (self.gradients(labels, c) for c in (first, second))
        found = [0.0, 0.0, 0.0, 0.0]
        for name in ours:
            difference = (ours[name] - theirs[name]).abs()
            # Twice: the library's own rounding is bounded likewise.
            bound = 2 * self.roundings * U * (our_sizes[name] + their_sizes[name])
            for place, value in enumerate((difference.max(), difference.sum(), bound.max(), bound.sum())):
                found[place] += value.item()
        return tuple(found)


def _windows(layer: nn.MaxPool2d, x: Tensor):
    """Of every window in scan order: its plane, the flat positions of its maxima, and its row and column."""
    k, s, p = layer.kernel_size, layer.stride, layer.padding
    height, width = x.shape[-2:]
    rows, columns = ((n + 2 * p - k) // s + 1 for n in (height, width))
    for (plane, values), row, column in product(enumerate(x.flatten(0, 1).tolist()), range(rows), range(columns)):
        places = [(row * s - p + i, column * s - p + j) for i, j in product(range(k), range(k))]
        places = [(i, j) for i, j in places if 0 <= i < height and 0 <= j < width]
        largest = max(values[i][j] for i, j in places)
        yield plane, [i * width + j for i, j in places if values[i][j] == largest], (row, column)


def _pooling_backward(layer: nn.MaxPool2d, x: Tensor, g: Tensor, c: Sequence[float], cancels: bool = True) -> Tensor:
    result = np.zeros((x.shape[0] * x.shape[1], x.shape[2] * x.shape[3]))
    for (plane, maxima, _), value, beta in zip(_windows(layer, x), g.flatten().tolist(), c, strict=True):
        k = len(maxima)
        result[plane, maxima[0]] += value * ((k - beta * (k - 1)) / k if cancels else beta * (k - 1) / k)
        for other in maxima[1:]:
            result[plane, other] += value * beta / k
    return torch.from_numpy(result).view(x.shape)


def _linear_backward(layer: nn.Module, x: Tensor, weight: Tensor, g: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    if isinstance(layer, nn.Linear):
        found, back = {"weight": g.mT @ x, "bias": g.sum(0)}, g @ weight
    else:
        settings = layer.stride, layer.padding
        found = {
            "weight": torch.nn.grad.conv2d_weight(x, weight.shape, g, *settings),
            "bias": g.sum((0, 2, 3)),
        }
        back = torch.nn.grad.conv2d_input(x.shape, weight, g, *settings)
    return {name: found[name] for name, _ in layer.named_parameters()}, back


def _normalization_backward(layer: nn.BatchNorm2d, x: Tensor, g: Tensor, size: Tensor):
    over = {"dim": (0, 2, 3), "keepdim": True}
    mean = x.mean(**over)
    variance = (x - mean).square().mean(**over) + layer.eps
    factor = layer.weight.detach().double().view(1, -1, 1, 1) / variance.sqrt()
    normalized = (x - mean) / variance.sqrt()
    found = {"weight": (g * normalized).sum((0, 2, 3)), "bias": g.sum((0, 2, 3))}
    back = factor * (g - g.mean(**over) - normalized * (g * normalized).mean(**over))
    # Rounding of x - mean is relative to both, and that of the variance to their squares.
    spread = x.abs() + x.abs().mean(**over)
    amplified = 1 + spread.square().mean(**over) / variance
    absolute = amplified * spread / variance.sqrt()
    found_sizes = {"weight": (size * absolute).sum((0, 2, 3)), "bias": size.sum((0, 2, 3))}
    back_size = amplified * factor.abs() * (size + size.mean(**over) + absolute * (size * absolute).mean(**over))
    return found, back, found_sizes, back_size


def choice_of(model: nn.Sequential, program: str) -> dict[int, Tensor]:
    """c of every layer that has one, by its number."""
    coefficients = Program.parse(program).coefficients
    kinds = {nn.ReLU: "relu", nn.MaxPool2d: "max_pool"}
    return {
        number: torch.tensor(coefficients[kinds[type(layer)]], dtype=torch.float64)
        for number, layer in enumerate(model)
        if type(layer) in kinds
    }


def reference_of(model: nn.Sequential, images: Tensor, precision: Precision) -> Reference:
    """A plain forward pass in a precision, layer by layer."""
    values = [precision.cast_batch(images)]
    with torch.no_grad(), precision.arithmetic(CPU):
        for layer in model:
            values.append(layer(values[-1]))
        logits = values[-1].float() if precision.autocast is not None else values[-1]
        log_probabilities = logits.log_softmax(1)
    return Reference(model, values, log_probabilities, precision.autocast)


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "two poolings": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 3, 2), nn.ReLU(), nn.MaxPool2d(3),
        nn.Flatten(), nn.Linear(3, 3),
    ),
    "pooling before ReLU": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3),
    ),
    "overlapping": lambda: nn.Sequential(
        nn.Conv2d(2, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(8, 3)
    ),
    "batch norm": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 3)
    ),
    "batch norm after pooling": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 3)
    ),
    "pooling first": lambda: nn.Sequential(
        nn.MaxPool2d(2), nn.Conv2d(2, 3, 2), nn.MaxPool2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3, 3)
    ),
    "ReLUs only": lambda: nn.Sequential(
        nn.Conv2d(2, 2, 3, stride=3), nn.ReLU(), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)
    ),
}  # fmt: skip


def coarse(model: nn.Sequential, images: int, seed: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Weights and images of few values: ties in float64, which sums them without rounding, and more ties in 16 bits."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=generator).float()

    for parameter in model.parameters():
        fine = integers(-1, 1, parameter.shape) * (torch.rand(parameter.shape, generator=generator) < 0.3)
        parameter.data = integers(-4, 4, parameter.shape) / 8 + fine * 2.0**-11
    return model.train(), integers(-1, 2, (images, 2, 8, 8)) / 2, torch.randint(3, (images,), generator=generator)


def working_difference(
    model: nn.Module, images: Tensor, labels: Tensor, level: str, pair: tuple[str, str], loss_scale: float = 65536.0
) -> float:
    """The sum of infinity norms, by autograd without a recorder."""
    precision, found = PRECISIONS[level], []
    scale = loss_scale if level == "mixed16" else 1.0
    for name in pair:
        program = precision.cast_model(with_derivatives(copy.deepcopy(model), Program.parse(name)))
        with precision.arithmetic(CPU):
            loss = network_loss(program, precision.cast_batch(images), labels, precision)
            (loss * scale).backward()
        found.append([parameter.grad.double() / scale for parameter in program.parameters()])
    return sum((ours - theirs).abs().max().item() for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("pair", PAIRS, ids="-vs-".join)
@pytest.mark.parametrize("name", NETWORKS)
@every_level
def test_differences_against_the_reference(level: str, name: str, pair: tuple[str, str]) -> None:
    precision = PRECISIONS[level]
    for seed in range(2):
        model, images, labels = coarse(NETWORKS[name](), 3, seed)
        row = compare(model, images, labels, level, pair).row
        in_work = working_difference(model, images, labels, level, pair)
        if math.isfinite(in_work):
            # The library subtracts in float32 where the gradients are not wider.
            assert abs(row["difference_published"] - in_work) <= 2.0**-24 * in_work
        else:
            assert level == "mixed16"  # whose loss the library scales by less, where a gradient overflows
        cast = precision.cast_model(copy.deepcopy(model))
        at_work = reference_of(cast, images, precision)
        at_real = reference_of(copy.deepcopy(cast).double(), precision.cast_batch(images), PRECISIONS["float64"])
        first, second = (choice_of(model, program) for program in pair)
        for reference, prefix in ((at_work, "replay"), (at_real, "real")):
            largest, total, bound, total_bound = reference.difference(labels, first, second)
            assert abs(row[prefix] - largest) <= bound
            assert abs(row[f"{prefix}_l1"] - total) <= total_bound
            if row[prefix] == 0:
                assert row[f"{prefix}_routed"] == "no"
        common = {number: tied & at_real.tied[number] for number, tied in enumerate(at_work.tied) if tied is not None}
        chosen = {number: torch.where(both, first[number], second[number]) for number, both in common.items()}
        largest, _, bound, _ = at_work.difference(labels, chosen, second)
        assert abs(row["replay_common"] - largest) <= bound


def test_the_networks_above_have_ties_of_all_kinds() -> None:
    """Else the comparison with the reference would say little."""
    seen = set()
    for level, name, seed in product(("float16", "bfloat16", "float32"), ("two poolings", "overlapping"), range(4)):
        model, images, labels = coarse(NETWORKS[name](), 3, seed)
        measured = compare(model, images, labels, level)
        seen |= {
            measured.row["class"],
            "common" if measured.row["replay_common"] == measured.row["replay"] else "partly",
        }
        seen |= {"lost" for layer in measured.layers if layer["tied"] > layer["tied_both"]}
        seen |= {"at zero" for layer in measured.layers if layer["tied_at_zero"] and layer["tied_above_zero"]}
    assert {"real", "common", "partly", "lost", "at zero"} <= seen


# ------------------------------------------------------------------------------------- networks of a known class


def finest(level: str) -> float:
    """The distance of 1 and the next larger number, of what a convolution returns."""
    return torch.finfo(PRECISIONS[level].autocast or PRECISIONS[level].dtype).eps


def window(
    patches: Sequence[Sequence[float]],
    weight: Sequence[float],
    *between: nn.Module,
    out: float = 1.0,
) -> tuple[nn.Sequential, Tensor, Tensor]:
    """One window: its entries are sums of the channels of a patch times `weight`; then two logits, `out` times the
    maximum and 0. In float64, so that every number is what is written; at the label 1 the gradient is positive."""
    channels = len(weight)
    model = nn.Sequential(
        nn.Conv2d(channels, 1, 1, bias=False), *between, nn.MaxPool2d((1, len(patches))), nn.Flatten(), nn.Linear(1, 2)
    ).double()  # fmt: skip
    model[0].weight.data = torch.tensor(weight, dtype=torch.float64).view(1, channels, 1, 1)
    model[-1].weight.data = torch.tensor([[out], [0.0]], dtype=torch.float64)
    model[-1].bias.data.zero_()
    images = torch.tensor(patches, dtype=torch.float64).T.view(1, channels, 1, len(patches))
    return model.train(), images, torch.tensor([1])


def arriving(model: nn.Sequential, maximum: float) -> float:
    """The gradient at the window's output: the probability of the first class times its weight."""
    out = model[-1].weight[0, 0].item()
    return out / (1 + math.exp(-out * maximum))


def assert_near(found: float, expected: float, level: str = "float64") -> None:
    """Within a few roundings, of the values and in the softmax."""
    assert abs(found - expected) <= 16 * max(PRECISIONS[level].unit_roundoff, U) * abs(expected), (found, expected)


@every_level
def test_a_duplicated_channel_is_real(level: str) -> None:
    """Equal values of different patches: (2, 0) and (0, 2) with equal weights."""
    model, images, labels = window([[2, 0], [0, 2]], [0.5, 0.5])
    row = compare(model, images, labels, level).row
    assert row["class"] == "real"
    for name in ("replay", "real", "replay_common", "difference"):
        assert_near(row[name], arriving(model, 1.0), level)  # half of the gradient moves, times 2
    assert_near(row["replay_l1"], 2 * row["replay"])
    assert row["undecided_windows"] == 0


@every_level
@pytest.mark.parametrize("between", [[], [nn.ReLU()], [nn.BatchNorm2d(1), nn.ReLU()]], ids=str)
def test_ties_over_identical_patches_are_only_rounding(level: str, between: list[nn.Module]) -> None:
    """Three equal patches among others: 1 - 2/3, 1/3 and 1/3 of a gradient, with another rounding."""
    model, images, labels = window([[3, 1], [3, 1], [3, 1], [1, 0]], [0.5, 0.25], *copy.deepcopy(between))
    for scale in (1.0, 1 / 3, 0.7):
        model[-1].weight.data[0, 0] = scale
        row = compare(model, images, labels, level).row
        assert row["class"] == ("compensation" if row["difference"] else "identical")
        assert row["replay"] <= 16 * U * row["gradient"]
        assert row["difference"] <= 16 * PRECISIONS[level].unit_roundoff * row["gradient"] + 2.0**-24
        assert row["replay_routed"] == row["real_routed"] == "no"


@every_level
def test_a_flat_image_is_only_rounding(level: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(3), nn.Conv2d(4, 4, 2), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(4, 3)
    )  # fmt: skip
    images = torch.full((4, 1, 14, 14), 0.7)
    measured = compare(model, images, torch.tensor([0, 1, 2, 0]), level)
    row = measured.row
    assert row["class"] == ("compensation" if row["difference"] else "identical")
    assert row["replay_routed"] == row["real_routed"] == "no"
    assert [layer["tied"] for layer in measured.layers] == [layer["windows"] for layer in measured.layers]


def test_a_flat_image_is_compensation_somewhere() -> None:
    """Sums of nine thirds differ from the whole in some precision."""
    model, images, labels = window([[0.7]] * 3, [0.5], out=0.7)
    classes = {compare(model, images, labels, level).row["class"] for level in LEVELS}
    assert "compensation" in classes


@every_level
def test_values_that_merge_by_rounding(level: str) -> None:
    """1 and 1 + 1/4 ulp. In float64 itself they tie, too, and no wider pass says that they should not."""
    tiny = finest(level) / 4
    model, images, labels = window([[1, 0], [1, 1]], [1, tiny])
    row = compare(model, images, labels, level).row
    assert row["class"] == ("real" if level == "float64" else "rounding_induced")
    assert_near(row["replay"], arriving(model, 1.0) / 2, level)
    assert_near(row["difference"], arriving(model, 1.0) / 2, level)
    assert row["real"] == (row["replay"] if level == "float64" else 0)
    assert row["replay_common"] == row["real"]


def sums_of(images: Tensor, level: str) -> list[float]:
    """The values of a window in a precision, and in float64 by the library's products."""
    precision = PRECISIONS[level]
    convolution = precision.cast_model(nn.Conv2d(images.shape[1], 1, 1, bias=False))
    nn.init.ones_(convolution.weight)
    with torch.no_grad(), precision.arithmetic(CPU):
        return convolution(precision.cast_batch(images)).flatten().tolist()


@every_level
@pytest.mark.parametrize("exponent", [12, 24, 30, 60])
def test_a_permuted_duplicate(level: str, exponent: int) -> None:
    """1, 2**-k and -1 in two orders are one number over the reals, 2**-k. Where the working precision sums them to two
    numbers and float64 to one, a tie is lost; where float64 does not tie either, it leaves the window undecided."""
    values = [1.0, 2.0**-exponent, -1.0]
    orders = list(permutations(values))
    seen = set()
    for other in orders[1:]:
        model, images, labels = window([orders[0], other], [1, 1, 1])
        # Over the reals, of the images that the working precision has.
        work = sums_of(images, level)
        real = sums_of(PRECISIONS[level].cast_batch(images).double(), "float64")
        tied, tied_real = work[0] == work[1], real[0] == real[1]
        row = compare(model, images, labels, level).row
        expected = {(True, True): "real", (True, False): "rounding_induced", (False, True): "lost_tie"}
        assert row["class"] == expected.get((tied, tied_real), "identical")
        assert (row["difference"] > 0) == tied
        assert row["undecided_windows"] == (not tied_real)
        seen.add(row["class"])
    if (exponent, level) == (60, "float64"):
        assert "identical" in seen
    if (exponent, level) in ((24, "float16"), (24, "mixed16"), (30, "bfloat16"), (30, "float32")):
        assert "lost_tie" in seen


@every_level
@pytest.mark.parametrize("values", [(-1.0, -1.0), (-1.0, -2.0), (0.0, 0.0), (0.0, -1.0)])
def test_ties_behind_a_dead_relu_are_identical(level: str, values: tuple[float, float]) -> None:
    """Also where the ReLU is at 0 and its derivative there is 0."""
    model, images, labels = window([[values[0], 0], [0, values[1]]], [1, 1], nn.ReLU())
    measured = compare(model, images, labels, level)
    assert measured.row["class"] == "identical"
    assert measured.row["difference"] == measured.row["difference_published"] == 0
    assert measured.row["replay"] == measured.row["real"] == measured.row["replay_common"] == 0
    assert measured.row["entries_differing"] == 0
    (layer,) = measured.layers
    assert layer["tied"] == layer["tied_at_zero"] == layer["tied_with_gradient"] == layer["tied_both"] == 1
    # With another derivative at 0 a gradient passes where the input is exactly 0.
    row = compare(model, images, labels, level, ("native+relu-1", "native")).row
    chosen_is_zero = values[0] == 0 and 0 in (values[0], values[1])
    assert row["difference"] == row["replay"] == 0  # it is multiplied by the patch, which is 0 there
    assert row["class"] in (("identical",) if not chosen_is_zero else ("identical", "masked"))


@every_level
def test_the_derivative_of_relu_at_zero(level: str) -> None:
    """(2, -2) with equal weights is 0, where a gradient passes or not."""
    model, images, labels = window([[2, -2], [-1, 0]], [0.5, 0.5], nn.ReLU())
    measured = compare(model, images, labels, level, ("native+relu-1", "native"))
    assert measured.row["class"] == "real"
    assert_near(measured.row["replay"], 2 * arriving(model, 0.0), level)
    assert [layer["kind"] for layer in measured.layers] == ["relu", "max_pool"]
    assert [layer["tied"] for layer in measured.layers] == [1, 1]
    assert [layer["tied_with_gradient"] for layer in measured.layers] == [1, 1]
    # Behind a ReLU that passes a gradient at 0 the ties of the pooling matter, too.
    both = compare(model, images, labels, level, ("minimal+relu-1", "native+relu-1"))
    assert both.row["class"] == "real"
    assert_near(both.row["replay"], arriving(model, 0.0), level)


# A patch and a factor of the logit, whose product with the gradient is no number of the precision but 0.
VANISHING = {
    "float16": (2.0**-20, 2.0**-10),
    "mixed16": (2.0**-20, 2.0**-24),
    "bfloat16": (2.0**-100, 2.0**-60),
    "float32": (2.0**-100, 2.0**-60),
    "float64": (2.0**-600, 2.0**-600),
}


@every_level
def test_gradients_that_underflow_are_masked(level: str) -> None:
    """The programs differ by 2**-k of a gradient that is too small for the working precision; in float64 itself nothing
    is left of it."""
    small, out = VANISHING[level]
    model, images, labels = window([[small, 0], [0, small]], [1, 1], out=out)
    row = compare(model, images, labels, level).row
    assert row["difference"] == row["gradient"] - abs(row["gradient"]) == 0
    assert row["entries_differing"] == 0
    assert row["class"] == ("identical" if level == "float64" else "masked")
    if level != "float64":
        assert_near(row["replay"], small * out / 4, level)  # the softmax is the working precision's
        assert_near(row["replay_float32"], row["replay"], "float32")


@every_level
def test_subnormal_gradients_are_seen(level: str) -> None:
    """The smallest number of the type is still a difference."""
    small, _ = VANISHING[level]
    smallest = torch.finfo(PRECISIONS[level].autocast or PRECISIONS[level].dtype).smallest_normal * finest(level)
    scale = 65536.0 if level == "mixed16" else 1.0
    # Native: all of 4 units to one; minimal: 2 units to each. The second logit is 0, and so half of the factor arrives.
    model, images, labels = window([[small, 0], [0, small]], [1, 1], out=8 * smallest / small / scale)
    row = compare(model, images, labels, level).row
    assert row["difference"] == 2 * smallest / scale
    assert row["entries_differing"] == 2
    # float32 has no such number, whatever it is scaled by.
    assert row["class"] == ("undecided" if level == "float64" else "real")


@every_level
def test_forward_overflow(level: str) -> None:
    largest = torch.finfo(PRECISIONS[level].autocast or PRECISIONS[level].dtype).max
    model, images, labels = window([[2, 0], [0, 2]], [largest, largest])
    for replays in (True, False):
        measured = compare(model, images, labels, level, replays=replays)
        row = measured.row
        assert row["class"] == "overflow"
        assert row["forward_overflow"]
        assert not row["backward_overflow"]
        assert not math.isfinite(row["difference"])
        assert not math.isfinite(row["difference_published"])
        assert row["entries_differing"] > 0
        assert row["replay"] is None
        assert measured.layers[0]["tied_float64"] is None
        assert measured.layers[0]["windows"] == 0  # such a pass is not in the census


@every_level
def test_an_overflow_that_a_relu_hides(level: str) -> None:
    """-inf becomes 0, and all that follows is finite."""
    largest = torch.finfo(PRECISIONS[level].autocast or PRECISIONS[level].dtype).max
    model, images, labels = window([[-2, 0], [0, -2]], [largest, largest], nn.ReLU())
    for replays in (True, False):
        row = compare(model, images, labels, level, replays=replays).row
        assert math.isfinite(row["difference"])
        assert row["forward_overflow"]
        assert row["class"] == "overflow"


# A patch, its weight and a factor of the logit: the values are 1 and the factor, and the product of all is too large.
EXPLODING = {
    "float16": (6e4, 1 / 6e4, 1000.0),
    "mixed16": (6e4, 1 / 6e4, 1000.0),
    "bfloat16": (1e30, 1e-30, 1e20),
    "float32": (1e30, 1e-30, 1e20),
    "float64": (1e200, 1e-200, 1e150),
}


@every_level
def test_backward_overflow(level: str) -> None:
    large, weight, out = EXPLODING[level]
    model, images, labels = window([[large, 0], [0, large]], [weight, weight], out=out)
    row = compare(model, images, labels, level).row
    assert row["class"] == "overflow"
    assert row["backward_overflow"]
    assert not row["forward_overflow"]
    assert not math.isfinite(row["difference"])
    assert not math.isfinite(row["gradient"])
    assert row["entries_differing"] > 0
    if level in ("float16", "mixed16", "bfloat16", "float32"):
        assert math.isfinite(row["replay"])
        assert row["replay"] > 0


def test_the_scale_of_the_loss_is_halved_until_nothing_overflows() -> None:
    """With autocast; in powers of two, which change no bit of a gradient that is neither too large nor too small."""
    model, images, labels = window([[2, 0], [0, 2]], [0.5, 0.5], out=8.0)
    row = compare(model, images, labels, "mixed16").row
    expected = {scale: working_difference(model, images, labels, "mixed16", ("minimal", "native"), scale)
                for scale in (65536.0, 1024.0)}  # fmt: skip
    assert not math.isfinite(expected[65536.0])
    assert row["difference_published"] == expected[1024.0]
    assert row["class"] == "real"
    assert not row["backward_overflow"]


@every_level
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_an_image_that_is_not_finite(level: str, value: float) -> None:
    model, images, labels = coarse(NETWORKS["two poolings"](), 3, 0)
    images[1, 0, 3, 3] = value
    for replays in (True, False):
        row = compare(model, images, labels, level, replays=replays).row
        assert row["class"] == "overflow"
        assert row["forward_overflow"]
        assert row["difference"] != 0
        assert row["entries_differing"] > 0


def test_a_gradient_that_is_not_finite_is_never_lost() -> None:
    """One infinite entry among many: its difference is NaN, and so are the norms."""
    model, images, labels = coarse(NETWORKS["two poolings"](), 3, 0)
    model[0].weight.data = model[0].weight.data * 2.0**-100
    images[:, 1] *= 2.0**100
    model[-1].weight.data *= 2.0**60
    row = compare(model, images, labels, "float32").row
    assert row["backward_overflow"]
    assert not row["forward_overflow"]
    assert row["class"] == "overflow"
    for name in ("difference", "difference_l1", "difference_published", "difference_published_l1", "gradient"):
        assert not math.isfinite(row[name])


@pytest.mark.parametrize("level", ["float16", "bfloat16", "mixed16", "float32"])
def test_a_program_restricted_to_common_ties_sends_gradient_on(level: str) -> None:
    """Two poolings: the second ties in float64, too; below the maximum that native ignores the first one ties by rounding.
    No gradient of the native program arrives there, but one of the restricted program does, and is not split."""
    tiny = finest(level) / 8
    patches = [[1, 0, 0, 0], [0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 1, -1]]
    model, images, labels = window(patches, [1, 0.25, 1, tiny])
    model = nn.Sequential(model[0], nn.MaxPool2d((1, 2)), nn.MaxPool2d((1, 2)), *model[2:])
    measured = compare(model, images, labels, level)
    assert [layer["tied"] for layer in measured.layers] == [1, 1]
    assert [layer["tied_both"] for layer in measured.layers] == [0, 1]
    g = arriving(model, 1.0)
    assert_near(measured.row["replay"], g, level)  # a quarter of the gradient, times 4
    assert_near(measured.row["replay_common"], 2 * g, level)  # half of it
    assert_near(measured.row["real"], 2 * g, level)


def test_over_the_reals_autocast_rounds_nothing() -> None:
    """The replay of a mixed pass has the weights in 16 bits, that of the float64 pass those of float32."""
    model, images, labels = window([[2, 0], [0, 2]], [0.5, 0.5], out=1 / 192)
    row = compare(model, images, labels, "mixed16").row
    weight = model[-1].weight.data
    assert weight.float()[0, 0] != weight.half()[0, 0]
    weight.copy_(weight.float())
    assert_near(row["real"], arriving(model, 1.0))
    weight.copy_(weight.half())
    # The logarithm of the probabilities is in float32.
    assert_near(row["replay"], arriving(model, 1.0), "float32")
    assert row["replay"] != row["real"]


@pytest.mark.parametrize("beta", [1.0, 3.0, -0.5])
@every_level
def test_a_tie_below_a_tie(level: str, beta: float) -> None:
    """Two poolings with a convolution in between: the gradients of four equal values, one channel each, are products of
    1 - beta / 2 for a maximum that native takes, and of beta / 2 for the other one."""
    model, images, labels = window(torch.eye(4).tolist(), [1.0] * 4, out=2.0**-6)
    between = nn.Conv2d(1, 1, 1, bias=False).double()
    nn.init.ones_(between.weight)
    model = nn.Sequential(model[0], nn.MaxPool2d((1, 2)), between, nn.MaxPool2d((1, 2)), *model[2:])
    program = {1.0: "minimal"}.get(beta, f"hybrid-{beta:g}-exact")
    row = compare(model, images, labels, level, (program, "native")).row
    taken, other = 1 - beta / 2, beta / 2
    moved = [abs(taken**2 - 1), abs(taken * other), abs(taken * other), other**2]
    assert row["class"] == "real"
    for prefix in ("replay", "real"):
        assert_near(row[prefix], max(moved) * arriving(model, 1.0), level)
        assert_near(row[f"{prefix}_l1"], sum(moved) * arriving(model, 1.0), level)


def test_the_ties_of_float64_are_those_of_its_own_order_of_summation() -> None:
    """Sums of 1, -1, 2**-60 and 0 over two channels and two columns are 0 or 2**-60, as the order has it."""
    seen = set()
    for terms in permutations([1.0, -1.0, 2.0**-60, 0.0]):
        model = nn.Sequential(
            nn.Conv2d(2, 1, (1, 2), (1, 2), bias=False), nn.MaxPool2d((1, 2)), nn.Flatten(), nn.Linear(1, 2)
        )
        nn.init.ones_(model[0].weight)
        images = torch.zeros(1, 2, 1, 4, dtype=torch.float64)
        images[0, :, 0, :2] = torch.tensor(terms).view(2, 2)
        images[0, 0, 0, 2] = 2.0**-60
        (layer,) = compare(model.double(), images, torch.tensor([0]), "float64").layers
        assert layer["tied"] == layer["tied_float64"] == layer["tied_both"]
        assert layer["undecided_windows"] == 1 - layer["tied"]
        seen.add(layer["tied"])
    assert seen == {0, 1}


# ------------------------------------------------------------------------------------------------- truth table


@pytest.mark.parametrize(
    ("in_float64", "in_float32", "expected"),
    [
        (0.0, 0.0, "no"), (0.0, 1.0, "no"), (1.0, 0.0, "undecided"), (1.0, 1.0, "yes"), (1e-300, 1e-300, "yes"),
        (1.0, 2.0, "yes"), (1.0, 0.5, "yes"), (1.0, 2.0 * (1 + 2**-50), "undecided"), (1.0, 0.5 * (1 - 2**-50), "undecided"),
        (2.0**-20, 1.0, "no"), (2.0**-20 * (1 + 2**-50), 1.0, "undecided"), (2.0**-29, 1.0, "no"), (1.0, 5e-324, "undecided"),
        (NAN, 1.0, "undecided"), (1.0, NAN, "undecided"), (INF, INF, "undecided"), (1.0, INF, "undecided"),
        (INF, 1.0, "undecided"), (0.0, NAN, "undecided"),
    ],
)  # fmt: skip
def test_routed(in_float64: float, in_float32: float, expected: str) -> None:
    assert routed(in_float64, in_float32) == expected


CLASS_OF = {
    ("yes", "yes", True): "real", ("yes", "yes", False): "masked",
    ("yes", "no", True): "rounding_induced", ("yes", "no", False): "masked",
    ("no", "yes", True): "lost_tie", ("no", "yes", False): "lost_tie",
    ("no", "no", True): "compensation", ("no", "no", False): "identical",
}  # fmt: skip


@pytest.mark.parametrize("at_work", ["yes", "no", "undecided"])
@pytest.mark.parametrize("at_real", ["yes", "no", "undecided"])
@pytest.mark.parametrize("difference", [0.0, 5e-324, 1.0, INF, NAN])
def test_classes(difference: float, at_work: str, at_real: str) -> None:
    found = zone_class(difference, at_work, at_real)
    assert found in CLASSES
    if not math.isfinite(difference):
        assert found == "overflow"
    else:
        assert found == CLASS_OF.get((at_work, at_real, difference > 0), "undecided")


# ---------------------------------------------------------------------------------------------- pairs of programs


@pytest.mark.parametrize("program", ["native", "minimal", "hybrid-10-exact", "minimal+relu-1", "norm-0", "norm-1"])
@every_level
def test_equal_programs_are_identical(level: str, program: str) -> None:
    model, images, labels = coarse(NETWORKS["two poolings"](), 16, 1)
    model[-1].weight.data /= 64  # for the scale of the loss in mixed precision
    row = compare(model, images, labels, level, (program, program)).row
    assert row["class"] == "identical"
    zeros = ("difference", "difference_l1", "difference_published", "difference_published_l1", "entries_differing")
    replays = [f"{prefix}{suffix}" for prefix in ("replay", "real") for suffix in ("", "_l1", "_float32")]
    assert all(row[name] == 0 for name in (*zeros, *replays, "replay_common"))
    assert row["gradient"] > 0


def test_programs_of_one_derivative_are_identical() -> None:
    model, images, labels = coarse(NETWORKS["two poolings"](), 3, 1)
    for pair in (("hybrid-0-exact", "native"), ("hybrid-1-exact", "minimal")):
        assert compare(model, images, labels, "float32", pair).row["class"] == "identical"


@pytest.mark.parametrize(
    "pair", [("hybrid-1000-composed", "native"), ("native", "hybrid-2-composed"), ("norm-0", "native")]
)
def test_programs_with_other_forward_passes_cannot_be_replayed(pair: tuple[str, str]) -> None:
    model, images, labels = coarse(NETWORKS["two poolings"](), 3, 3)
    with pytest.raises(ValueError, match="cannot be replayed"):
        compare(model, images, labels, "float32", pair)
    measured = compare(model, images, labels, "float32", pair, replays=False)
    assert measured.row["class"] == ""
    in_work = working_difference(model, images, labels, "float32", pair)
    assert abs(measured.row["difference"] - in_work) <= 2.0**-24 * in_work
    assert in_work > 0
    assert measured.row["replay"] is None
    assert [layer["kind"] for layer in measured.layers] == [
        "norm_pool" if pair[1].startswith("norm") else "max_pool"
    ] * 2


@every_level
def test_without_replays_the_working_precision_is_the_same(level: str) -> None:
    model, images, labels = coarse(NETWORKS["batch norm"](), 3, 1)
    full, short = (compare(model, images, labels, level, replays=replays) for replays in (True, False))
    for name in ("loss", "difference", "difference_l1", "gradient", "entries_differing", "forward_overflow"):
        assert full.row[name] == short.row[name] or full.row["class"] == "overflow"
    for layer, part in zip(full.layers, short.layers, strict=True):
        assert {name: part[name] for name in COUNTED} == {name: layer[name] for name in COUNTED}


@every_level
def test_norm_pooling(level: str) -> None:
    """At a window of zeros norm-1 lets the gradient pass to all entries: here 4 patches of a zero sum."""
    model, images, labels = window([[1, -1], [2, -2], [-1, 1], [3, -3]], [0.5, 0.5])
    row = compare(model, images, labels, level, ("norm-1", "norm-0")).row
    assert row["class"] == "real"
    assert_near(row["replay"], 5 * arriving(model, 0.0), level)


# ------------------------------------------------------------------------------------------------- kinds of networks


@pytest.mark.parametrize("pair", PAIRS[:3], ids="-vs-".join)
@pytest.mark.parametrize("normalization", ["none", "batch_norm"])
@pytest.mark.parametrize("architecture", ["lenet5", "resnet18", "densenet121"])
def test_in_float64_a_replay_is_the_difference(architecture: str, normalization: str, pair: tuple[str, str]) -> None:
    """Up to the rounding of the gradients, of which no entry is a sum of more than 2**16 terms on its way of 2**4 layers."""
    if architecture == "densenet121" and pair != PAIRS[0]:
        pytest.skip("large, and as the others")
    size = ARCHITECTURES[architecture].image_size
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(architecture, Native(), normalization, 3, 10)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(-1, 2, (2, 3, size, size), generator=generator).float()
    images[:, :, : size // 2] = images[:, :1, : size // 2]
    measured = compare(model, images, torch.tensor([3, 5]), "float64", pair)
    row = measured.row
    assert abs(row["replay"] - row["difference"]) <= 2.0**20 * U * row["terms"]
    for prefix in ("real", "real_l1", "real_float32", "real_routed"):
        assert row[prefix] == row[prefix.replace("real", "replay")]
    assert row["replay_common"] == row["replay"]
    for layer in measured.layers:
        assert layer["tied"] == layer["tied_float64"] == layer["tied_both"]
        assert layer["tied_with_gradient"] <= layer["tied"] <= layer["windows"]


class TwiceUsed(nn.Module):
    """A residual network: one ReLU in two places, and a sum in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(2, 2, 1), nn.ReLU(), nn.MaxPool2d(2)
        self.linear = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        y = self.conv(x)
        y += x
        return self.linear(self.pool(self.relu(y)).flatten(1))


def test_a_layer_that_is_used_twice() -> None:
    """Against autograd in float64, where a replay is the difference."""
    largest = 0.0
    for seed, pair in product(range(3), PAIRS):
        model, images, labels = coarse(TwiceUsed(), 3, seed)
        row = compare(model, images, labels, "float64", pair).row
        in_work = working_difference(model.double(), images.double(), labels, "float64", pair)
        assert abs(row["replay"] - in_work) <= 1000 * U * row["terms"] * 30
        largest = max(largest, in_work)
    assert largest > 0


@pytest.mark.parametrize("network", [
    lambda: nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3)),
    lambda: nn.Sequential(nn.Flatten(), nn.Linear(128, 3)),
])  # fmt: skip
@every_level
def test_nothing_before_the_poolings(level: str, network) -> None:
    """No parameter's gradient passes a pooling."""
    model, images, labels = coarse(network(), 16, 0)
    row = compare(model, images, labels, level).row
    assert row["class"] == "identical"
    assert row["replay"] == row["real"] == row["difference"] == 0
    assert row["terms"] > 0


class Unused(TwiceUsed):
    def forward(self, x: Tensor) -> Tensor:
        self.pool(self.relu(x))
        return super().forward(x)


def test_a_layer_whose_output_is_not_used() -> None:
    model, images, labels = coarse(TwiceUsed(), 3, 0)
    other = Unused()
    other.load_state_dict(model.state_dict())
    expected, found = compare(model, images, labels), compare(other, images, labels)
    clocks = {"seconds_pair", "seconds_replays"}
    assert {k: v for k, v in found.row.items() if k not in clocks} == {
        k: v for k, v in expected.row.items() if k not in clocks
    }
    assert found.layers[0]["tied_with_gradient"] == 0
    assert found.layers[1:] == expected.layers


@every_level
def test_one_image(level: str) -> None:
    """A minibatch of one is the sum of its differences; channels may come last."""
    model, images, labels = coarse(NETWORKS["pooling before ReLU"](), 1, 2)
    row = compare(model, images, labels, level).row
    last = compare(
        model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last), labels, level
    )
    assert row["images"] == 1
    assert last.row["class"] == row["class"]
    for name in ("replay", "real", "terms"):
        # In another order of summation.
        assert last.row[name] == pytest.approx(row[name], rel=1e-6 if name == "terms" else 1e-12)


def test_measuring_changes_no_weights_and_repeats() -> None:
    model, images, labels = coarse(NETWORKS["batch norm"](), 3, 0)
    before = copy.deepcopy(model.state_dict())
    comparison = Comparison(model, Program("minimal"), Program("native"), PRECISIONS["float16"], CPU)
    rows = [comparison.measure(images, labels).row for _ in range(2)]
    for row in rows:
        del row["seconds_pair"], row["seconds_replays"]
    assert rows[0] == rows[1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for program in comparison.programs for parameter in program.parameters())


# -------------------------------------------------------------------------------------------------------- columns


def test_terms_against_a_loop() -> None:
    """Of the native program: absolute products of what enters a layer and what arrives at its output, added up."""
    model, images, labels = coarse(NETWORKS["batch norm after pooling"](), 3, 0)
    precision = PRECISIONS["float64"]
    row = compare(model.double(), images.double(), labels, "float64").row
    recorded = {}

    def remember(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        recorded[layer] = inputs[0].detach(), output

    layers = [layer for layer in model if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    for layer in layers:
        layer.register_forward_hook(remember)
    network_loss(model, images.double(), labels, precision).backward()
    expected = 0.0
    for layer in layers:
        x, output = recorded[layer]
        g = output.grad.abs()
        if isinstance(layer, nn.Linear):
            weight = sum(g[n][:, None] * x[n].abs() for n in range(3))
            bias = g.sum(0)
        elif isinstance(layer, nn.Conv2d):
            weight = torch.zeros_like(layer.weight)
            for n, i, j in product(range(3), range(6), range(6)):
                weight += g[n, :, i, j, None, None, None] * x[n, :, i : i + 3, j : j + 3].abs()
            bias = g.sum((0, 2, 3))
        else:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            normalized = (x - mean.view(-1, 1, 1)) / (variance + layer.eps).sqrt().view(-1, 1, 1)
            weight, bias = (g * normalized.abs()).sum((0, 2, 3)), g.sum((0, 2, 3))
        expected += weight.max().item() + bias.max().item()
    # In float32, with at most 108 terms after at most three layers of 54.
    assert row["terms"] == pytest.approx(expected, rel=300 * 2.0**-24)


def test_terms_of_a_layer_that_is_used_twice() -> None:
    """Are those of the sum of its gradients: with equal signs everywhere the gradient itself."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(self.inner(self.inner(x.flatten(1))))

    model = Twice()
    model.inner.weight.data.fill_(0.5)
    model.outer.weight.data = torch.tensor([[1.0], [0.0]])
    row = compare(model, torch.ones(1, 1, 1, 1), torch.tensor([1])).row
    assert row["terms"] == pytest.approx(row["gradient"], rel=1e-6)


@pytest.mark.parametrize("level", ["float16", "float32"])
def test_biases_before_batch_norm_are_left_out(level: str) -> None:
    """Of the difference and the gradient, but not of what was published."""
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 3)
    )
    largest = 0.0
    for seed in range(4):
        model, images, labels = coarse(copy.deepcopy(network), 8, seed)
        precision = PRECISIONS[level]
        row = compare(model, images, labels, level).row
        gradients = []
        for name in ("minimal", "native"):
            program = precision.cast_model(with_derivatives(copy.deepcopy(model), Program(name)))
            with precision.arithmetic(CPU):
                network_loss(program, precision.cast_batch(images), labels, precision).backward()
            gradients.append({name: parameter.grad.float() for name, parameter in program.named_parameters()})
        differences = {name: (gradients[0][name] - value).double().abs() for name, value in gradients[1].items()}
        kept = [name for name in differences if name != "0.bias"]
        assert row["difference"] == sum(differences[name].max().item() for name in kept)
        assert row["difference_l1"] == pytest.approx(sum(differences[name].sum().item() for name in kept), rel=1e-12)
        assert row["difference_published"] == sum(difference.max().item() for difference in differences.values())
        assert row["difference_published_l1"] == pytest.approx(
            sum(difference.sum().item() for difference in differences.values()), rel=1e-12
        )
        assert row["gradient"] == sum(gradients[1][name].abs().max().double().item() for name in kept)
        assert row["entries_differing"] == sum(int((difference != 0).sum()) for difference in differences.values())
        largest = max(largest, differences["0.bias"].max().item())
    assert largest > 0
