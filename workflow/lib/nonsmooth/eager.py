"""What PyTorch's eager mode does for its compiler, left out.

Optimizers and custom operators import the compiler at their first call, only to tell it that they are not for it. That takes a second;
most cells take a few.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch


def without_compiler(function: Callable) -> Callable:
    """The function, known to `torch._compile` as one that the compiler has been told of. Changes nothing else."""
    function = inspect.unwrap(function)
    # Where it keeps what it calls in place of the function.
    setattr(function, "__dynamo_disable", function)
    return function


def custom_op(name: str) -> Callable[[Callable], Any]:
    """`torch.library.custom_op(name)` of a function that changes none of its arguments."""

    def define(function: Callable) -> Any:
        operator = torch.library.custom_op(name, mutates_args=())(function)
        for implementation in operator._backend_fns.values():
            without_compiler(implementation)
        return operator

    return define
