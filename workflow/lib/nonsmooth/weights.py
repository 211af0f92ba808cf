"""How far apart two programs of one network drift while they are trained (arXiv 2401.02736).

Both start from the same weights and see the same batches; only the derivatives that they choose differ. A program beside
itself is the control: whatever distance it gets comes from the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from math import nan
from typing import Any

import torch
from torch import nn

from nonsmooth import training
from nonsmooth.cells import TrainingCell, WeightsCell
from nonsmooth.checkpoints import Checkpoint
from nonsmooth.images import Images, StreamedImages
from nonsmooth.precision import PRECISIONS


def train_pair(
    cell: WeightsCell,
    train_set: Images | StreamedImages,
    test_set: Images | StreamedImages,
    settings: training.Settings,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> training.Run:
    """Train the program and the reference of a cell, an epoch of each in turn, and compare their weights after each.

    Equal programs are both trained. A run whose weights are not finite stops and keeps them, and the other goes on to its
    end: from there on the distance is NaN or infinite, the run's accuracy what its weights score, and its loss NaN.

    Args:
        cell: the two programs and how they are trained.
        train_set, test_set: on the device of `settings`.
        settings: device (`cpu` or `cuda`), threads, determinism.
        on_epoch: called with each row of metrics.
        checkpoint: as of `training.train`.

    Returns:
        Metrics with a row per epoch, from 0, which is before training: `epoch`; `distance_l1` and `distance_linf`, the sum
        and the largest of |w_program - w_reference| over all parameters, and `weights_l1`, the sum of |w_reference|, in
        float64; of both, with `program_` and `reference_` in front, `test_accuracy` after the epoch and `train_loss`, the
        mean over its steps (None in epoch 0); `seconds` of training without the tests, of both together.
        The record has the outcome of both runs under `program` and `reference`, and the provenance.

    Raises:
        ValueError: the device cannot do the cell's precision; the checkpoint is of another run.
        MemoryError: the device's memory is too small; the message names the cell.
    """
    device = torch.device(settings.device)
    PRECISIONS[cell.precision].require(device)
    training.configure(settings)

    metrics: list[dict[str, Any]] = []
    parts = training.Parts(settings)
    with training.memory_errors(cell, device):
        sides = [_Side(trained, train_set, test_set, device) for trained in cell.runs()]
        program, reference = sides

        def state() -> dict[str, Any]:
            steps = sum(side.trainer.steps.taken for side in sides)
            return {"sides": [side.state_dict() for side in sides], "metrics": metrics, "parts": parts.so_far(steps)}

        if checkpoint is not None and (saved := checkpoint.load()) is not None:
            for side, values in zip(sides, saved["sides"], strict=True):
                side.load_state_dict(values)
            metrics = saved["metrics"]
            parts.go_on_after(saved["parts"])
        for epoch in range(len(metrics), cell.epochs + 1):
            for side in sides:
                side.train_until(epoch, checkpoint and (lambda: checkpoint.after_step(state)))
            distance_l1, distance_linf = distances(program.trainer.model, reference.trainer.model)
            row = {
                "epoch": epoch,
                "distance_l1": distance_l1,
                "distance_linf": distance_linf,
                "weights_l1": weights_l1(reference.trainer.model),
                "program_test_accuracy": program.test_accuracy,
                "reference_test_accuracy": reference.test_accuracy,
                "program_train_loss": program.train_loss,
                "reference_train_loss": reference.train_loss,
                "seconds": round(program.seconds + reference.seconds, 4),
            }
            metrics.append(row)
            if on_epoch is not None:
                on_epoch(row)
            if checkpoint is not None and epoch > 0:
                checkpoint.after_epoch(epoch, state)
    outcomes = {"program": program.trainer.outcome(), "reference": reference.trainer.outcome()}
    return training.Run(metrics, {**outcomes, **training.made_by(cell, settings, parts)})


def distances(model: nn.Module, other: nn.Module) -> tuple[float, float]:
    """Sum and largest of |w - w'| over the parameters of two networks of one architecture, in float64.

    Both are NaN if any difference is, such as that of two equal infinities. Buffers do not count.
    """
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    differences = [(weight.detach().double() - other.detach().double()).abs() for weight, other in pairs]
    l1 = torch.stack([difference.sum() for difference in differences]).sum()
    linf = torch.stack([difference.max() for difference in differences]).max()
    return l1.item(), linf.item()


def weights_l1(model: nn.Module) -> float:
    """Sum of |w| over the parameters, in float64."""
    return torch.stack([weight.detach().double().abs().sum() for weight in model.parameters()]).sum().item()


class _Side:
    """One of the two runs, and what was measured of it after its last epoch."""

    MEASURED = ("test_accuracy", "train_loss", "seconds")

    def __init__(
        self,
        cell: TrainingCell,
        train_set: Images | StreamedImages,
        test_set: Images | StreamedImages,
        device: torch.device,
    ) -> None:
        precision = PRECISIONS[cell.precision]
        self.trainer = training.Trainer(cell, train_set, test_set, precision, device)
        _, self.test_accuracy = training.evaluate(self.trainer.model, test_set, precision.evaluation)
        self.train_loss: float | None = None
        self.seconds = 0.0

    def train_until(self, epoch: int, after_step: Callable[[], None] | None) -> None:
        """Train an epoch unless it is over, or the weights are not finite, which no epoch would change."""
        if self.trainer.epochs_run == epoch:
            return
        row = next(self.trainer.epochs(after_step), None)
        if row is None:
            self.train_loss, self.seconds = nan, 0.0
            return
        self.test_accuracy, self.train_loss, self.seconds = (row[name] for name in self.MEASURED)

    def state_dict(self) -> dict[str, Any]:
        return {"trainer": self.trainer.state_dict(), **{name: getattr(self, name) for name in self.MEASURED}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.trainer.load_state_dict(state["trainer"])
        for name in self.MEASURED:
            setattr(self, name, state[name])
