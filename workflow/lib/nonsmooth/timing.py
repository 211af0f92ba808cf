"""What benchmarks share: the clock, functions that are timed in turn, PyTorch's own pooling, and a training step on random images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import nn

from nonsmooth import optimizers, training
from nonsmooth.cells import TrainingCell
from nonsmooth.datasets import DATASETS
from nonsmooth.pooling import MaxPool2d
from nonsmooth.precision import PRECISIONS

Clock = Callable[[], float]


def clock(device: torch.device) -> Clock:
    """Seconds, read when everything that was asked of the device is done.

    Of one thread on a CPU it is the processor's time of this process, which is the time that work takes alone, so that a busy
    machine disturbs less; of a GPU and of several threads it is the wall's.
    """
    if device.type == "cuda":

        def wall() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return wall
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def in_turn(cases: Sequence[Callable[[], object]], rounds: int, budget: float, clock: Clock) -> list[list[float]]:
    """Seconds of the runs of each case. A round runs each once, so that a noisy machine disturbs all alike.

    A round before them warms up. A case runs until it has used `budget` seconds, once at least.
    """
    seconds: list[list[float]] = [[] for _ in cases]
    for run in cases:
        run()
    for _ in range(rounds):
        for times, run in zip(seconds, cases, strict=True):
            if sum(times) < budget:
                started = clock()
                run()
                times.append(clock() - started)
    return seconds


def pool_by_pytorch(model: nn.Module) -> None:
    """Have the native poolings of a network computed by PyTorch's own kernels, not by ours with the same bits."""
    for module in model.modules():
        if isinstance(module, MaxPool2d):
            module.forward = partial(nn.MaxPool2d.forward, module)


class TrainingStep:
    """The training step of a cell as a function without arguments, of a minibatch of random images in the shape of its dataset.

    Attributes:
        model: the network at its initial weights and after the steps that were taken.
        images: the minibatch, float32 (N, C, H, W).
    """

    def __init__(
        self,
        cell: TrainingCell,
        device: torch.device,
        arithmetic: Callable[[], AbstractContextManager] | None = None,
    ) -> None:
        """`arithmetic` is that of the cell's precision unless another one is given."""
        self.precision = PRECISIONS[cell.precision]
        self.arithmetic = arithmetic or (lambda: self.precision.arithmetic(device))
        self.model = training.initial_model(cell).to(device)
        self.optimizer, self.scaler = optimizers.build_optimizer(cell, self.model), self.precision.loss_scaler(device)
        dataset = DATASETS[cell.dataset]
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(cell.batch_size, *dataset.shape, generator=generator).to(device)
        self.labels = (torch.arange(cell.batch_size) % dataset.num_classes).to(device)

    def __call__(self) -> None:
        with self.arithmetic():
            training.step(self.model, self.optimizer, self.scaler, self.precision, self.images, self.labels)
