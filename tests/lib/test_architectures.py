"""The networks: layers as their papers describe them, parameters counted by hand, derivatives that reach every layer.

The descriptions here are those of the papers, written out: LeNet-5 as in arXiv 2401.02736, VGG's table 1 (Simonyan and
Zisserman), ResNet's table 1 (He et al.), DenseNet's table 1 (Huang et al.).
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, partial
from itertools import pairwise
from pkgutil import resolve_name

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nonsmooth import activations, architectures
from nonsmooth.architectures import ARCHITECTURES, NORMALIZATIONS, Architecture, build
from nonsmooth.pooling import MaxPool2d, max_pool2d
from nonsmooth.rules import Hybrid, Minimal, Native, Rule, Strided

NATIVE = Native()

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)
every_normalization = pytest.mark.parametrize("normalization", NORMALIZATIONS)

# 3x3 convolutions by their channels, and M for a pooling.
VGG = {
    "vgg11": "64 M 128 M 256 256 M 512 512 M 512 512 M",
    "vgg13": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}
# Blocks per stage of 64, 128, 256, 512 channels; a bottleneck widens its last convolution by 4.
RESNET = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
DENSENET_BLOCKS, GROWTH = (6, 12, 24, 16), 32


def image_size(name: str) -> int:
    return ARCHITECTURES[name].image_size


@cache
def drawn(name: str, normalization: str) -> nn.Module:
    """A network with seed 0, for reading."""
    torch.manual_seed(0)
    return build(name, Native(), normalization, 3, 10)


def without_values(
    name: str,
    normalization: str = "none",
    rule: Rule = NATIVE,
    derivative: float = 0.0,
) -> nn.Module:
    """A network that computes shapes only, and draws nothing."""
    with torch.device("meta"):
        return build(name, rule, normalization, 3, 10, derivative)


def black(name: str, count: int, device: str = "cpu") -> Tensor:
    return torch.zeros(count, 3, image_size(name), image_size(name), device=device)


# ------------------------------------------------------------------------------ layers in order of execution


def described(name: str, normalization: str) -> Iterator[str]:
    """The layers of the papers, in order: `conv3-64/2` is a 3x3 convolution to 64 channels with stride 2."""
    norm = ["bn"] if normalization == "batch_norm" else []
    if name == "lenet5":
        for channels in (6, 16):
            yield from (f"conv5-{channels} without padding", "relu", "pool2", *norm)
        yield "flatten"
        for features in (120, 84):
            yield from (f"linear-{features}", "relu", *norm)
        yield "linear-10"
    elif name in VGG:
        for layer in VGG[name].split():
            yield from ("pool2",) if layer == "M" else (f"conv3-{layer}", *norm, "relu")
        yield from ("flatten", "linear-10")
    elif name in RESNET:
        yield from ("conv7-64/2" if name == "resnet50" else "conv3-64", *norm, "relu", "pool2")
        inputs = 64
        for stage, blocks in enumerate(RESNET[name]):
            width = 64 * 2**stage
            outputs = 4 * width if name == "resnet50" else width
            for block in range(blocks):
                stride = "/2" if stage > 0 and block == 0 else ""
                if name == "resnet50":
                    yield from (f"conv1-{width}", *norm, "relu", f"conv3-{width}{stride}", *norm, "relu")
                    yield from (f"conv1-{outputs}", *norm)
                else:
                    yield from (f"conv3-{width}{stride}", *norm, "relu", f"conv3-{width}", *norm)
                if stride or inputs != outputs:
                    yield from (f"conv1-{outputs}{stride}", *norm)
                yield "relu"
                inputs = outputs
        yield from ("mean", "linear-10")
    else:
        yield from ("conv7-64/2", *norm, "relu", "pool2")
        channels = 64
        for number, layers in enumerate(DENSENET_BLOCKS, start=1):
            for _ in range(layers):
                yield from ("relu", f"conv1-{4 * GROWTH}", "relu", f"conv3-{GROWTH}")
                channels += GROWTH
            if number < len(DENSENET_BLOCKS):
                channels //= 2
                yield from (*norm, "relu", f"conv1-{channels}", "avg2")
        yield from ("relu", "mean", "flatten", "linear-10")


def describe(module: nn.Module) -> str:
    match module:
        case nn.Conv2d():
            (size, _), (stride, _), (padding, _) = module.kernel_size, module.stride, module.padding
            assert module.kernel_size == (size, size)
            assert module.stride == (stride, stride)
            assert (module.dilation, module.groups, module.padding_mode) == ((1, 1), 1, "zeros")
            assert module.padding in ((size // 2, size // 2), (0, 0))
            how = f"/{stride}" * (stride > 1) + " without padding" * (padding != size // 2)
            return f"conv{size}-{module.out_channels}{how}"
        case nn.MaxPool2d():
            assert (module.kernel_size, module.stride, module.padding, module.dilation) == (2, 2, 0, 1)
            assert not module.ceil_mode
            return "pool2"
        case nn.AvgPool2d():
            assert (module.kernel_size, module.stride, module.padding) == (2, 2, 0)
            return "avg2"
        case nn.AdaptiveAvgPool2d():
            assert module.output_size in (1, (1, 1))
            return "mean"
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            assert (module.eps, module.momentum, module.affine, module.track_running_stats) == (1e-5, 0.1, True, True)
            return "bn"
        case nn.Linear():
            return f"linear-{module.out_features}"
        case activations.ReLU():
            return "relu"
        case nn.Flatten():
            return "flatten"
    return f"unexpected {type(module).__name__}"


class Counter(TorchDispatchMode):
    """How often each operation is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__.removesuffix("_")
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def leaves(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if not list(m.children()) and not isinstance(m, nn.Identity)]


