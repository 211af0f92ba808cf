"""What a preset's cells cost: expected time, memory and size on disk, from tables of measured times (`snakemake benchmark`).

Torch- and pandas-free, so that rules can ask while they are planned. A time that was not measured is None, never a guess.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil, inf
from pathlib import Path
from statistics import median
from typing import Any

from nonsmooth import config as presets
from nonsmooth.architectures import ARCHITECTURES
from nonsmooth.cells import SEARCH, TrainingCell, WeightsCell, ZoneCell
from nonsmooth.datasets import DATASETS, TEST

# Of a CPU, for where this machine has no tables of its own; data/README.md says how they were made.
SHIPPED = Path(__file__).resolve().parents[3] / "data/benchmarks"
# The columns that tell the cases of a table apart, and those that are used of what was measured.
TABLES = {
    "architectures": (
        ("architecture", "precision"),
        ("seconds", "test_seconds", "start_seconds", "poolings", "peak_memory_mib", "memory_before_mib"),
    ),
    "rules": (("architecture", "precision", "normalization", "rule"), ("ratio",)),
    "zones": (("architecture", "precision", "normalization"), ("pair", "with_replays", "peak_memory_mib")),
}
# ASSUME: ratios that were not measured of a network are those of VGG11: in all but LeNet-5 convolutions take most of a step.
LIKE = "vgg11"
# Bytes of a row in the files of a cell, as the default preset wrote them; a file fills blocks on the disk.
ROW = {"record": 100, "metrics": 90, "layers": 90, "activations": 25, "minibatches": 420, "log": 200}
BLOCK = 4096
# `nonsmooth.traces` keeps as many rows of a pooling at most.
ACTIVATION_ROWS = 1000

Cell = TrainingCell | WeightsCell | ZoneCell


@dataclass(frozen=True)
class Job:
    """A cell of a preset, and where its files are.

    Attributes:
        part: `search`, `train`, `weights` or `zones`, as in paths.
        cell: what is trained or compared.
        path: its folder below `results/<run>/maxpool/<part>`.
        trials: how often a search trains it.
    """

    part: str
    cell: Cell
    path: str
    trials: int = 1

    def record(self, results: Path) -> Path:
        """The file that the job writes last in the folder `results/<run>`; but that of a search, it says what the job took."""
        last = "chosen.json" if self.part == "search" else "record.json"
        return results / "maxpool" / self.part / self.path / last

    @property
    def passes(self) -> list[tuple[TrainingCell, int, int]]:
        """What is trained, on how many images in all, and on how many it is tested; nothing for zones."""
        cell = self.cell
        if isinstance(cell, ZoneCell):
            return []
        runs = cell.runs() if isinstance(cell, WeightsCell) else (cell,)
        sizes = DATASETS[cell.dataset].sizes
        images, tested = sizes[cell.train_split], sizes[TEST]
        if self.part == "search":  # it holds out a fifth of the images; pruned trials end earlier
            images, tested = images - images // 5, images // 5
        epochs = cell.epochs * self.trials
        return [(run, images * epochs, tested * epochs) for run in runs]

    @property
    def images(self) -> int:
        """Images that pass forward and backward, as often as they do; of zones once, whatever is replayed."""
        if isinstance(self.cell, ZoneCell):
            available = DATASETS[self.cell.dataset].sizes[presets.ZONES_SPLIT]
            return min(available, (self.cell.minibatches or inf) * self.cell.batch_size)
        return sum(images for _, images, _ in self.passes)


def jobs(config: dict[str, Any]) -> Iterator[Job]:
    """The expensive jobs of a checked preset: searches that cells wait for, training, weights and zones."""
    settings = presets.search_settings(config)
    cells = presets.training_cells(config)
    searched = [presets.searched_cell(cell, settings) for cell in cells if cell.learning_rate == SEARCH]
    for path, cell in {cell.condition_path: cell for cell in searched}.items():
        yield Job("search", cell, path, settings["trials"])
    for part, found in (
        ("train", cells),
        ("weights", presets.weights_cells(config)),
        ("zones", presets.zone_cells(config)),
    ):
        for cell in found:
            yield Job(part, cell, cell.path)


@dataclass(frozen=True)
class Benchmarks:
    """The tables in a folder: times on one device with a number of threads, of minibatches of `batch_size`."""

    folder: Path
    device: str
    machine: str
    threads: int
    batch_size: int
    torch: str
    date: str
    tables: dict[str, dict[tuple[str, ...], dict[str, float]]] = field(repr=False)

    @property
    def is_shipped(self) -> bool:
        """Whether they come with the project."""
        return self.folder == SHIPPED

    def seconds(self, job: Job) -> float | None:
        """From the start of a job's process to its end; None where its network was not measured, or on smaller images only."""
        network = self._network(job.cell)
        if network is None:
            return None
        if isinstance(job.cell, ZoneCell):
            comparison = self._comparison(job.cell)["with_replays" if job.cell.replays else "pair"]
            return self._start + job.images / self.batch_size * self._step(job.cell) * comparison
        return self._start + sum(
            (images * self._step(run, run.rule) + tested * network["test_seconds"]) / self.batch_size
            for run, images, tested in job.passes
        )

    def memory_mib(self, job: Job) -> float | None:
        """Peak of the main memory of a job's process; None where that is not known."""
        network = self._network(job.cell)
        if network is None:
            return None
        peak, before = network["peak_memory_mib"], network["memory_before_mib"]
        if isinstance(job.cell, ZoneCell):
            peak = max(peak, self._comparison(job.cell)["peak_memory_mib"])
        return before + (peak - before) * job.cell.batch_size / self.batch_size

    def size(self, job: Job) -> int:
        """Bytes of a job's files on the disk, with its log; of a search without its journal."""
        cell, poolings = job.cell, self._poolings(job.cell.architecture)
        rows = {"record": 20}
        if isinstance(cell, ZoneCell):
            rows |= {"minibatches": ceil(job.images / cell.batch_size), "layers": 2 * poolings}
        else:
            rows |= {"metrics": cell.epochs, "log": cell.epochs * job.trials}
        if job.part == "train":
            steps = ceil(job.images / cell.batch_size)
            rows |= {"layers": cell.epochs * poolings, "activations": min(ACTIVATION_ROWS, steps) * poolings}
        return sum(ceil(count * ROW[name] / BLOCK) * BLOCK for name, count in rows.items())

    @property
    def _start(self) -> float:
        """Seconds until a process computes; of all networks, since it is of the machine."""
        return median(row["start_seconds"] for row in self.tables["architectures"].values())

    def _poolings(self, architecture: str) -> int:
        counts = {name: int(row["poolings"]) for (name, _), row in self.tables["architectures"].items()}
        return counts.get(architecture, counts[LIKE])

    def _network(self, cell: Cell) -> dict[str, float] | None:
        """Of a step of the cell's network in its precision, with the native rule, batch norm and SGD."""
        if DATASETS[cell.dataset].shape[-1] > ARCHITECTURES[cell.architecture].image_size:
            return None
        return self.tables["architectures"].get((cell.architecture, cell.precision))

    def _step(self, cell: TrainingCell | ZoneCell, rule: str = "native") -> float:
        """Seconds of a training step of the cell's network with a rule."""
        ratios, where = self.tables["rules"], (cell.architecture, cell.precision)
        if (*where, "batch_norm", "native") not in ratios:
            where = (LIKE, cell.precision)
        ratio = ratios.get((*where, "batch_norm", kind(rule)))
        if ratio is None:  # it costs as much as the dearest that was measured
            ratio = max((row for case, row in ratios.items() if case[:2] == where), key=lambda row: row["ratio"])
        normalization = ratios[*where, cell.normalization, "native"]
        return self._network(cell)["seconds"] * ratio["ratio"] * normalization["ratio"]

    def _comparison(self, cell: ZoneCell) -> dict[str, float]:
        """Of two programs on a minibatch: time as a multiple of a step, and peak memory."""
        known = self.tables["zones"]
        own = (cell.architecture, cell.precision, cell.normalization)
        return known.get(own) or known[LIKE, cell.precision, "none"]


