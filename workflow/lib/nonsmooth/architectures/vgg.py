"""VGG for images of 32 x 32: torchvision's convolutions and poolings, and one linear layer (arXiv 2401.02736)."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import nn
from torchvision.models.vgg import cfgs, make_layers


def vgg(layers: str, normalization: str, in_channels: int, num_classes: int) -> nn.Sequential:
    """3x3 convolutions, each followed by [BN] and ReLU, five 2x2 poolings, and a linear layer 512-classes.

    Args:
        layers: the configuration's letter in torchvision and in the VGG paper.
        normalization, in_channels, num_classes: as in `nonsmooth.architectures.build`.
    """
    # ASSUME: PyTorch's default initialisation of layers, not torchvision's of its VGG. The published runs on SVHN
    # without batch norm did not train at rates of 2e-3 and below, as is seen with the default.
    features = make_layers(cfgs[layers], batch_norm=normalization == "batch_norm")
    if in_channels != 3:
        features[0] = nn.Conv2d(in_channels, 64, 3, padding=1)
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), classifier=nn.Linear(512, num_classes)))


vgg11, vgg13, vgg16, vgg19 = (partial(vgg, layers) for layers in "ABDE")
