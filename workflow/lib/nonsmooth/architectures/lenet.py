"""LeNet-5 as in arXiv 2401.02736."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def lenet5(normalization: str, in_channels: int, num_classes: int) -> nn.Sequential:
    """The LeNet-5 variant, for images of 28 x 28, with PyTorch's default initialisation.

    conv(channels, 6, 5), ReLU, pool, [BN], conv(6, 16, 5), ReLU, pool, [BN], linear 256-120, ReLU, [BN],
    linear 120-84, ReLU, [BN], linear 84-classes.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    normalized = normalization == "batch_norm"

    def convolution(number: int, inputs: int, outputs: int) -> None:
        layers[f"conv{number}"] = nn.Conv2d(inputs, outputs, 5)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"pool{number}"] = nn.MaxPool2d(2, 2)
        if normalized:
            layers[f"norm{number}"] = nn.BatchNorm2d(outputs)

    def linear(number: int, inputs: int, outputs: int) -> None:
        layers[f"linear{number}"] = nn.Linear(inputs, outputs)
        layers[f"relu{number}"] = nn.ReLU()
        if normalized:
            layers[f"norm{number}"] = nn.BatchNorm1d(outputs)

    convolution(1, in_channels, 6)
    convolution(2, 6, 16)
    layers["flatten"] = nn.Flatten()
    linear(3, 256, 120)
    linear(4, 120, 84)
    layers["linear5"] = nn.Linear(84, num_classes)
    return nn.Sequential(layers)
