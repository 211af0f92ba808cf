"""Replacing layers of a model in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


def replace_modules(model: nn.Module, kind: type[Layer], replacement: Callable[[Layer], nn.Module]) -> nn.Module:
    """Replace every module of type `kind` in `model` by `replacement(module)`, in place, and return the model.

    A module used in several places stays one module. If `model` is itself of that type, its replacement is
    returned. What a `forward` calls as a function cannot be seen and stays.
    """
    replacements: dict[nn.Module, nn.Module] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(module, kind):
            continue
        if module not in replacements:
            replacements[module] = replacement(module).train(module.training)
        if not path:
            return replacements[module]
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, replacements[module])
    return model
