"""Running error bounds against exact arithmetic, and undecided windows one by one.

Small passes are recomputed by loops in decimal arithmetic of 60 digits. Larger ones in float32 are compared with
float64, whose own error is bounded by the same rules: the two differ by the sum of both bounds at most.
"""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Callable
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nonsmooth.architectures import ARCHITECTURES, NORMALIZATIONS, build
from nonsmooth.pooling import max_pool2d
from nonsmooth.pooling.kernels import kernels
from nonsmooth.rules import Minimal, Native
from nonsmooth.zones.bounds import ErrorBounds, undecided_windows
from nonsmooth.zones.error_rules import RULES

DTYPES = (torch.float32, torch.float64)
# (kernel, stride, padding, dilation, ceil mode): tiled, overlapping, sparse, dilated, with a partial window at the end.
GEOMETRIES = [(2, 2, 0, 1, False), (3, 2, 1, 1, False), (2, 1, 0, 1, False), ((2, 3), (3, 1), (1, 0), 1, True),
              (2, 2, 0, 2, False), (3, 3, 0, 1, True), (1, 1, 0, 1, False)]  # fmt: skip

# PyTorch says so whenever a flag of oneDNN is set.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")


@pytest.fixture(autouse=True)
def no_winograd():
    """oneDNN's float32 convolutions may compute other products than those of the definition."""
    with torch.backends.mkldnn.flags(enabled=False):
        yield


def with_bounds(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, Tensor]:
    bounds = ErrorBounds()
    with torch.no_grad(), bounds:
        output = function(*inputs)
    return output, bounds.of(output)


