"""torchvision's DenseNet-121 with a 2x2 max pooling after the stem (arXiv 2401.02736)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torchvision.models.densenet import DenseNet

# As in the published code, batch norm reaches the stem and the transitions only. ASSUME: not the last layer's.
NORMALIZED = {"norm0", "transition1.norm", "transition2.norm", "transition3.norm"}


def densenet121(normalization: str, in_channels: int, num_classes: int) -> nn.Sequential:
    """DenseNet-121 (growth 32, blocks of 6, 12, 24, 16) with torchvision's initialisation.

    Batch norm is in the stem and in the transitions, or nowhere.
    """
    torchvision_model = DenseNet(32, (6, 12, 24, 16), 64, num_classes=num_classes)
    features = torchvision_model.features
    if in_channels != 3:
        features.conv0 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(features.conv0.weight)
    features.pool0 = nn.MaxPool2d(2, 2)
    for name, module in list(features.named_modules()):
        if isinstance(module, nn.BatchNorm2d) and not (normalization == "batch_norm" and name in NORMALIZED):
            parent, _, attribute = name.rpartition(".")
            setattr(features.get_submodule(parent), attribute, nn.Identity())
    # What torchvision does inside its `forward`, with the ReLU as a module.
    return nn.Sequential(
        OrderedDict(
            features=features,
            relu=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=torchvision_model.classifier,
        )
    )
