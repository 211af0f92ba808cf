"""The networks: layers in the order of the notes, parameters counted by hand, a rule that reaches every pool."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nonsmooth.architectures import ARCHITECTURES, NORMALIZATIONS, LeNet5, build
from nonsmooth.pooling import MaxPool2d
from nonsmooth.rules import Hybrid, Minimal, Native

LENET5_LAYERS = {
    "none": """
        Conv2d ReLU MaxPool2d  Conv2d ReLU MaxPool2d  Flatten
        Linear ReLU  Linear ReLU  Linear
    """,
    "batch_norm": """
        Conv2d ReLU MaxPool2d BatchNorm2d  Conv2d ReLU MaxPool2d BatchNorm2d  Flatten
        Linear ReLU BatchNorm1d  Linear ReLU BatchNorm1d  Linear
    """,
}


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def lenet5_count(in_channels: int, num_classes: int, normalization: str) -> int:
    convolutions = (in_channels * 5 * 5 * 6 + 6) + (6 * 5 * 5 * 16 + 16)
    # Without padding 28 becomes 24, 12, 8 and 4, so that 16 * 4 * 4 = 256 values are flattened.
    linear = (256 * 120 + 120) + (120 * 84 + 84) + (84 * num_classes + num_classes)
    scales_and_shifts = 2 * (6 + 16 + 120 + 84)
    return convolutions + linear + (scales_and_shifts if normalization == "batch_norm" else 0)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_lenet5_layers_are_those_of_the_notes(normalization: str) -> None:
    model = LeNet5(Native(), normalization)
    assert [type(layer).__name__ for layer in model] == LENET5_LAYERS[normalization].split()
    convolutions = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.stride, c.padding) for c in convolutions] == [
        (1, 6, (5, 5), (1, 1), (0, 0)),
        (6, 16, (5, 5), (1, 1), (0, 0)),
    ]
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(256, 120), (120, 84), (84, 10)]
    assert all(layer.bias is not None for layer in (*convolutions, *linear))
    assert [(layer.kernel_size, layer.stride) for layer in model if isinstance(layer, MaxPool2d)] == [(2, 2)] * 2
    sizes = [layer.num_features for layer in model if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert sizes == ([6, 16, 120, 84] if normalization == "batch_norm" else [])


@pytest.mark.parametrize(("normalization", "count"), [("none", 44426), ("batch_norm", 44878)])
def test_lenet5_parameters_counted_by_hand(normalization: str, count: int) -> None:
    """156 + 2,416 + 30,840 + 10,164 + 850, and 12 + 32 + 240 + 168 for batch normalization."""
    assert 156 + 2416 + 30840 + 10164 + 850 == 44426
    assert 44426 + 12 + 32 + 240 + 168 == 44878
    assert parameter_count(LeNet5(Native(), normalization)) == count == lenet5_count(1, 10, normalization)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(("in_channels", "num_classes"), [(1, 10), (3, 7)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_shapes_follow_channels_and_classes(name: str, in_channels: int, num_classes: int, normalization: str) -> None:
    model = build(name, Native(), normalization, in_channels, num_classes)
    size = ARCHITECTURES[name].IMAGE_SIZE
    logits = model(torch.zeros(3, in_channels, size, size))
    assert logits.shape == (3, num_classes)
    assert {p.dtype for p in model.parameters()} == {logits.dtype} == {torch.float32}
    if name == "lenet5":
        assert parameter_count(model) == lenet5_count(in_channels, num_classes, normalization)


@pytest.mark.parametrize("rule", [Native(), Minimal(), Hybrid(10.0, "exact"), Hybrid(1000.0, "composed")], ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rule_reaches_every_pool(name: str, rule: Native | Minimal | Hybrid) -> None:
    model = build(name, rule, "none", 1, 10)
    pools = [layer for layer in model.modules() if isinstance(layer, nn.MaxPool2d)]
    assert len(pools) == {"lenet5": 2}.get(name, len(pools)) > 0
    assert all(type(pool) is MaxPool2d and pool.rule == rule for pool in pools)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rules_and_normalizations_start_from_the_same_weights(name: str) -> None:
    """Batch normalization draws nothing, and neither does a rule."""
    models = []
    for rule, normalization in ((Native(), "none"), (Hybrid(10.0), "none"), (Minimal(), "batch_norm")):
        torch.manual_seed(0)
        models.append(dict(build(name, rule, normalization, 1, 10).named_parameters()))
    plain, *others = models
    for other in others:
        assert all(other[key].equal(weight) for key, weight in plain.items())


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown architecture 'lenet'; expected one of \[.*'lenet5'"):
        build("lenet", Native(), "none", 1, 10)
    with pytest.raises(ValueError, match=r"normalization must be one of \['none', 'batch_norm'\], got 'layer_norm'"):
        build("lenet5", Native(), "layer_norm", 1, 10)