@every_normalization
@every_architecture
def test_layers_are_those_of_the_papers_in_their_order(name: str, normalization: str) -> None:
    """As executed; what a `forward` would compute with functions is counted against the modules."""
    model = without_values(name, normalization)
    executed: list[str] = []
    for leaf in leaves(model):
        leaf.register_forward_hook(lambda module, *_: executed.append(describe(module)))
    with torch.no_grad(), Counter() as counter:
        model(black(name, 2, "meta"))
    assert executed == list(described(name, normalization))
    kinds = {"relu": "relu", "pool2": "max_pool2d_with_indices", "avg2": "avg_pool2d", "mean": "mean"}
    kinds |= {"bn": "native_batch_norm"}
    for layer, operation in kinds.items():
        assert counter.calls.get(operation, 0) == executed.count(layer)
    assert counter.calls["convolution"] == sum(layer.startswith("conv") for layer in executed)
    assert not counter.calls.keys() & {"native_dropout", "bernoulli", "threshold", "clamp", "clamp_min"}


def test_densenet_normalizes_the_stem_and_the_transitions_only() -> None:
    model = without_values("densenet121", "batch_norm")
    names = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert names == ["features.norm0", *(f"features.transition{number}.norm" for number in (1, 2, 3))]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("lenet5", [(24, 24), (12, 12), (8, 8), (4, 4)]),
        ("vgg16", [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]),
        ("resnet18", [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]),
        ("resnet50", [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]),
        ("densenet121", [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]),
    ],
)
def test_sizes_of_the_images_inside(name: str, sizes: list[tuple[int, int]]) -> None:
    model = without_values(name)
    seen: dict[tuple[int, int], None] = {}
    for leaf in leaves(model):
        if isinstance(leaf, nn.Conv2d | MaxPool2d | nn.AvgPool2d):
            leaf.register_forward_hook(lambda module, inputs, output: seen.setdefault(tuple(output.shape[-2:])))
    model(black(name, 1, "meta"))
    assert list(seen) == sizes


# --------------------------------------------------------------------------------------------- parameters


