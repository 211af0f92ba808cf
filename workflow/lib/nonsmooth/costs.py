"""What cells cost: expected time, memory and size on disk, from tables of measured times (`snakemake benchmark`).

Torch- and pandas-free, so that rules can ask while they are planned. A time that no table has is None, never a guess.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from math import ceil, inf
from pathlib import Path
from typing import Any

from nonsmooth import config as presets
from nonsmooth.architectures import ARCHITECTURES
from nonsmooth.cells import TrainingCell, WeightsCell, ZoneCell
from nonsmooth.datasets import DATASETS, TEST
from nonsmooth.rules import Hybrid, Norm, parse_rule

# Tables of a CPU that come with the project, in place of those of this machine; data/README.md says how they were made.
SHIPPED = Path(__file__).resolve().parents[3] / "data/benchmarks"
# What each table has for one case: what it is found by, and what was measured.
TABLES = {
    "architectures": (
        ("architecture", "precision"),
        ("seconds", "test_seconds", "start_seconds", "poolings", "peak_memory_mib", "memory_before_mib"),
    ),
    "rules": (("architecture", "precision", "normalization", "rule"), ("ratio",)),
    "zones": (("architecture", "normalization", "precision"), ("plain_s", "pair", "with_replays", "peak_memory_mib")),
}
# Whose ratios a network has that the tables of rules and of zones lack.
# ASSUME: in all networks larger than LeNet-5 the convolutions take most of a step, as in VGG11.
LIKE = "vgg11"
# A search holds out a fifth of the images.
FIT, HELD_OUT = 4 / 5, 1 / 5
# Bytes of a row in the files of a cell, and of a block, which a file fills on disk, as the default preset wrote them.
METRICS_ROW, LAYERS_ROW, ACTIVATIONS_ROW, MINIBATCHES_ROW, LOG_ROW = 90, 90, 25, 420, 200
BLOCK = 4096
# Rows of activations per pooling at most, see `nonsmooth.traces`.
ACTIVATION_ROWS = 1000

Cell = TrainingCell | WeightsCell | ZoneCell


@dataclass(frozen=True)
class Job:
    """A cell that a preset needs, and where its files are.

    Attributes:
        part: `search`, `train`, `weights` or `zones`, as in paths.
        cell: what is trained or measured.
        path: its folder below `results/<run>/maxpool/<part>`.
        trials: trainings of a search; 1 otherwise.
    """

    part: str
    cell: Cell
    path: str
    trials: int = 1

    def is_finished(self, results: Path) -> bool:
        """Whether the file that it writes last is in `results/<run>`."""
        last = "chosen.json" if self.part == "search" else "record.json"
        return (results / "maxpool" / self.part / self.path / last).is_file()


@dataclass(frozen=True)
class Cost:
    """Of one job.

    Attributes:
        images: that pass forward and backward, each as often as it does.
        seconds: from the start of its process to the end; None where that is not known.
        memory_mib: main memory at its peak; what it asks a scheduler for where that is not known.
        size: of its files on disk, in bytes.
    """

    images: int
    seconds: float | None
    memory_mib: float
    size: int


@dataclass(frozen=True)
class Benchmarks:
    """The tables in a folder, measured on one device with a number of threads. Times are of minibatches of `batch_size`."""

    folder: Path
    device: str
    machine: str
    threads: int
    torch: str
    date: str
    batch_size: int
    tables: dict[str, dict[tuple[str, ...], dict[str, float]]] = field(repr=False)

    def step(self, cell: TrainingCell) -> float | None:
        """Seconds of a training step; None where the network was not measured in that precision, or on smaller images."""
        native = self.network(cell)
        if native is None:
            return None
        measured = cell.architecture if self._ratio(cell.architecture, cell.precision) else LIKE
        # What was not measured costs what the dearest rule does that was.
        rule = self._ratio(measured, cell.precision, "batch_norm", kind(cell.rule))
        rule = rule or max(self._ratios(measured, cell.precision))
        normalization = self._ratio(measured, cell.precision, cell.normalization)
        return native["seconds"] * rule * normalization

    def network(self, cell: Cell) -> dict[str, float] | None:
        """What was measured of a cell's network in its precision: native rule, batch norm, SGD."""
        if DATASETS[cell.dataset].shape[-1] > ARCHITECTURES[cell.architecture].image_size:
            return None
        return self.tables["architectures"].get((cell.architecture, cell.precision))

    def comparison(self, cell: ZoneCell) -> tuple[float, float] | None:
        """Seconds of comparing two programs on a minibatch, and its peak memory in MiB; None where that is not known."""
        network, like = self.network(cell), self.tables["architectures"].get((LIKE, cell.precision))
        known = self.tables["zones"]
        found = known.get((cell.architecture, cell.normalization, cell.precision))
        if found is None and like is not None and network is not None:
            found = known.get((LIKE, "none", cell.precision))
        if network is None or found is None:
            return None
        share, memory = 1.0, 1.0
        if (cell.architecture, cell.normalization, cell.precision) not in known:
            share = network["seconds"] / like["seconds"]
            memory = max(1.0, network["peak_memory_mib"] / like["peak_memory_mib"])
        times = found["with_replays"] if cell.replays else found["pair"]
        return found["plain_s"] * times * share, found["peak_memory_mib"] * memory
