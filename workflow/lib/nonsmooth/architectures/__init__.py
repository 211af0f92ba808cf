"""The networks of the studies, as a torch-free table, and `build`.

A builder is a function of `normalization`, `in_channels` and `num_classes` that returns a plain PyTorch model with
`torch.nn.MaxPool2d` and `torch.nn.ReLU` modules; `build` puts the chosen derivatives into it.
docs/extending.md shows how to add one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from nonsmooth.rules import Rule, Strided

if TYPE_CHECKING:
    from torch import nn

NORMALIZATIONS = ("none", "batch_norm")


@dataclass(frozen=True)
class Architecture:
    """A network.

    Attributes:
        title: name for readers.
        builder: `module:function`, imported when it is called, so that planning needs no torch.
        image_size: height and width; smaller images are padded to it with zeros (black) on all sides.
        takes_larger: whether larger images are taken, too.
        memory_mb: main memory that a training job asks the scheduler for, above what docs/costs.md measured.
        shares_gpu: whether a job leaves so much of a GPU idle that `jobs_per_gpu` of them may share one.
    """

    title: str
    builder: str
    image_size: int
    takes_larger: bool = False
    memory_mb: int = 6000
    shares_gpu: bool = False

    def padding(self, height: int, width: int) -> int:
        """Zeros to put on every side of images of that size.

        Raises ValueError for images that are too large, not square, or an odd number of pixels too small.
        """
        if height != width:
            raise ValueError(f"{self.title} takes square images, not {height} x {width}")
        missing = self.image_size - height
        if missing < 0 and not self.takes_larger:
            raise ValueError(f"{self.title} takes images of up to {self.image_size} x {self.image_size}, "
                             f"not {height} x {width}")  # fmt: skip
        if missing > 0 and missing % 2:
            raise ValueError(f"{height} x {width} images cannot be padded evenly to {self.image_size}")
        return max(missing, 0) // 2


ARCHITECTURES: dict[str, Architecture] = {
    "lenet5": Architecture("LeNet-5", "nonsmooth.architectures.lenet:lenet5", 28, memory_mb=2000, shares_gpu=True),
    "vgg11": Architecture("VGG11", "nonsmooth.architectures.vgg:vgg11", 32),
    "vgg13": Architecture("VGG13", "nonsmooth.architectures.vgg:vgg13", 32),
    "vgg16": Architecture("VGG16", "nonsmooth.architectures.vgg:vgg16", 32),
    "vgg19": Architecture("VGG19", "nonsmooth.architectures.vgg:vgg19", 32),
    "resnet18": Architecture("ResNet-18", "nonsmooth.architectures.resnet:resnet18", 32, takes_larger=True),
    "resnet34": Architecture("ResNet-34", "nonsmooth.architectures.resnet:resnet34", 32, takes_larger=True),
    "resnet50": Architecture(
        "ResNet-50", "nonsmooth.architectures.resnet:resnet50", 32, takes_larger=True, memory_mb=16000
    ),
    "densenet121": Architecture("DenseNet-121", "nonsmooth.architectures.densenet:densenet121", 32, takes_larger=True),
}


def build(
    name: str, rule: Rule, normalization: str, in_channels: int, num_classes: int, relu_derivative: float = 0.0
) -> nn.Module:
    """The architecture called `name` in float32: input (N, in_channels, H, W), output logits (N, num_classes).

    Every max pooling follows `rule`, every ReLU has `relu_derivative` at 0. Neither draws random numbers, so that all rules
    start from the same weights; but `Strided`, whose own weights are drawn after all others.

    Raises ValueError for an unknown name or normalization, or for a network without a MaxPool2d module.
    """
    import torch
    from torch import nn

    from nonsmooth.activations import replace_relus
    from nonsmooth.pooling import replace_max_pools
    from nonsmooth.pooling.strided import replace_max_pools_by_convolutions

    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; expected one of {sorted(ARCHITECTURES)}")
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {list(NORMALIZATIONS)}, got {normalization!r}")
    model = resolve_name(ARCHITECTURES[name].builder)(normalization, in_channels, num_classes)
    if not any(isinstance(module, nn.MaxPool2d) for module in model.modules()):
        raise ValueError(f"architecture {name}: no torch.nn.MaxPool2d module in it, so that no rule can be chosen")
    if isinstance(rule, Strided):
        size = ARCHITECTURES[name].image_size
        model = replace_max_pools_by_convolutions(model, torch.zeros(1, in_channels, size, size))
    else:
        model = replace_max_pools(model, rule)
    return replace_relus(model, relu_derivative)