def counted(name: str, normalization: str, in_channels: int = 3, num_classes: int = 10) -> int:
    """Parameters by the papers' tables; a scale and a shift per normalized channel."""
    norm = 2 if normalization == "batch_norm" else 0

    def convolution(size: int, inputs: int, outputs: int, bias: bool = False) -> int:
        return size * size * inputs * outputs + bias * outputs + norm * outputs

    def linear(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    if name == "lenet5":
        # Without padding 28 becomes 24, 12, 8 and 4, so that 16 * 4 * 4 = 256 values are flattened.
        hidden = linear(256, 120) + linear(120, 84) + norm * (120 + 84)
        return convolution(5, in_channels, 6, True) + convolution(5, 6, 16, True) + hidden + linear(84, num_classes)
    if name in VGG:
        channels = [in_channels, *(int(layer) for layer in VGG[name].split() if layer != "M")]
        return sum(convolution(3, *pair, True) for pair in pairwise(channels)) + linear(512, num_classes)
    if name in RESNET:
        total, inputs = convolution(7 if name == "resnet50" else 3, in_channels, 64), 64
        for width, blocks in zip((64, 128, 256, 512), RESNET[name], strict=True):
            outputs = 4 * width if name == "resnet50" else width
            # The shortcut of a stage's first block, where the channels change (the size changes only with them).
            total += convolution(1, inputs, outputs) if inputs != outputs else 0
            for _ in range(blocks):
                if name == "resnet50":
                    total += (
                        convolution(1, inputs, width) + convolution(3, width, width) + convolution(1, width, outputs)
                    )
                else:
                    total += convolution(3, inputs, width) + convolution(3, width, width)
                inputs = outputs
        return total + linear(inputs, num_classes)
    total, channels = convolution(7, in_channels, 64), 64
    for number, layers in enumerate(DENSENET_BLOCKS, start=1):
        for _ in range(layers):
            total += channels * 4 * GROWTH + 9 * 4 * GROWTH * GROWTH
            channels += GROWTH
        if number < len(DENSENET_BLOCKS):
            total += norm * channels + channels * (channels // 2)
            channels //= 2
    return total + linear(channels, num_classes)


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "plain", "normalized"),
    [
        ("lenet5", 44_726, 45_178),  # three channels; one has 300 fewer
        ("vgg11", 9_225_610, 9_231_114),
        ("vgg13", 9_410_122, 9_416_010),
        ("vgg16", 14_719_818, 14_728_266),
        ("vgg19", 20_029_514, 20_040_522),
        ("resnet18", 11_164_362, 11_173_962),
        ("resnet34", 21_265_098, 21_282_122),
        ("resnet50", 23_475_402, 23_528_522),
        ("densenet121", 6_880_458, 6_884_170),
    ],
)
def test_parameters_counted_by_hand(name: str, plain: int, normalized: int) -> None:
    for normalization, count in (("none", plain), ("batch_norm", normalized)):
        assert counted(name, normalization) == count
        assert parameter_count(without_values(name, normalization)) == count


def test_lenet5_on_one_channel_written_out() -> None:
    """156 + 2,416 + 30,840 + 10,164 + 850, and 12 + 32 + 240 + 168 for batch normalization."""
    assert counted("lenet5", "none", in_channels=1) == 156 + 2416 + 30840 + 10164 + 850 == 44_426
    assert counted("lenet5", "batch_norm", in_channels=1) == 44_426 + 12 + 32 + 240 + 168 == 44_878


# --------------------------------------------------------------------------------------- logits and weights


@pytest.mark.parametrize(("in_channels", "num_classes", "normalization"), [(1, 1000, "none"), (3, 7, "batch_norm")])
@every_architecture
def test_channels_and_classes(name: str, in_channels: int, num_classes: int, normalization: str) -> None:
    with torch.device("meta"):
        model = build(name, Native(), normalization, in_channels, num_classes)
        logits = model(torch.zeros(3, in_channels, image_size(name), image_size(name)))
    assert model.training
    assert logits.shape == (3, num_classes)
    assert {parameter.dtype for parameter in model.parameters()} == {logits.dtype} == {torch.float32}
    assert parameter_count(model) == counted(name, normalization, in_channels, num_classes)


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 64), ("resnet34", 48), ("resnet50", 224), ("densenet121", 224)]
)
def test_larger_images(name: str, size: int) -> None:
    assert ARCHITECTURES[name].padding(size, size) == 0
    with torch.device("meta"):
        assert build(name, Native(), "batch_norm", 3, 1000)(torch.zeros(2, 3, size, size)).shape == (2, 1000)


