"""Recorded passes and their replays: in the same arithmetic a replay is the recorded pass, bit for bit."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nonsmooth.activations import ReLU
from nonsmooth.architectures import ARCHITECTURES, NORMALIZATIONS, build
from nonsmooth.pooling import MaxPool2d
from nonsmooth.precision import PRECISIONS, Precision
from nonsmooth.rules import Native, Norm
from nonsmooth.zones.tape import Replay, ReplayNetwork, Tape, network_loss, record

CPU = torch.device("cpu")
FLOAT64 = PRECISIONS["float64"]
LEVELS = ("float16", "bfloat16", "mixed16", "float32", "float64")

# PyTorch says so whenever a flag of oneDNN is set.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")


def network(architecture: str, normalization: str = "none", derivative: float = 0.0, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(architecture, Native(), normalization, 3, 10, derivative).train()


def batch(size: int, count: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Images of few values, so that windows tie."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(-1, 2, (count, 3, size, size), generator=generator).float()
    return images, torch.randint(10, (count,), generator=generator)


def gradients(model: nn.Module, images: Tensor, labels: Tensor, precision: Precision) -> dict[str, Tensor]:
    with precision.arithmetic(CPU):
        loss = network_loss(model, images, labels, precision)
        return dict(
            zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True)
        )


def replayed_gradients(replay: Replay) -> dict[str, Tensor]:
    names, parameters = zip(*replay.network.model.named_parameters(), strict=True)
    found = torch.autograd.grad(replay.loss, parameters, retain_graph=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def recorded(model: nn.Module, images: Tensor, labels: Tensor, precision: Precision) -> tuple[Tensor, Tape]:
    with precision.arithmetic(CPU):
        return record(model, images, labels, precision)


def replay_in(
    model, tape: Tape, images: Tensor, labels: Tensor, precision: Precision, arithmetic: torch.dtype
) -> Replay:
    return Replay(ReplayNetwork(model, precision, arithmetic), tape, images, labels)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


# ------------------------------------------------------------------------------------------ in the same arithmetic


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ["lenet5", "vgg11", "resnet18", "densenet121"])
def test_a_replay_is_the_recorded_pass(architecture: str, normalization: str) -> None:
    """Loss and gradients, with additions in place, layers that are used twice, and concatenations."""
    derivative = 1.0 if architecture == "resnet18" else 0.0
    model = network(architecture, normalization, derivative).double()
    images, labels = batch(ARCHITECTURES[architecture].image_size, 2)
    images = images.double()
    expected = gradients(copy.deepcopy(model), images, labels, FLOAT64)
    loss, tape = recorded(model, images, labels, FLOAT64)
    replay = replay_in(model, tape, images, labels, FLOAT64, torch.float64)
    replay.coefficients[:] = [derivative if kink.kind == "relu" else 0.0 for kink in tape.kinks]
    assert torch.equal(replay.loss, loss)
    assert_equal(replayed_gradients(replay), expected)
    assert [kink.kind for kink in tape.kinks].count("max_pool") == sum(
        isinstance(module, MaxPool2d) for module in model.modules()
    )
    assert bool(tape.finite)


@pytest.mark.parametrize("arithmetic", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", LEVELS)
def test_replays_change_nothing_and_repeat(level: str, arithmetic: torch.dtype) -> None:
    precision = PRECISIONS[level]
    model = precision.cast_model(network("resnet18", "batch_norm"))
    images, labels = batch(32, 2)
    images = precision.cast_batch(images)
    _, tape = recorded(model, images, labels, precision)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    values = [(name, value.clone()) for name, value in tape.values]
    pieces = [(kink.input.clone(), kink.output.clone()) for kink in tape.kinks]
    network_of_replays = ReplayNetwork(model, precision, arithmetic)
    first, second = (replayed_gradients(Replay(network_of_replays, tape, images, labels)) for _ in range(2))
    assert_equal(first, second)
    assert all(gradient.dtype == arithmetic for gradient in first.values())
    assert_equal(dict(model.state_dict()), state)
    assert [name for name, _ in values] == [name for name, _ in tape.values]
    assert all(torch.equal(value, before) for (_, value), (_, before) in zip(tape.values, values, strict=True))
    for kink, (input, output) in zip(tape.kinks, pieces, strict=True):
        assert torch.equal(kink.input, input)
        assert torch.equal(kink.output, output)


@pytest.mark.parametrize("level", ["float16", "bfloat16", "mixed16", "float32"])
@pytest.mark.parametrize("architecture", ["lenet5", "resnet18"])
def test_a_replay_in_float64_is_near_the_recorded_pass(architecture: str, level: str) -> None:
    """The same masks and ties: only rounding is left, which is far from the effect of a wrong mask."""
    precision = PRECISIONS[level]
    model = precision.cast_model(network(architecture))
    images, labels = batch(ARCHITECTURES[architecture].image_size)
    images = precision.cast_batch(images)
    expected = gradients(copy.deepcopy(model), images, labels, precision)
    loss, tape = recorded(model, images, labels, precision)
    replay = replay_in(model, tape, images, labels, precision, torch.float64)
    assert replay.loss.item() == loss.item()
    for name, gradient in replayed_gradients(replay).items():
        error = (gradient - expected[name]).norm() / gradient.norm()
        # A rounding per layer, forward values being the same; 40 layers at most.
        assert error < 40 * precision.unit_roundoff, name


def test_a_replay_can_be_freed() -> None:
    """A cycle through autograd's nodes would keep it, and the memory of every minibatch with it."""
    model, (images, labels) = network("lenet5"), batch(28)
    _, tape = recorded(model, images, labels, PRECISIONS["float32"])
    replay = replay_in(model, tape, images, labels, PRECISIONS["float32"], torch.float64)
    replayed_gradients(replay)
    kept = [weakref.ref(tensor) for tensor in (replay, *replay.inputs, *replay.outputs)]
    del replay
    gc.collect()
    assert all(reference() is None for reference in kept)