def assert_bounded(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Float32 and float64 differ by both bounds at most; returns the bound of float32. Inputs are float32."""
    narrow, bound = with_bounds(function, *inputs)
    wide, wide_bound = with_bounds(function, *(x.double() for x in inputs))
    assert narrow.dtype == torch.float32
    assert bound.shape == narrow.shape
    assert bound.dtype == torch.float64
    assert not bound.isnan().any()
    assert bound[~narrow.isfinite()].isinf().all()
    assert wide_bound[bound.isfinite()].isfinite().all()  # else the comparison would say nothing
    assert ((narrow.double() - wide).abs()[bound.isfinite()] <= (bound + wide_bound)[bound.isfinite()]).all()
    return bound


# ---------------------------------------------------------------------------------------------- exact arithmetic

exact = np.vectorize(Decimal, otypes=[object])


def plain_convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    (n, _, h, w), (channels, _, k, _) = x.shape, weight.shape
    out = np.empty((n, channels, h - k + 1, w - k + 1), object)
    for i, c, row, column in np.ndindex(out.shape):
        out[i, c, row, column] = (x[i, :, row : row + k, column : column + k] * weight[c]).sum() + bias[c]
    return out


def plain_batch_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    out = np.empty_like(x)
    for c in range(x.shape[1]):
        values = x[:, c]
        mean = values.sum() / values.size
        variance = ((values - mean) ** 2).sum() / values.size
        out[:, c] = weight[c] * (values - mean) / (variance + Decimal(epsilon)).sqrt() + bias[c]
    return out


def plain_pool(x: np.ndarray, reduce: Callable) -> np.ndarray:
    n, c, h, w = x.shape
    out = np.empty((n, c, h // 2, w // 2), object)
    for place in np.ndindex(out.shape):
        i, channel, row, column = place
        out[place] = reduce(x[i, channel, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel())
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(5))
def test_a_pass_against_decimal_arithmetic(dtype: torch.dtype, seed: int) -> None:
    """Convolution, batch norm, ReLU, both poolings, a residual and a linear layer; after each, the bound holds."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)

    image, weight, bias = draw(2, 3, 8, 8), draw(4, 3, 3, 3), draw(4)
    scale, shift, matrix, offset = draw(4), draw(4), draw(5, 4), draw(5)
    bounds = ErrorBounds()
    with torch.no_grad(), bounds:
        convolved = F.conv2d(image, weight, bias)
        normalized = F.batch_norm(convolved, None, None, scale, shift, training=True)
        residual = F.relu(normalized) + convolved
        pooled = F.avg_pool2d(F.max_pool2d(residual, 2)[..., :2, :2], 2)
        logits = F.linear(pooled.flatten(1), matrix, offset)
    with localcontext() as context:
        context.prec = 60
        expected = [plain_convolution(*(exact(x.double().numpy()) for x in (image, weight, bias)))]
        expected.append(
            plain_batch_norm(expected[0], exact(scale.double().numpy()), exact(shift.double().numpy()), 1e-5)
        )
        expected.append(np.maximum(expected[1], Decimal(0)) + expected[0])
        maxima = plain_pool(expected[2], max)[..., :2, :2]
        expected.append(plain_pool(maxima, lambda window: window.sum() / 4))
        columns = expected[3].reshape(2, 4)
        expected.append(columns @ exact(matrix.double().numpy()).T + exact(offset.double().numpy()))
        for found, values in zip((convolved, normalized, residual, pooled, logits), expected, strict=True):
            error = np.abs(exact(found.double().numpy()) - values)
            bound = bounds.of(found).numpy()
            assert (error <= exact(bound)).all()
            assert error.max() > 0  # else anything is a bound
            assert bound.max() < 1e6 * torch.finfo(dtype).eps * max(1, found.abs().max())


# ------------------------------------------------------------------------------------------------ rules, one by one


def draw(*shape: int, spread: float = 0.0, seed: int = 0) -> Tensor:
    """Float32 numbers whose sizes spread over 10 to the power of +- `spread`."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (values * 10 ** (spread * (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1))).float()


def rounded(x: Tensor) -> Tensor:
    """Something with an error: a product with a number that float32 does not have."""
    return x * 0.1


VARIANCES = torch.tensor([0.0, 1e-3, 1.0, 30.0])

OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: F.relu(rounded(x)),
    "relu_": lambda x: rounded(x).relu_(),
    "add": lambda x: rounded(x) + x,
    "add a number": lambda x: x + 0.3,
    "add_": lambda x: rounded(x).add_(x),
    "sub": lambda x: rounded(x) - x,
    "mul": lambda x: rounded(x) * rounded(x + 1),
    "div": lambda x: rounded(x) / rounded(x.transpose(2, 3)),
    "div by a number": lambda x: x / 7,
    "cat": lambda x: torch.cat([x, rounded(x)], 1) * 3,
    "mean": lambda x: rounded(x).mean((2, 3)),
    "mean of all": lambda x: rounded(x).mean(),
    "sum": lambda x: rounded(x).sum(1, keepdim=True),
    "sum of all": lambda x: rounded(x).sum(),
    "avg_pool2d": lambda x: F.avg_pool2d(rounded(x), 3, 2, 1),
    "avg_pool2d, pixels only": lambda x: F.avg_pool2d(rounded(x), 3, 2, 1, False, False),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(rounded(x), (2, 3)),
    "max_pool2d": lambda x: F.max_pool2d(rounded(x), 3, 2, 1),
    "exact max_pool2d": lambda x: max_pool2d(rounded(x), 3, 2, 1, rule=Minimal()),
    "convolution": lambda x: F.conv2d(rounded(x), x[:2, :, :3, :3].contiguous(), x[0, 0, 0, :2], 2, 1),
    "grouped convolution": lambda x: F.conv2d(rounded(x), x[:4, :1, :2, :2].contiguous(), groups=4, dilation=2),
    "inexact weights": lambda x: F.conv2d(rounded(x), rounded(x)[:2], rounded(x)[0, 0, 0, :2]),
    "addmm": lambda x: F.linear(rounded(x).flatten(1), x.flatten(1)[:3], rounded(x)[0, 0, 0, :3]),
    "mm": lambda x: rounded(x)[0, 0] @ rounded(x)[1, 1].t(),
    "views": lambda x: rounded(x).transpose(1, 3).reshape(-1, 6)[:, 1:4].unsqueeze(0).expand(2, -1, -1).contiguous(),
    "written view": lambda x: _scaled_corner(rounded(x)),
    "batch_norm": lambda x: F.batch_norm(rounded(x), None, None, x[0, :, 0, 0], x[1, :, 0, 0], training=True),
    "batch_norm, no weight": lambda x: F.batch_norm(rounded(x), None, None, training=True, eps=1e-3),
    "batch_norm of vectors": lambda x: F.batch_norm(rounded(x)[..., 0, 0], None, None, training=True),
    "batch_norm, eval": lambda x: F.batch_norm(rounded(x), x[0, :, 0, 0], VARIANCES.to(x.dtype), x[1, :, 1, 1]),
}  # fmt: skip


def _scaled_corner(x: Tensor) -> Tensor:
    x[..., :2, :2] *= 1000.1
    return x


@pytest.mark.parametrize("spread", [0, 3, 30])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_rule(name: str, spread: float) -> None:
    bounds = [assert_bounded(OPERATIONS[name], draw(5, 4, 6, 6, spread=spread, seed=seed)) for seed in range(10)]
    # A divisor that may be zero has no bound, and neither has what is left of a variance of large numbers.
    if spread == 0:
        assert all(bound.isfinite().double().mean() > 0.9 for bound in bounds)
    assert any(bound.max() > 0 for bound in bounds)


def test_every_rule_has_a_case() -> None:
    """`copy_` comes with in-place products of views; cuDNN's batch norm follows PyTorch's rule and needs a GPU; compiled
    poolings need a compiler."""
    seen = set()

    class Recorder(ErrorBounds):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.add(func.overloadpacket.__name__.removesuffix("_"))
            return super().__torch_dispatch__(func, types, args, kwargs)

    with torch.no_grad(), Recorder():
        for function in OPERATIONS.values():
            function(draw(5, 4, 6, 6))
        draw(3).double().copy_(draw(3))
    missing = set() if kernels() else {"max_pool2d_with_codes"}
    assert RULES.keys() - seen == {"cudnn_batch_norm"} | missing


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bound_is_close_to_what_happens(dtype: torch.dtype) -> None:
    """One rounding: the bound is u times the result, of which the error is a good part somewhere."""
    x = torch.linspace(1, 2, 1001, dtype=torch.float64).to(dtype)
    product, bound = with_bounds(lambda x: x * x, x)
    error = np.array([abs(Decimal(p) - Decimal(v) ** 2) for p, v in zip(product.tolist(), x.tolist(), strict=True)])
    ratio = error.astype(float) / bound.numpy()
    assert 0.8 < ratio.max() <= 1
    torch.testing.assert_close(bound, product.double() * torch.finfo(dtype).eps / 2, rtol=1e-5, atol=0)


def test_selections_of_exact_values_are_exact() -> None:
    x = draw(2, 3, 6, 6)
    functions = (
        F.relu,
        lambda x: F.max_pool2d(x, 2),
        lambda x: torch.cat([x, x]),
        lambda x: x.clone()[:, 1:].flatten(),
    )
    for function in functions:
        assert with_bounds(function, x)[1].eq(0).all()
    assert with_bounds(Tensor.double, x)[1].eq(0).all()


def test_a_value_negative_for_certain_is_exactly_zero_after_relu() -> None:
    x = torch.tensor([-1.0, -1e-20, 1e-20, 1.0])
    bound = with_bounds(lambda x: F.relu(x + 1e-9 * x), x)[1]
    assert bound[0] == 0
    assert bound[-1] > 0


def test_a_zero_that_may_be_positive_has_a_bound_after_relu() -> None:
    """1 + 2**-25 - 1 comes out as 0 in float32."""
    output, bound = with_bounds(lambda x: F.relu((x + 1) - 1), torch.tensor([2.0**-25]))
    assert output == 0
    assert bound >= 2.0**-25


def test_products_that_underflow() -> None:
    """Numbers whose products are near the smallest of float32, 1.4e-45: here no error is relative."""
    x, weight = 1e-24 * draw(20, 50), 1e-21 * draw(10, 50, seed=1)
    bound = assert_bounded(lambda x: F.linear(x, weight.to(x.dtype)), x)
    assert (bound >= 2.0**-149).all()
    assert_bounded(lambda x: F.linear(x, x * x), x)
    assert_bounded(lambda x: F.conv2d(x, weight[:, :, None, None].to(x.dtype)), x[:, :, None, None])


def test_batch_norm_far_from_zero_cancels() -> None:
    values = draw(50, 4) + 1000
    mean, variance = torch.tensor([1000.0, 1000.1, 999.0, 1001.0]), torch.tensor([1.0, 1e-4, 1.0, 3.0])
    bound = assert_bounded(lambda x: F.batch_norm(x, mean.to(x.dtype), variance.to(x.dtype)), values)
    assert bound.max() < 1000
    assert bound.isfinite().all()
    assert assert_bounded(lambda x: F.batch_norm(x, None, None, training=True), values).isfinite().all()


def test_batch_norm_of_one_inexact_outlier_moves_all_others() -> None:
    """The outlier's error is its bound: 10.0625 is half a unit of 2**20 beside a float32."""
    outlier, others = torch.full((1, 1), 10.0625), torch.tensor([[1.0], [-1.0]]).repeat(50, 1)

    def normalized(outlier: Tensor) -> Tensor:
        values = torch.cat([outlier + 2.0**20 - 2.0**20, others.to(outlier.dtype)])
        return F.batch_norm(values, None, None, training=True)

    moved = (normalized(outlier).double() - normalized(outlier.double()))[1:].abs()
    bound = assert_bounded(normalized, outlier)
    assert moved.max() > 1e-4
    assert bound[1:].max() < 20 * moved.max()


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_has_no_bound(value: float) -> None:
    x = draw(2, 3, 6, 6)
    x[1, 1, 3, 3] = value
    weight = draw(2, 3, 3, 3)
    weight[0, 0] = 0
    output, bound = with_bounds(lambda x: F.max_pool2d(F.relu(F.conv2d(x * 1, weight, padding=1)), 2), x)
    assert bound[0].isfinite().all()
    assert bound[1].isinf().any()
    assert bound[~output.isfinite()].isinf().all()


def unknown_operations() -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "an operation without a rule": torch.exp,
        "dropout": lambda x: F.dropout(x, 0.5, training=True),
        "16 bits": lambda x: x.half() * 3,
        "rounded to float32": lambda x: (x.double() / 3).float(),
        "a factor": lambda x: torch.add(x, x, alpha=3),
        "a comparison as a number": lambda x: (x > 0).float() * 2,
        "transposed convolution": lambda x: F.conv_transpose2d(x, x[:4, :1, :2, :2].contiguous()),
        "another divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
        "given storage": lambda x: torch.mul(x, x, out=torch.empty_like(x)),
        "read as another type": lambda x: (x * x).view(torch.int32).view(torch.float64),
    }