def test_logits_of_an_image_of_imagenet() -> None:
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = drawn("resnet50", "batch_norm").eval()(image)
    assert logits.shape == (1, 10)
    assert logits.isfinite().all()
    assert logits.std() > 0


def weights(model: nn.Module) -> list[Tensor]:
    """Of convolutions and linear layers, in order."""
    return [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


@every_architecture
def test_rules_derivatives_and_normalizations_start_from_the_same_weights(name: str) -> None:
    """None of them draws a random number."""
    reference = weights(drawn(name, "none"))
    torch.manual_seed(0)
    for other in (build(name, Hybrid(1e4, "composed"), "none", 3, 10, -2.0), drawn(name, "batch_norm")):
        assert len(weights(other)) == len(reference)
        assert all(map(torch.equal, weights(other), reference))


@every_architecture
@every_normalization
def test_strided_convolutions_take_the_place_of_poolings(name: str, normalization: str) -> None:
    """Everything else is drawn as without them, before them; in evaluation and training mode nothing is left changed."""
    reference = drawn(name, normalization)
    torch.manual_seed(0)
    model = build(name, Strided(), normalization, 3, 10)
    state = model.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in reference.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    places = {path: module for path, module in reference.named_modules() if isinstance(module, MaxPool2d)}
    assert places
    for path, pool in places.items():
        convolution = model.get_submodule(path)
        assert type(convolution) is nn.Conv2d
        assert convolution.in_channels == convolution.out_channels
        for key in ("kernel_size", "stride", "padding", "dilation"):
            both = getattr(convolution, key), getattr(pool, key)
            assert both[0] == both[1] or both[0] == (both[1], both[1])
        n = convolution.weight.numel()
        assert convolution.weight.std().item() == pytest.approx(
            default_deviation(convolution), rel=5 / math.sqrt(2 * n)
        )
    assert state.keys() - reference.state_dict().keys() == {
        f"{path}.{parameter}" for path in places for parameter in ("weight", "bias")
    }
    with torch.no_grad():
        assert model.eval()(black(name, 2)).shape == (2, 10)


def test_a_convolution_cannot_round_sizes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounding_up(normalization: str, in_channels: int, num_classes: int) -> nn.Module:
        return nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.Flatten())

    monkeypatch.setattr("nonsmooth.architectures.resolve_name", lambda _: rounding_up)
    with pytest.raises(
        ValueError, match=r"rule strided: a convolution cannot take the place of MaxPool2d\(.*ceil_mode=True"
    ):
        build("lenet5", Strided(), "none", 1, 10)


@pytest.mark.parametrize("name", ["lenet5", "vgg11", "resnet18", "densenet121"])
def test_another_seed_draws_other_weights(name: str) -> None:
    torch.manual_seed(1)
    other = weights(build(name, Native(), "none", 3, 10))
    assert not any(map(torch.equal, other, weights(drawn(name, "none"))))


def default_deviation(layer: nn.Conv2d | nn.Linear) -> float:
    """Of PyTorch's default: uniform with bound 1 / sqrt(inputs of an output)."""
    return 1 / math.sqrt(3 * layer.weight[0].numel())


def kaiming_deviation(layer: nn.Conv2d | nn.Linear, fan_out: bool) -> float:
    """Of He et al.'s normal distribution; torchvision leaves linear layers at the default."""
    if isinstance(layer, nn.Linear):
        return default_deviation(layer)
    return math.sqrt(2 / (layer.weight[:, 0] if fan_out else layer.weight[0]).numel())


