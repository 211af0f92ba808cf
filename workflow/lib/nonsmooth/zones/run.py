"""One cell of the zones: the minibatches of one pass over the training images, at a network's initial weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from nonsmooth import architectures
from nonsmooth.cells import Program, ZoneCell
from nonsmooth.datasets import DATASETS
from nonsmooth.images import Images, StreamedImages
from nonsmooth.precision import PRECISIONS
from nonsmooth.rules import Native
from nonsmooth.training import Parts, Settings, configure, made_by, memory_errors
from nonsmooth.zones.measure import Comparison

logger = logging.getLogger(__name__)

# Plain passes are timed on the last minibatch, this often or until they have taken so many seconds.
PLAIN_PASSES, PLAIN_SECONDS = 5, 2.0
# Beside the one of the order of images, which is the seed.
NOISE_STREAM = 2**32


@dataclass
class ZoneRun:
    """A measured cell: rows of minibatches, a census per layer summed over them, and the record."""

    minibatches: list[dict[str, Any]] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)


def measure_cell(
    cell: ZoneCell,
    data: Images | StreamedImages,
    settings: Settings,
    on_minibatch: Callable[[dict[str, Any]], None] | None = None,
) -> ZoneRun:
    """Compare the two programs of a cell on every minibatch of one pass, or on as many as the cell says.

    Args:
        cell: what is compared, where, and from which seed.
        data: the training split, on the device of `settings`.
        settings: device and threads; the cell's `kernels` decide on determinism.
        on_minibatch: called with each row.

    Returns:
        Rows and layers as docs/methods.md describes them. Memory does not grow with the number of minibatches.

    Raises:
        ValueError: the device cannot do the cell's precision; replays of programs that cannot be replayed; no minibatches.
        MemoryError: the device's memory is too small; the message names the cell.
    """
    device = torch.device(settings.device)
    precision = PRECISIONS[cell.precision]
    precision.require(device)
    settings = Settings(settings.device, settings.threads, deterministic=cell.kernels == "deterministic")
    configure(settings)
    parts = Parts(settings)

    run = ZoneRun()
    with memory_errors(cell, device):
        comparison = Comparison(
            initial_network(cell),
            Program.parse(cell.program),
            Program.parse(cell.reference),
            precision,
            device,
            cell.replays,
        )
        batches = data.batches(cell.batch_size, torch.Generator().manual_seed(cell.seed))
        noise = torch.Generator().manual_seed(NOISE_STREAM + cell.seed)
        seconds: dict[str, list[float]] = {"pair": [], "replays": []}
        for number, (images, labels) in enumerate(islice(batches, cell.minibatches)):
            images = noisy(images, cell.noise, noise)
            measured = comparison.measure(images, labels)
            for name, taken in seconds.items():
                taken.append(measured.row.pop(f"seconds_{name}"))
            row = {"minibatch": number, **measured.row}
            run.minibatches.append(row)
            run.layers = add_census(run.layers, measured.layers) if run.layers else measured.layers
            if on_minibatch is not None:
                on_minibatch(row)
        if not run.minibatches:
            raise ValueError(f"{cell}: no minibatch to measure; there are {len(data)} images")
        seconds["plain"] = time_plain(comparison, images, labels)
    run.layers = [{"layer": number, **layer} for number, layer in enumerate(run.layers, 1)]
    made = made_by(cell, settings, parts)
    run.record = {
        **made,
        "minibatches": len(run.minibatches),
        "wall_seconds": made["seconds"],
        "seconds": {name: pd.Series(taken).median() for name, taken in seconds.items()},
    }
    return run


def initial_network(cell: ZoneCell) -> nn.Module:
    """The float32 network at which a cell is measured, in training mode, drawn from its seed."""
    dataset = DATASETS[cell.dataset]
    with torch.random.fork_rng():
        torch.manual_seed(cell.seed)
        model = architectures.build(
            cell.architecture, Native(), cell.normalization, dataset.shape[0], dataset.num_classes
        )
        if cell.initialization == "kaiming_uniform":
            initialize(model)
    return model


def initialize(model: nn.Module) -> None:
    """The published initialisation, in place: Kaiming-uniform (fan-in) convolutions, linear layers N(0, 0.01²), no biases."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def noisy(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Images with Gaussian noise of this standard deviation, drawn on the CPU so that devices see the same."""
    if deviation == 0:
        return images
    return images + deviation * torch.randn(images.shape, generator=generator).to(images.device)


def add_census(total: list[dict[str, Any]], layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Counts of every layer summed; of `largest_size` the larger one."""

    def added(key: str, first: dict[str, Any], second: dict[str, Any]) -> Any:
        if key in ("name", "kind"):
            return first[key]
        # A minibatch without replays, such as one whose forward pass overflowed, has no counts from them.
        numbers = [number for number in (first[key], second[key]) if number is not None]
        if not numbers:
            return None
        return max(numbers) if key == "largest_size" else sum(numbers)

    return [{key: added(key, first, second) for key in first} for first, second in zip(total, layers, strict=True)]


def time_plain(comparison: Comparison, images: Tensor, labels: Tensor) -> list[float]:
    """Seconds of forward and backward passes of the reference program alone."""
    taken: list[float] = []
    while len(taken) < PLAIN_PASSES and sum(taken) < PLAIN_SECONDS:
        started = comparison.clock()
        comparison.plain_pass(images, labels)
        taken.append(comparison.clock() - started)
    return taken