@pytest.mark.parametrize("name", unknown_operations())
def test_what_has_no_rule_has_no_bound(name: str) -> None:
    output, bound = with_bounds(unknown_operations()[name], draw(4, 4, 6, 6))
    assert output.shape == bound.shape
    assert bound.isinf().all()


def test_running_statistics_are_no_longer_exact() -> None:
    norm, x, bounds = nn.BatchNorm2d(4).double(), draw(5, 4, 6, 6).double(), ErrorBounds()
    with torch.no_grad(), bounds:
        trained = norm(x)
        tested = norm.eval()(x)
    assert bounds.of(trained).isfinite().all()
    assert bounds.of(norm.running_mean).isinf().all()
    assert bounds.of(tested).isinf().all()


def test_bounds_live_as_long_as_their_tensors() -> None:
    bounds, x = ErrorBounds(), draw(4, 4).double()
    with torch.no_grad(), bounds:
        kept = x * 2
        view = (x * 3)[1:]
        for _ in range(100):
            x = x * 0.5  # the next line lets go of the last
    gc.collect()
    with torch.no_grad(), bounds:
        kept = kept + 1
    assert len(bounds._errors) <= 4  # those in use, and at most one that is gone
    assert (bounds.of(kept) > 0).all()
    assert (bounds.of(view) > 0).all()