@every_architecture
def test_initial_weights_have_the_deviation_of_their_distribution(name: str) -> None:
    assert_drawn_as_described(name, drawn(name, "batch_norm"))


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "densenet121"])
def test_initial_weights_of_one_channel(name: str) -> None:
    torch.manual_seed(0)
    assert_drawn_as_described(name, build(name, Native(), "none", 1, 10))


def assert_drawn_as_described(name: str, model: nn.Module) -> None:
    """The deviation of n normal numbers is off by 1 / sqrt(2 n), relatively, and that of uniform ones by less."""
    deviation = default_deviation
    if name in RESNET or name == "densenet121":
        deviation = partial(kaiming_deviation, fan_out=name in RESNET)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            n = layer.weight.numel()
            assert layer.weight.std().item() == pytest.approx(deviation(layer), rel=5 / math.sqrt(2 * n))
            assert abs(layer.weight.mean().item()) <= 5 * deviation(layer) / math.sqrt(n)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert layer.weight.eq(1).all()
            assert layer.bias.eq(0).all()


# -------------------------------------------------------------------------- derivatives reach every layer


DERIVATIVES = [
    ("none", Hybrid(10.0), -2.0),
    ("batch_norm", Minimal(), 0.5),
    ("none", Native(), 1.0),
    ("batch_norm", Hybrid(10.0, "composed"), 0.25),
]


