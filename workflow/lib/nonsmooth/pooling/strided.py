"""Convolutions with a stride in place of poolings (All-CNN, arXiv 1412.6806)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nonsmooth.modules import replace_modules


def replace_max_pools_by_convolutions(model: nn.Module, images: Tensor) -> nn.Module:
    """Replace every `torch.nn.MaxPool2d` of `model` by a convolution with its geometry, from all channels to as many.

    The channels are found by a dry run on `images`, which leaves the model and the random state as they are. Weights are drawn
    afterwards, in order of the modules, by PyTorch's default initialisation. ASSUME: no ReLU follows, as none follows a pooling.

    Raises ValueError for a pooling with `ceil_mode` or `return_indices`, which a convolution has not.
    """
    channels: dict[nn.Module, int] = {}

    def remember(pool: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        channels[pool] = inputs[0].shape[-3]

    def convolution(pool: nn.MaxPool2d) -> nn.Conv2d:
        if pool.ceil_mode or pool.return_indices:
            raise ValueError(f"rule strided: a convolution cannot take the place of {pool}")
        return nn.Conv2d(
            channels[pool], channels[pool], pool.kernel_size, pool.stride, pool.padding, pool.dilation
        )  # fmt: skip

    hooks = [module.register_forward_hook(remember) for module in model.modules() if isinstance(module, nn.MaxPool2d)]
    was_training = model.training
    with torch.no_grad():
        model.eval()(images)
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return replace_modules(model, nn.MaxPool2d, convolution)