# ----------------------------------------------------------------------------------------------- what is recorded


class Plain(nn.Module):
    """A network written as a function of its layers."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def small(function: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module) -> tuple[nn.Module, Tensor, Tensor]:
    """A float64 network, images (3, 2, 4, 4), and labels."""
    generator = torch.Generator().manual_seed(0)
    model = Plain(function, **layers).double().train()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model, torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 0])


def _written_after_relu(net: nn.Module, x: Tensor) -> Tensor:
    """The ReLU has saved its output; its input may be overwritten."""
    x = net.conv(x)
    y = net.relu(x)
    x += 1
    return net.linear(torch.cat([x, y], 1).flatten(1))


def _written_after_pool(net: nn.Module, x: Tensor) -> Tensor:
    """A pooling's output is overwritten, and enters a ReLU as the same tensor."""
    x = net.conv(x)
    y = net.pool(x)
    y += x[..., ::2, ::2]
    return net.linear(net.relu(y).flatten(1))


def _written_through_a_view(net: nn.Module, x: Tensor) -> Tensor:
    x = net.conv(x)
    y = x * 1
    y[:, :2] *= 2
    return net.linear(torch.cat([x, net.relu(y)], 1).flatten(1))


WRITTEN = {
    "after a ReLU": (_written_after_relu, 64 * 2),
    "after a pooling": (_written_after_pool, 16),
    "through a view": (_written_through_a_view, 64 * 2),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_tensors_that_are_written_in_place(name: str) -> None:
    """What a kink saw stays, and its source is a kink only if it is that kink's output unchanged."""
    function, features = WRITTEN[name]
    layers = {"conv": nn.Conv2d(2, 4, 3, padding=1), "relu": ReLU(), "pool": MaxPool2d(2, rule=Native())}
    model, images, labels = small(function, **layers, linear=nn.Linear(features, 2))
    seen = []
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output: seen.append((inputs[0].clone(), output.clone())))
        for layer in (model.pool, model.relu)
    ]
    expected = gradients(model, images, labels, FLOAT64)
    for hook in hooks:
        hook.remove()
    _, tape = recorded(model, images, labels, FLOAT64)
    for kink, (input, output) in zip(tape.kinks, seen, strict=True):
        assert torch.equal(kink.input, input)
        assert torch.equal(kink.output, output)
        assert kink.source is None
    replay = replay_in(model, tape, images, labels, FLOAT64, torch.float64)
    assert_equal(replayed_gradients(replay), expected)