# ----------------------------------------------------------------------------------------------------- networks


@st.composite
def networks(draw: st.DrawFn) -> nn.Sequential:
    """Random layers; images have 3 channels of 12 x 12."""
    layers: list[nn.Module] = []
    channels, size = 3, 12
    for kind in draw(
        st.lists(st.sampled_from(["conv", "relu", "norm", "max", "avg", "residual"]), min_size=1, max_size=8)
    ):
        match kind:
            case "conv":
                outputs = draw(st.integers(1, 6))
                layers.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=draw(st.booleans())))
                channels = outputs
            case "relu":
                layers.append(nn.ReLU(inplace=draw(st.booleans()) and bool(layers)))
            case "norm":
                layers.append(nn.BatchNorm2d(channels, track_running_stats=False))
            case "residual":
                layers.append(Residual(channels))
            case "max" | "avg" if size > 2:
                layers.append((nn.MaxPool2d if kind == "max" else nn.AvgPool2d)(2))
                size //= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.convolution(x)
        out += x
        return out


def activations(model: nn.Module, images: Tensor, kinds=nn.Module) -> list[tuple[Tensor, Tensor]]:
    """What enters every layer and what leaves the network, each with its bound."""
    seen: list[Tensor] = []
    bounds = ErrorBounds()
    hooks = [layer.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
             for layer in model.modules() if isinstance(layer, kinds)]  # fmt: skip
    with torch.no_grad(), bounds:
        seen.append(model(images))
    for hook in hooks:
        hook.remove()
    return [(values, bounds.of(values)) for values in seen]