@pytest.mark.parametrize(
    ("name", "normalization", "rule", "derivative"),
    [
        (name, *chosen)
        for name in ARCHITECTURES
        for chosen in (DERIVATIVES if name in ("lenet5", "vgg11", "resnet18", "densenet121") else DERIVATIVES[:2])
    ],
    ids=str,
)
def test_the_chosen_derivatives_reach_every_relu_and_pooling(
    name: str, normalization: str, rule: Rule, derivative: float
) -> None:
    """On a black image without biases every activation is 0: a ReLU multiplies by its derivative, and all maxima tie.

    In evaluation mode batch norm keeps the zeros. Each layer's gradients are compared with those of its function alone.
    """
    state = drawn(name, normalization).state_dict()
    state |= {key: torch.zeros_like(value) for key, value in state.items() if key.endswith("bias")}
    model = without_values(name, normalization, rule, derivative).eval()
    model.load_state_dict(state, assign=True)
    assert not [module for module in model.modules() if type(module) in (nn.ReLU, nn.MaxPool2d)]
    passed: list[tuple[nn.Module, Tensor, Tensor]] = []

    def remember(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        inputs[0].retain_grad()
        output.retain_grad()
        passed.append((module, inputs[0], output))

    for leaf in leaves(model):
        if isinstance(leaf, activations.ReLU | MaxPool2d):
            leaf.register_forward_hook(remember)
    logits = model(black(name, 1))
    assert logits.eq(0).all()
    logits[0, 3].backward()
    for module, input, output in passed:
        assert input.eq(0).all()
        assert output.grad.any()
        if isinstance(module, MaxPool2d):
            window = torch.zeros_like(input, requires_grad=True)
            (expected,) = torch.autograd.grad(max_pool2d(window, 2, rule=rule), window, output.grad)
        else:
            expected = derivative * output.grad
        assert torch.equal(input.grad, expected)
    executed = [layer for layer in described(name, normalization) if layer in ("relu", "pool2")]
    assert ["pool2" if isinstance(module, MaxPool2d) else "relu" for module, *_ in passed] == executed


@every_architecture
def test_derivative_0_is_the_relu_of_pytorch(name: str) -> None:
    """The default has the gradients of the same network with PyTorch's own modules."""
    model = without_values(name)
    with torch.device("meta"):
        own = resolve_name(ARCHITECTURES[name].builder)("none", 3, 10)
    assert any(type(module) is nn.ReLU for module in own.modules())
    image = torch.rand(1, 3, image_size(name), image_size(name), generator=torch.Generator().manual_seed(0))
    gradients = []
    for network in (model, own):
        network.load_state_dict(drawn(name, "none").state_dict(), assign=True)
        network(image)[0, 3].backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(map(torch.equal, *gradients))


# --------------------------------------------------------------------------------- sizes, names, planning


@pytest.mark.parametrize(
    ("name", "size", "padding"),
    [
        *((name, 32, 0) for name in ARCHITECTURES if name != "lenet5"),
        *((name, 28, 2) for name in ARCHITECTURES if name != "lenet5"),
        *((name, 224, 0) for name in (*RESNET, "densenet121")),
        ("resnet18", 33, 0),
        ("vgg11", 2, 15),
        ("lenet5", 28, 0),
        ("lenet5", 20, 4),
    ],
)
def test_padding(name: str, size: int, padding: int) -> None:
    assert ARCHITECTURES[name].padding(size, size) == padding


@pytest.mark.parametrize(
    ("name", "height", "width", "message"),
    [
        ("lenet5", 32, 32, "LeNet-5 takes images of up to 28 x 28, not 32 x 32"),
        ("vgg16", 224, 224, "VGG16 takes images of up to 32 x 32, not 224 x 224"),
        ("vgg16", 33, 33, "VGG16 takes images of up to 32 x 32, not 33 x 33"),
        ("resnet18", 31, 31, "31 x 31 images cannot be padded evenly to 32"),
        ("lenet5", 27, 27, "27 x 27 images cannot be padded evenly to 28"),
        ("resnet50", 224, 256, "ResNet-50 takes square images, not 224 x 256"),
        ("vgg11", 32, 30, "VGG11 takes square images, not 32 x 30"),
    ],
)
def test_images_that_do_not_fit_are_refused(name: str, height: int, width: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        ARCHITECTURES[name].padding(height, width)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown architecture 'lenet'; expected one of \[.*'lenet5'"):
        build("lenet", Native(), "none", 1, 10)
    with pytest.raises(ValueError, match=r"normalization must be one of \['none', 'batch_norm'\], got 'layer_norm'"):
        build("lenet5", Native(), "layer_norm", 1, 10)


@pytest.mark.parametrize("derivative", [math.nan, math.inf, "0"])
def test_a_derivative_that_is_no_number_is_refused(derivative: object) -> None:
    with pytest.raises(ValueError, match="must be a finite number"):
        build("lenet5", Native(), "none", 1, 10, derivative)


def pooled(normalization: str, in_channels: int, num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Unflatten(1, (1, 2, 2)), nn.MaxPool2d(2), nn.Flatten())


def unpooled(normalization: str, in_channels: int, num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4 * in_channels, num_classes))


def test_an_architecture_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "own", Architecture("Own", f"{__name__}:pooled", 2))
    model = build("own", Minimal(), "none", 1, 1, 0.5)
    image = torch.zeros(1, 1, 2, 2, requires_grad=True)
    model(image).backward()
    assert image.grad.eq(0.5 / 4).all()


def test_a_network_without_a_pooling_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "own", Architecture("Own", f"{__name__}:unpooled", 2))
    with pytest.raises(ValueError, match=r"architecture own: no torch\.nn\.MaxPool2d module in it"):
        build("own", Minimal(), "none", 1, 1)


def test_planning_needs_no_torch() -> None:
    program = (
        "import sys; from nonsmooth.architectures import ARCHITECTURES, NORMALIZATIONS; import nonsmooth.cells;"
        "[a.padding(28, 28) for a in ARCHITECTURES.values()];"
        "print([name for name in ('torch', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_table_is_complete() -> None:
    assert set(ARCHITECTURES) == {"lenet5", "densenet121", *VGG, *RESNET}
    assert architectures.NORMALIZATIONS == ("none", "batch_norm")
    assert len({architecture.title for architecture in ARCHITECTURES.values()}) == len(ARCHITECTURES)
    assert all(architecture.memory_mb > 0 for architecture in ARCHITECTURES.values())