def read(folder: Path) -> Benchmarks:
    """The tables in `folder`. Raises ValueError that names the file if one is not a table of `snakemake benchmark`."""
    tables: dict[str, dict[tuple[str, ...], dict[str, float]]] = {}
    for name, (case, measured) in TABLES.items():
        path = folder / f"{name}.csv"
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            tables[name] = {
                tuple(kind(row[column]) for column in case): {column: _amount(row[column]) for column in measured}
                for row in rows
            }
            made = {column: rows[0][column] for column in ("device", "machine", "torch", "date")}
            numbers = {column: int(rows[0][column]) for column in ("threads", "batch_size")}
            missing = {precision for _, precision, *_ in tables[name]} - {p for a, p, *_ in tables[name] if a == LIKE}
            if missing:
                raise ValueError(f"nothing of {LIKE} in {', '.join(sorted(missing))}")
        except (OSError, UnicodeDecodeError, csv.Error, IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: not a table of `snakemake benchmark` ({error!r}); delete it and run snakemake benchmark again"
            ) from error
    return Benchmarks(folder, **made, **numbers, tables=tables)


def find(results: Path, device: str, threads: int) -> Benchmarks | None:
    """The newest benchmarks of this device and number of threads below `results`, or else those that come with the project.

    None if there are none; raises ValueError as `read` does.
    """
    own = [path.parent for path in results.glob("*/benchmark/rules.csv")]
    for folder in (*sorted(own, key=lambda folder: (folder / "rules.csv").stat().st_mtime, reverse=True), SHIPPED):
        if all((folder / f"{name}.csv").is_file() for name in TABLES):
            found = read(folder)
            if (found.device, found.threads) == (device, threads):
                return found
    return None


def kind(rule: str) -> str:
    """A rule's name without its numbers, which change no time."""
    return re.sub(r"-+[0-9][^-]*", "", rule)


def _amount(text: str) -> float:
    value = float(text)
    if not 0 < value < inf:
        raise ValueError(f"{text} is not an amount")
    return value