def assert_bounds_hold(model: nn.Module, images: Tensor, kinds=nn.Module) -> list[tuple[Tensor, Tensor]]:
    """In float32 against float64; returns what was seen in float64."""
    narrow = activations(model.float(), images, kinds)
    wide = activations(model.double(), images.double(), kinds)
    # Where float64 has no bound float32 has none.
    assert all(bound[b.isinf()].isinf().all() for (_, bound), (_, b) in zip(narrow, wide, strict=True))
    for (values, bound), (reference, reference_bound) in zip(narrow, wide, strict=True):
        assert ((values.double() - reference).abs() <= bound + reference_bound).all()
    return wide


@settings(max_examples=60, deadline=None)
@given(networks(), st.integers(0, 2**16), st.sampled_from([1e-3, 1.0, 1e3]))
def test_bounds_hold_in_random_networks(model: nn.Sequential, seed: int, scale: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        assert_bounds_hold(model.train(), scale * torch.randn(3, 3, 12, 12))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ["lenet5", "vgg11", "resnet18", "densenet121"])
def test_bounds_hold_at_every_pooling(architecture: str, normalization: str) -> None:
    size = ARCHITECTURES[architecture].image_size
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build(architecture, Native(), normalization, 3, 10).train()
        images = torch.randn(3, 3, size, size)
    *pooled, (logits, _) = assert_bounds_hold(model, images, nn.MaxPool2d)
    assert torch.equal(logits, model(images.double()))  # bounding changes no bit
    # Wide enough to hold and narrow enough to decide, in float64: all poolings, or the first where later ones amplify.
    decisive = pooled if normalization == "none" else pooled[:2]
    for values, bound in decisive:
        assert bound.mean() < 1e-3 * values.square().mean().sqrt()


