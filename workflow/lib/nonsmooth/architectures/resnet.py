"""torchvision's ResNets with a 2x2 max pooling after the stem (arXiv 2401.02736)."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

# ASSUME: torchvision's initialisation, and no normalization means no layer in its place: convolutions have no bias.
NORM_LAYERS = {"none": nn.Identity, "batch_norm": nn.BatchNorm2d}


def resnet18(normalization: str, in_channels: int, num_classes: int) -> ResNet:
    """ResNet-18 with a 3x3 stem of stride 1, as for CIFAR-10."""
    return _small_stem(
        ResNet(BasicBlock, [2, 2, 2, 2], num_classes, norm_layer=NORM_LAYERS[normalization]), in_channels
    )


def resnet34(normalization: str, in_channels: int, num_classes: int) -> ResNet:
    """ResNet-34 with the stem of `resnet18`."""
    return _small_stem(
        ResNet(BasicBlock, [3, 4, 6, 3], num_classes, norm_layer=NORM_LAYERS[normalization]), in_channels
    )


def resnet50(normalization: str, in_channels: int, num_classes: int) -> ResNet:
    """ResNet-50 with its 7x7 stem of stride 2, as for ImageNet."""
    model = ResNet(Bottleneck, [3, 4, 6, 3], num_classes, norm_layer=NORM_LAYERS[normalization])
    return _stem(model, nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False))


def _small_stem(model: ResNet, in_channels: int) -> ResNet:
    return _stem(model, nn.Conv2d(in_channels, 64, 3, padding=1, bias=False))


def _stem(model: ResNet, convolution: nn.Conv2d) -> ResNet:
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = convolution
    model.maxpool = nn.MaxPool2d(2, 2)
    return model
