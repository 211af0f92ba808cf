"""The networks of the study, each with a MaxPool rule and optional batch normalization.

To add one: a class with the constructor arguments of `LeNet5`, a line in `ARCHITECTURES`, its name in
`workflow/schemas/config.schema.yaml`, and its image size, if it has one, in `nonsmooth.config.IMAGE_SIZES`.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from nonsmooth.pooling import MaxPool2d, Rule

NORMALIZATIONS = ("none", "batch_norm")


class LeNet5(nn.Sequential):
    """The LeNet-5 variant of arXiv 2401.02736, for square images of 28 x 28.

    conv(channels, 6, 5), ReLU, pool, [BN], conv(6, 16, 5), ReLU, pool, [BN], linear 256-120, ReLU, [BN],
    linear 120-84, ReLU, [BN], linear 84-classes. Input (N, channels, 28, 28), output logits (N, classes).
    """

    IMAGE_SIZE = 28

    def __init__(self, rule: Rule, normalization: str = "none", in_channels: int = 1, num_classes: int = 10) -> None:
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization must be one of {list(NORMALIZATIONS)}, got {normalization!r}")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        normalized = normalization == "batch_norm"

        def convolution(number: int, inputs: int, outputs: int) -> None:
            layers[f"conv{number}"] = nn.Conv2d(inputs, outputs, 5)
            layers[f"relu{number}"] = nn.ReLU()
            layers[f"pool{number}"] = MaxPool2d(2, 2, rule=rule)
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
        super().__init__(layers)


ARCHITECTURES: dict[str, type[nn.Module]] = {"lenet5": LeNet5}


def build(name: str, rule: Rule, normalization: str, in_channels: int, num_classes: int) -> nn.Module:
    """The architecture called `name` in float32 with PyTorch's default initialisation.

    Raises ValueError for an unknown name or normalization.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; expected one of {sorted(ARCHITECTURES)}")
    return ARCHITECTURES[name](rule, normalization, in_channels, num_classes)