# ------------------------------------------------------------------------------------------------ undecided windows


def plain_undecided(values: Tensor, bound: Tensor, kernel, stride, padding, dilation, shape) -> np.ndarray:
    """Window by window, for (C, H, W) and the shape of the pooling's output."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = ((n, n) if isinstance(n, int) else n
                                              for n in (kernel, stride, padding, dilation))  # fmt: skip
    out = np.zeros(shape, bool)
    for c, row, column in np.ndindex(out.shape):
        places = [
            (row * sh - ph + i * dh, column * sw - pw + j * dw) for i, j in itertools.product(range(kh), range(kw))
        ]
        places = [(i, j) for i, j in places if 0 <= i < values.shape[1] and 0 <= j < values.shape[2]]
        window = [(values[c, i, j].item(), bound[c, i, j].item()) for i, j in places]
        if any(math.isnan(value) for value, _ in window):
            out[c, row, column] = True
            continue
        largest = max(value for value, _ in window)
        tied = [error for value, error in window if value == largest]
        if len(tied) > 1:
            continue
        others = [(value, error) for value, error in window if value != largest]
        out[c, row, column] = any(
            math.isinf(error + tied[0]) or largest - value <= tied[0] + error for value, error in others
        )
    return out


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", ["floats", "integers", "nan", "inf", "no errors"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_undecided_windows_one_by_one(geometry, kind: str, dtype: torch.dtype) -> None:
    kernel, stride, padding, dilation, ceil_mode = geometry
    generator = torch.Generator().manual_seed(3)
    for height, width in ((7, 9), (8, 6), (5, 5)):
        values = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
        bound = torch.rand(values.shape, generator=generator, dtype=torch.float64)
        if kind != "floats":
            values, bound = (2 * values).round(), (2 * bound).round()  # ties, and gaps that equal the bounds
        special = torch.rand(values.shape, generator=generator) < 0.1
        if kind in ("nan", "inf"):
            values[special] = math.nan if kind == "nan" else math.inf
            bound[special] = math.inf
        if kind == "no errors":
            bound.zero_()
        values = values.to(dtype)
        found = undecided_windows(values, bound, *geometry)
        pooled = F.max_pool2d(values, kernel, stride, padding, dilation, ceil_mode)
        assert found.shape == pooled.shape
        assert found.dtype == torch.bool
        for image, image_bound, image_found in zip(values, bound, found, strict=True):
            expected = plain_undecided(image, image_bound, kernel, stride, padding, dilation, pooled.shape[1:])
            alone = kernel == 1 or not image.isnan().any()
            if alone and kind == "nan":
                expected |= image.isnan().numpy()
            np.testing.assert_array_equal(image_found.numpy(), expected)
            unbatched = undecided_windows(image, image_bound, *geometry)
            np.testing.assert_array_equal(unbatched.numpy(), image_found.numpy())
        if kind == "no errors":
            assert not found.any()
        elif kernel != 1:
            assert found.any()


def test_default_stride_is_the_kernel() -> None:
    values, bound = torch.tensor([[[1.0, 2.0, 5.0, 9.0]]]), torch.full((1, 1, 4), 0.5)
    assert undecided_windows(values, bound, (1, 2)).tolist() == [[[True, False]]]


def test_a_window_of_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing but padding"):
        undecided_windows(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), 2, 1, 1, 3)


def test_gaps_within_the_bounds_of_a_pass_are_found() -> None:
    """Two sums of the same numbers in other orders: equal over the reals, and not in floating point."""
    a, b, c = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).view(3, 1, 1, 1).unbind()
    bounds = ErrorBounds()
    with torch.no_grad(), bounds:
        window = torch.cat([(a + b) + c, a + (b + c)], 2)
    assert window[0, 0, 0] != window[0, 0, 1]
    assert undecided_windows(window, bounds.of(window), (1, 2)).all()
    assert not undecided_windows(window, torch.zeros_like(window), (1, 2)).any()