def test_sources() -> None:
    """The kink whose output enters another one, through a layer that does nothing too."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        first = net.relu(net.conv(x))
        second = net.pool(net.identity(first))
        third = net.relu(second)
        return net.linear(net.relu(third * 1 + first[..., ::2, ::2]).flatten(1))

    model, images, labels = small(
        forward, conv=nn.Conv2d(2, 4, 1), relu=ReLU(), pool=MaxPool2d(2, rule=Native()), identity=nn.Identity(),
        linear=nn.Linear(16, 2),
    )  # fmt: skip
    _, tape = recorded(model, images, labels, FLOAT64)
    assert [(kink.name, kink.source) for kink in tape.kinks] == [
        ("relu", None),
        ("pool", 0),
        ("relu", 1),
        ("relu", None),
    ]


def test_saved_ties_and_masks_are_those_of_the_working_precision() -> None:
    """1 and 1 + 2**-12 are one number in float16; in float64 they are two, of which the second is the maximum.

    The difference of two such numbers is 0 in float16, where the ReLU stops the gradient, and positive in float64.
    """
    precision = PRECISIONS["float16"]

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        pooled = net.pool(net.conv(x))
        return net.linear(torch.cat([pooled, net.relu(net.other(x))], 3).flatten(1))

    model = Plain(
        forward, conv=nn.Conv2d(2, 1, 1, bias=False), pool=MaxPool2d(2, rule=Native()), relu=ReLU(),
        other=nn.Conv2d(2, 1, 2, bias=False), linear=nn.Linear(2, 2),
    )  # fmt: skip
    model.conv.weight.data = torch.tensor([1.0, 1.0]).view(1, 2, 1, 1)
    model.other.weight.data = torch.tensor([[[1.0, 0], [-1, 0]], [[1, 0], [-1, 0]]])[None]
    # Sums of the two channels: 1 above, and 1 + 2**-12 below, less and more than half an ulp.
    images = torch.tensor([[[1.0, -1], [1, -1]], [[0, 0], [2.0**-12, 0]]])[None]
    model, labels = precision.cast_model(model), torch.tensor([0])
    _, tape = recorded(model, images.half(), labels, precision)
    assert [int(kink.tied.sum()) for kink in tape.kinks] == [1, 0]
    assert tape.kinks[0].windows.count.item() == 2
    replay = replay_in(model, tape, images.half(), labels, precision, torch.float64)
    g = replay.arriving(replay.outputs)[0].item()
    found = []
    for c in (0.0, 1.0):
        replay.coefficients[:] = [c, 0.0]
        found.append(replayed_gradients(replay)["conv.weight"].flatten().tolist())
    # Native: all of it to the upper one. Minimal: half to each, and so half of 2**-12 to the second channel.
    assert found == [[g, 0.0], [g, g / 2 * 2.0**-12]]
    _, real = recorded(copy.deepcopy(model).double(), images.double(), labels, FLOAT64)
    assert not real.kinks[0].tied.any()
    assert real.kinks[0].windows.indices.item() == 2


def test_mixed_precision_rounds_weights_and_inputs() -> None:
    """The replayed convolution and linear layer have the weights and inputs that autocast used; batch norm has its own."""
    precision = PRECISIONS["mixed16"]
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), ReLU(), MaxPool2d(2, rule=Native()), nn.Flatten(), nn.Linear(36, 10)
    ).train()
    images = torch.randn(3, 3, 8, 8, generator=generator)
    labels = torch.tensor([1, 2, 3])
    _, tape = recorded(model, images, labels, precision)
    replay = replay_in(model, tape, images, labels, precision, torch.float64)
    for layer, ours in zip(model, replay.network.model, strict=True):
        for name, parameter in layer.named_parameters():
            is_cast = isinstance(layer, nn.Conv2d | nn.Linear)
            expected = (parameter.half() if is_cast else parameter).double()
            assert torch.equal(ours.get_parameter(name), expected)
    convolution, normalization, linear = replay.layers
    assert torch.equal(convolution[1], images.half().double())
    assert torch.equal(normalization[1], convolution[2])  # recorded in 16 bits
    assert torch.equal(convolution[2], convolution[2].half().double())
    assert torch.equal(linear[1], tape.kinks[1].output.flatten(1).half().double())
    wide = ReplayNetwork(model, FLOAT64, torch.float64).model
    assert torch.equal(wide[0].weight, model[0].weight.double())


@pytest.mark.parametrize("precision", ["float16", "mixed16", "float64"])
@pytest.mark.parametrize("where", ["nowhere", "image", "infinite image", "weight", "overflow", "loss"])
def test_finite(where: str, precision: str) -> None:
    level = PRECISIONS[precision]
    model = nn.Sequential(nn.Conv2d(1, 1, 1), ReLU(), MaxPool2d(2, rule=Native()), nn.Flatten(), nn.Linear(4, 2))
    model = level.cast_model(model)
    nn.init.ones_(model[0].weight)
    images = torch.ones(1, 1, 4, 4, dtype=level.dtype)
    match where:
        case "image":
            images[0, 0, 2, 2] = torch.nan
        case "infinite image":
            images[0, 0, 2, 2] = -torch.inf
        case "weight":
            model[4].weight.data[0, 0] = torch.nan
        case "overflow":  # below zero, which the ReLU hides
            largest = torch.finfo(level.autocast or level.dtype).max
            model[0].weight.data.fill_(largest)
            images.fill_(-2.0)
        case "loss":
            model[4].bias.data = torch.tensor([-torch.inf, 0.0], dtype=level.dtype)
    with level.arithmetic(CPU):
        for keep in (True, False):
            _, tape = record(model, images, torch.tensor([0]), level, keep)
            assert bool(tape.finite) == (where == "nowhere")
            assert bool(tape.values) == keep


# ------------------------------------------------------------------------- biases whose gradient is zero over the reals


def normalized_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), ReLU(), nn.Conv2d(4, 4, 3), ReLU(), nn.BatchNorm2d(4),
        MaxPool2d(2, rule=Native()), ReLU(), nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6), nn.Linear(6, 10),
    )  # fmt: skip


def test_biases_before_batch_norm() -> None:
    images, labels = batch(8, 4)
    model = normalized_network().train()
    _, tape = recorded(model, images, labels, PRECISIONS["float32"])
    assert tape.without_gradient == {"0.bias", "9.bias"}
    found = gradients(model.double(), images.double(), labels, FLOAT64)
    for name, gradient in found.items():
        if name.endswith("bias"):
            assert (gradient.abs().max() < 1e-14) == (name in tape.without_gradient), name
    _, tape = recorded(model.eval(), images.double(), labels, FLOAT64)
    assert tape.without_gradient == set()


@pytest.mark.parametrize("architecture", ["lenet5", "vgg11", "resnet18", "densenet121"])
def test_biases_before_batch_norm_of_the_architectures(architecture: str) -> None:
    """VGG: those of all convolutions; LeNet has its ReLUs in between; the others have no biases there."""
    model = network(architecture, "batch_norm")
    images, labels = batch(ARCHITECTURES[architecture].image_size, 2)
    _, tape = recorded(model, images, labels, PRECISIONS["float32"])
    convolutions = {f"{name}.bias" for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert tape.without_gradient == (convolutions if architecture == "vgg11" else set())
    assert recorded(network(architecture), images, labels, PRECISIONS["float32"])[1].without_gradient == set()


def test_a_bias_that_is_also_used_elsewhere_has_a_gradient() -> None:
    def forward(net: nn.Module, x: Tensor) -> Tensor:
        return net.linear(torch.cat([net.norm(net.conv(x)), net.relu(net.conv(x + 1))], 1).flatten(1))

    model, images, labels = small(
        forward, conv=nn.Conv2d(2, 4, 1), norm=nn.BatchNorm2d(4), relu=ReLU(), linear=nn.Linear(128, 2)
    )
    _, tape = recorded(model, images, labels, FLOAT64)
    assert gradients(model, images, labels, FLOAT64)["conv.bias"].abs().max() > 1e-3
    assert tape.without_gradient == set()


# ------------------------------------------------------------------------------------------------------- refusals


def test_a_network_with_other_operations_is_refused() -> None:
    images, labels = batch(4)
    model = nn.Sequential(nn.Conv2d(3, 2, 1), ReLU(), nn.Flatten(), nn.Linear(32, 10))
    _, tape = recorded(model, images, labels, PRECISIONS["float32"])
    others = {
        "more": nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), ReLU(), nn.Flatten(), nn.Linear(32, 10)),
        "fewer": nn.Sequential(nn.Flatten(), nn.Linear(48, 10)),
    }
    for other in others.values():
        with pytest.raises(RuntimeError, match="replay: the recorded pass has"):
            replay_in(other, tape, images, labels, PRECISIONS["float32"], torch.float64)
    tape.values.pop()
    with pytest.raises(
        RuntimeError, match="replay: the recorded pass has nothing where the graph has nll_loss_forward"
    ):
        replay_in(model, tape, images, labels, PRECISIONS["float32"], torch.float64)


def test_an_operation_that_is_missing_at_the_end_is_refused() -> None:
    images, labels = batch(4)
    model = nn.Sequential(nn.Conv2d(3, 2, 1), ReLU(), nn.Flatten(), nn.Linear(32, 10))
    _, tape = recorded(model, images, labels, PRECISIONS["float32"])
    tape.values.append(("relu", torch.zeros(1)))
    with pytest.raises(RuntimeError, match="replay: the recorded pass has"):
        replay_in(model, tape, images, labels, PRECISIONS["float32"], torch.float64)


# -------------------------------------------------------------------------------------------------- gradients asked for


def test_arriving_gradients() -> None:
    """Also where no parameter is reached, and of a network without parameters before its first layer."""
    model, images, labels = small(
        lambda net, x: net.linear(net.relu(net.conv(net.pool(x))).flatten(1)),
        pool=MaxPool2d(2, rule=Native()), conv=nn.Conv2d(2, 4, 1), relu=ReLU(), linear=nn.Linear(16, 2),
    )  # fmt: skip
    _, tape = recorded(model, images, labels, FLOAT64)
    replay = replay_in(model, tape, images, labels, FLOAT64, torch.float64)
    first, second = replay.arriving(replay.outputs)
    assert first.eq(0).all()
    weights = (torch.softmax(model(images), 1) - F.one_hot(labels, 2)) / 3
    torch.testing.assert_close(second.flatten(1), weights @ model.linear.weight)
    assert torch.equal(replay.arriving(replay.outputs, 4.0)[1], 4 * second)
    assert all(gradient.eq(0).all() for gradient in replay.arriving(replay.outputs[:1]))
    assert replay.arriving([]) == []


def test_injected_gradients() -> None:
    """What starts at the inputs of several kinks adds up; nothing is found where nothing starts."""
    model, images, labels = small(
        lambda net, x: net.linear(net.pool(net.relu(net.conv(x))).flatten(1)),
        conv=nn.Conv2d(2, 4, 1), relu=ReLU(), pool=MaxPool2d(2, rule=Native()), linear=nn.Linear(16, 2),
    )  # fmt: skip
    _, tape = recorded(model, images, labels, FLOAT64)
    replay = replay_in(model, tape, images, labels, FLOAT64, torch.float64)
    at_relu, at_pool = (torch.randn_like(kink.input) for kink in tape.kinks)
    at_conv = at_relu + torch.where(tape.kinks[0].input > 0, at_pool, 0)
    found = replay.parameter_gradients([at_relu, at_pool])
    assert found.keys() == {"conv.weight", "conv.bias"}
    torch.testing.assert_close(found["conv.bias"], at_conv.sum((0, 2, 3)))
    assert replay.parameter_gradients([None, None]) == {}


def test_channels_last() -> None:
    model, (images, labels) = network("lenet5").double(), batch(28)
    images = images.double()
    expected = gradients(model, images, labels, FLOAT64)
    model, images = (x.to(memory_format=torch.channels_last) for x in (model, images))
    _, tape = recorded(model, images, labels, FLOAT64)
    replay = replay_in(model, tape, images, labels, FLOAT64, torch.float64)
    for name, gradient in replayed_gradients(replay).items():
        torch.testing.assert_close(gradient, expected[name])


def test_norm_pooling_is_replayed() -> None:
    model, images, labels = small(
        lambda net, x: net.linear(net.pool(net.relu(net.conv(x))).flatten(1)),
        conv=nn.Conv2d(2, 4, 1), relu=ReLU(), pool=MaxPool2d(2, rule=Norm(1)), linear=nn.Linear(16, 2),
    )  # fmt: skip
    _, tape = recorded(model, images, labels, FLOAT64)
    replay = replay_in(model, tape, images, labels, FLOAT64, torch.float64)
    replay.coefficients[:] = [0.0, 1.0]
    for name, gradient in gradients(model, images, labels, FLOAT64).items():
        torch.testing.assert_close(replayed_gradients(replay)[name], gradient)
