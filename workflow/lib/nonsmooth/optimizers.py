"""Optimizers and the schedules of their learning rates."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch
from torch import nn

from nonsmooth.cells import TrainingCell
from nonsmooth.eager import without_compiler

# Of the schedule `step`, as published for ImageNet.
STEP_EPOCHS, STEP_FACTOR = 30, 0.1


class SGD(torch.optim.SGD):
    """`torch.optim.SGD`, which does not import PyTorch's compiler."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class Adam(torch.optim.Adam):
    """`torch.optim.Adam`, which does not import PyTorch's compiler."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


for _method in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
    without_compiler(getattr(torch.optim.Optimizer, _method))


def build_optimizer(cell: TrainingCell, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum, which may clip gradients, or Adam. Raises ValueError for another name."""
    match cell.optimizer:
        case "sgd" | "sgd_clipped" | "sgd_scaled":
            sgd = SGD(
                model.parameters(),
                lr=cell.learning_rate,
                momentum=cell.momentum,
                weight_decay=cell.weight_decay,
                foreach=True,
            )
            if cell.optimizer == "sgd_clipped":
                # After a loss scaler has unscaled the gradients, and not at steps that it skips.
                sgd.register_step_pre_hook(lambda *_: clip_gradients(model.parameters(), cell.clip_norm))
            return sgd
        case "adam":
            return Adam(
                model.parameters(),
                lr=cell.learning_rate,
                eps=cell.adam_eps,
                weight_decay=cell.weight_decay,
                foreach=True,
            )
    raise ValueError(f"unknown optimizer {cell.optimizer!r}; expected 'sgd', 'adam', 'sgd_clipped' or 'sgd_scaled'")


def clip_gradients(parameters: Iterable[nn.Parameter], largest_norm: float) -> None:
    """`torch.nn.utils.clip_grad_norm_`, bit for bit in 32 and 64 bits; of 16-bit gradients in float32, each rounded once.

    As there, a gradient that is not finite makes itself NaN, and a NaN all others, too.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    wide = [gradient.to(torch.promote_types(gradient.dtype, torch.float32)) for gradient in gradients]
    norm = torch.nn.utils.get_total_norm(wide)
    factor = (largest_norm / (norm + 1e-6)).clamp(max=1)
    for gradient, values in zip(gradients, wide, strict=True):
        gradient.copy_(values * factor)


def build_schedule(cell: TrainingCell, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Cosine annealing to 0 after the last epoch, division by 10 every 30 epochs, or a constant rate.

    Raises ValueError for another name.
    """
    match cell.schedule:
        case "cosine":
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=cell.epochs)
        case "step":
            return torch.optim.lr_scheduler.StepLR(optimizer, STEP_EPOCHS, STEP_FACTOR)
        case "constant":
            return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    raise ValueError(f"unknown schedule {cell.schedule!r}; expected 'cosine', 'step' or 'constant'")
