"""What a preset's jobs would cost in all, as tables and sentences for a terminal; `nonsmooth.costs` has that of one job."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import Any

import pandas as pd

from nonsmooth import config as presets
from nonsmooth import costs
from nonsmooth.architectures import ARCHITECTURES
from nonsmooth.datasets import DATASETS
from nonsmooth.files import read_json

GROUP = ["part", "dataset", "architecture", "precision"]
MINUTE, HOUR, GIB = 60, 3600, 2**30


def jobs_table(config: dict[str, Any], benchmarks: costs.Benchmarks | None, results: Path) -> pd.DataFrame:
    """A row per expensive job of a checked preset, whose files are in `results`.

    Columns: those of `GROUP`, `record` (the file that says what it took), `finished`, `images`, `seconds` (NaN where not known), `memory_gib` (measured, or what the job
    asks for) and `size_gib` on the disk.
    """
    sizes = costs.read(costs.SHIPPED)
    rows = []
    for job in costs.jobs(config):
        memory = benchmarks.memory_mib(job) if benchmarks else None
        rows.append(
            {
                "part": job.part,
                **{factor: getattr(job.cell, factor) for factor in GROUP[1:]},
                "record": job.record(results),
                "finished": job.record(results).is_file(),
                "images": job.images,
                "seconds": benchmarks.seconds(job) if benchmarks else None,
                "memory_gib": (memory or ARCHITECTURES[job.cell.architecture].memory_mb) / 1024,
                "size_gib": sizes.size(job) / GIB,
            }
        )
    return pd.DataFrame(rows).astype({"seconds": float})


def summary(jobs: pd.DataFrame) -> pd.DataFrame:
    """A row per group: how many jobs are to run and finished, and what those to run take."""
    rows = []
    for group, found in jobs.groupby(GROUP, sort=False):
        left = found[~found.finished]
        rows.append(
            {
                **dict(zip(GROUP, group, strict=True)),
                "to run": len(left),
                "finished": len(found) - len(left),
                "images (millions)": left.images.sum() / 1e6,
                "hours": left.seconds.sum(skipna=False) / HOUR,
                "longest (h)": left.seconds.max(skipna=False) / HOUR if len(left) else 0.0,
                "memory (GiB)": left.memory_gib.max() if len(left) else 0.0,
                "results (MiB)": left.size_gib.sum() * 1024,
            }
        )
    return pd.DataFrame(rows)


def check(jobs: pd.DataFrame) -> pd.DataFrame:
    """A row per group of finished jobs and one of all: minutes `expected`, those it `took`, their ratio, and minutes of CPU time.

    They are those of the last attempt at a job: less than all of a training that was interrupted. Searches, which may go on
    for more trials, record none. Raises ValueError without a finished job.
    """
    finished = jobs[jobs.finished & (jobs.part != "search")]
    if finished.empty:
        raise ValueError("no cell of this preset is finished; run some first")
    used = pd.DataFrame([read_json(path) for path in finished.record], index=finished.index)
    finished = finished.join(used.reindex(columns=["process_seconds", "cpu_seconds"]).astype(float))
    groups = [*finished.groupby(GROUP, sort=False), (("all", "", "", ""), finished)]
    table = pd.DataFrame(
        [
            {
                **dict(zip(GROUP, group, strict=True)),
                "jobs": len(found),
                "expected (min)": found.seconds.sum(skipna=False) / MINUTE,
                "took (min)": found.process_seconds.sum(skipna=False) / MINUTE,
                "CPU (min)": found.cpu_seconds.sum(skipna=False) / MINUTE,
            }
            for group, found in groups
        ]
    )
    return table.assign(ratio=table["took (min)"] / table["expected (min)"])


def sentences(
    config: dict[str, Any], jobs: pd.DataFrame, benchmarks: costs.Benchmarks | None, device: str, cores: int
) -> list[str]:
    """The sums of a plan: what is left, what it takes on this machine with `cores`, where the times are from, and the data."""
    left = jobs[~jobs.finished]
    known = left.seconds.dropna() / HOUR
    lines = [
        f"{len(left):,} cells to run, {len(jobs) - len(left):,} finished; results take {_size(left.size_gib.sum())}."
    ]
    if benchmarks is None:
        how = f"device={device}" + (f" threads={config['threads']}" if config["threads"] > 1 else "")
        lines.append(
            f"Hours are not known: run `snakemake benchmark --config {how}` first. Memory is what a job asks for."
        )
    else:
        if device == "cuda":
            lines.append(f"{known.sum():,.1f} GPU-hours, with one job on a GPU at a time.")
        else:
            at_once = max(1, cores // config["threads"])
            # No schedule ends before its longest job.
            wall = max(known.sum() / at_once, known.max()) if len(known) else 0.0
            lines.append(
                f"{known.sum() * config['threads']:,.1f} core-hours: {wall:,.1f} hours with {at_once} at a time on {cores} cores, which "
                f"take {left.memory_gib.nlargest(at_once).sum():.1f} GiB of memory at most."
            )
        if len(known) < len(left):
            lines.append(
                f"{len(left) - len(known):,} cells are not in that: nobody measured their network on such images."
            )
        source = (
            f"{os.path.relpath(benchmarks.folder)} ({benchmarks.machine}, torch {benchmarks.torch}, {benchmarks.date})"
        )
        hint = "; `snakemake benchmark` measures this machine" if benchmarks.is_shipped else ""
        lines.append(f"Times from {source}{hint}.")
    splits = presets.splits(config, presets.training_cells(config))
    lines.append(f"Prepared images take {_size(sum(map(_prepared_gib, splits, splits.values())))}.")
    lines.append("Figures, tables and the report are not in the plan: seconds each.")
    return lines


def _prepared_gib(name: str, splits: list[str]) -> float:
    """Of prepared splits: a byte per value, and one per label; sets that are read while training are not copied."""
    dataset = DATASETS[name]
    images = 0 if dataset.streamed else sum(dataset.sizes[split] for split in splits)
    return images * (prod(dataset.shape) + 1) / GIB


def _size(gib: float) -> str:
    return f"{gib:,.1f} GiB" if gib >= 1 else f"{gib * 1024:,.0f} MiB"


def write(table: pd.DataFrame) -> str:
    """`table` for a terminal; what is not known is a question mark."""
    return (
        table.astype(object)
        .where(table.notna(), None)
        .to_markdown(index=False, tablefmt="simple", floatfmt=",.2f", intfmt=",", missingval="?")
    )
