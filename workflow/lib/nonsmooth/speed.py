"""The report's chapter on speed: the tables of `snakemake benchmark`, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from nonsmooth import plotting
from nonsmooth.report import Section, Sources, Table, words

# Columns that every table has: where and when it was measured.
MADE = ("device", "machine", "threads", "torch", "date")
INTRODUCTION = (
    "How fast this machine computes the cells of the study. Every case is timed beside a reference in the same run, since a time "
    "depends on the machine and on what else it does, and a ratio hardly does."
)


@dataclass(frozen=True)
class Benchmark:
    """A table of `snakemake benchmark`.

    Attributes:
        title: what it is called.
        caption: what was measured, and the reference.
        sentence: what a table says, in words.
        headings: of the columns that readers see. Those in seconds are shown in milliseconds, if their heading says so.
    """

    title: str
    caption: str
    sentence: Callable[[pd.DataFrame], str]
    headings: dict[str, str]


def between(values: pd.Series) -> str:
    """The range of ratios in words: "0.31 to 0.78"."""
    low, high = f"{values.min():.2g}", f"{values.max():.2g}"
    return low if low == high else f"{low} to {high}"


def pooling_sentence(table: pd.DataFrame) -> str:
    ratios = table[table.program != "native"].groupby("program", sort=False).ratio_to_native
    phrases = [f"{program} {between(values)}" for program, values in ratios]
    return f"Time of max pooling as a multiple of PyTorch's own, over all inputs and types: {', '.join(phrases)}."


def training_step_sentence(table: pd.DataFrame) -> str:
    medians = table.pivot_table("median_ms", ["case", "precision"], "path", sort=False)
    ratios = (medians.pytorch / medians.project).dropna().groupby("case", sort=False)
    phrases = [f"{case} {between(values)}" for case, values in ratios]
    return f"Time of PyTorch's own 16-bit kernels as a multiple of that of rounding once per operation: {', '.join(phrases)}."


def rules_sentence(table: pd.DataFrame) -> str:
    dearest = table.loc[table.groupby("architecture", sort=False).ratio.idxmax()]
    phrases = [
        f"{plotting.word(row.architecture)} {row.ratio:.2g} ({row.rule}, {row.precision})"
        for row in dearest.itertuples()
    ]
    return (
        f"Time of a step with the dearest pooling rule as a multiple of that with the native one: {', '.join(phrases)}."
    )


def architectures_sentence(table: pd.DataFrame) -> str:
    ends = table.sort_values("seconds").iloc[[0, -1]]
    low, high = (
        f"{1000 * row.seconds:,.1f} ms ({plotting.word(row.architecture)}, {row.precision})"
        for row in ends.itertuples()
    )
    return f"A training step takes from {low} to {high}."


def zones_sentence(table: pd.DataFrame) -> str:
    return (
        "Time of comparing two programs on a minibatch, in forward and backward passes of the network: "
        f"{between(table.pair)}, and with the replays that separate causes {between(table.with_replays)}."
    )


def end_to_end_sentence(table: pd.DataFrame) -> str:
    ratios = table[table.program == "project"].groupby("rule", sort=False).ratio_to_plain
    phrases = [f"{rule} {between(values)}" for rule, values in ratios]
    return f"Images per second in an epoch of LeNet-5 as a multiple of those of a plain program: {', '.join(phrases)}."


def starting_sentence(table: pd.DataFrame) -> str:
    alone, forked = table.set_index("start").seconds[["by itself", "forked"]]
    return f"A script that imports PyTorch starts in {alone:.2g} s by itself, and in {forked:.2g} s forked from a process that has."


def side_by_side_sentence(table: pd.DataFrame) -> str:
    best = table.loc[table.images_per_second.idxmax()]
    return (
        f"Images per second in all are most with {words(int(best.cells), 'cell')} of LeNet-5 at once, {best.ratio_to_one:.2g} times "
        "those of one."
    )


def planning_sentence(table: pd.DataFrame) -> str:
    first = table[table.what == "plan, nothing made"].set_index("run").seconds
    again = table[table.what == "run, everything made"].set_index("run").seconds
    largest = table.loc[table.jobs.idxmax()]
    return (
        f"Planning takes {between(first)} s, for {table.jobs.min():,} to {largest.jobs:,} jobs, and finding that nothing is left to be "
        f"done {between(again)} s."
    )


RATE = {"images_per_second": "images/s", "quartile1": "quartile 1", "quartile3": "quartile 3"}
MILLISECONDS = {"median_ms": "median (ms)", "quartile1_ms": "quartile 1", "quartile3_ms": "quartile 3"}
# By the name of the file, in the order of the chapter: an operation, a step, a cell, several cells.
BENCHMARKS = {
    "pooling": Benchmark(
        "Max pooling",
        "Forward and backward of one pooling; the reference is PyTorch's own in the same type.",
        pooling_sentence,
        {"shape": "input", "kernel": "window", "stride": "stride", "dtype": "precision", "program": "program", **MILLISECONDS,
         "ratio_to_native": "ratio", "ratio_to_copy": "ratio to copying"},
    ),
    "training_step": Benchmark(
        "Rounding once per operation",
        "A training step of LeNet-5, and forward and backward of a convolution of VGG11, in the project's 16-bit arithmetic and in "
        "PyTorch's own kernels; the reference is float32.",
        training_step_sentence,
        {"case": "case", "precision": "precision", "path": "kernels", **MILLISECONDS, "ratio_to_float32": "ratio"},
    ),
    "rules": Benchmark(
        "A training step by pooling rule",
        "Medians; the reference is the native rule with batch norm.",
        rules_sentence,
        {"architecture": "architecture", "precision": "precision", "normalization": "normalization", "rule": "rule",
         "seconds": "median (ms)", "ratio": "ratio"},
    ),
    "architectures": Benchmark(
        "A training step by architecture",
        "Native rule, batch norm, SGD; with the largest memory of the process.",
        architectures_sentence,
        {"architecture": "architecture", "precision": "precision", "parameters": "parameters", "seconds": "median (ms)",
         "quartile1": "quartile 1 (ms)", "quartile3": "quartile 3 (ms)", "steps": "steps", "peak_memory_mib": "memory (MiB)",
         "peak_gpu_memory_mib": "GPU memory (MiB)"},
    ),
    "zones": Benchmark(
        "Comparing two programs",
        "On one minibatch; the reference is one forward and backward pass of the same network.",
        zones_sentence,
        {"architecture": "architecture", "normalization": "normalization", "precision": "precision", "plain_s": "plain pass (ms)",
         "pair": "pair (passes)", "with_replays": "with replays (passes)", "peak_memory_mib": "memory (MiB)"},
    ),
    "end_to_end": Benchmark(
        "An epoch beside a plain program",
        "LeNet-5. The plain program, the reference, transforms images one by one, takes PyTorch's own 16-bit kernels and pools as published.",
        end_to_end_sentence,
        {"rule": "rule", "precision": "precision", "program": "program", **RATE, "rounds": "rounds", "ratio_to_plain": "ratio"},
    ),
    "starting": Benchmark(
        "Starting a script",
        "From the start of a script that imports what training imports to its end; the reference is a Python of its own.",
        starting_sentence,
        {"start": "process", "seconds": "median (ms)", "quartile1": "quartile 1 (ms)", "quartile3": "quartile 3 (ms)",
         "rounds": "rounds", "ratio": "ratio"},
    ),
    "side_by_side": Benchmark(
        "Several cells at once",
        "LeNet-5, each cell in a process of its own; the reference is one cell alone.",
        side_by_side_sentence,
        {"cells": "cells", "images_per_second": "images/s", "slowest_cell": "slowest cell (images/s)", "ratio_to_one": "ratio",
         "cores": "cores"},
    ),
    "planning": Benchmark(
        "Planning a run",
        "Snakemake's own time before a run, where nothing is made yet and where everything is there, for presets of so many cells.",
        planning_sentence,
        {"run": "preset", "cells": "cells", "jobs": "jobs", "what": "what", "seconds": "seconds", "cpu_seconds": "on a processor",
         "peak_memory_mib": "memory (MiB)"},
    ),
}  # fmt: skip


def read(path: str | Path) -> pd.DataFrame:
    """A table of `snakemake benchmark`. Raises ValueError if it lacks a column, such as one of another version."""
    table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    missing = [name for name in (*BENCHMARKS[Path(path).stem].headings, *MADE) if name not in table]
    if missing or table.empty:
        raise ValueError(
            f"{path}: not a table of `snakemake benchmark` (it lacks {', '.join(missing) or 'rows'}); delete it and run "
            "snakemake benchmark again"
        )
    return table


def made(table: pd.DataFrame) -> str:
    """Where and when a table was measured, in words."""
    row = table.iloc[0]
    device = "" if row.device == "cpu" else f" ({row.device})"
    return f"{row.machine}{device}, {words(int(row.threads), 'thread')}, torch {row.torch}, {row.date}"


def section(tables: dict[str, pd.DataFrame], sources: Sources) -> Section:
    """The chapter; one sentence where no benchmark was run.

    Args:
        tables: those that were measured, by the name of the file.
        sources: their figures and captions.
    """
    command = f"<code>{escape(f'snakemake benchmark{sources.options}')}</code>"
    if not tables:
        return Section("Speed", [f"The benchmarks were not run in this preset; {command} runs them."])
    tables = {name: tables[name] for name in BENCHMARKS if name in tables}
    machines = "; ".join(dict.fromkeys(map(made, tables.values())))
    missing = [benchmark.title for name, benchmark in BENCHMARKS.items() if name not in tables]
    return Section(
        "Speed",
        [
            INTRODUCTION,
            *(BENCHMARKS[name].sentence(table) for name, table in tables.items()),
            f"Measured on {machines}."
            + (f" Not measured: {', '.join(missing)}; {command} measures them." if missing else ""),
        ],
        figures=[sources.figure(name, BENCHMARKS[name].title) for name in tables if name in sources.figures],
        tables=[readable(name, table, sources) for name, table in tables.items()],
    )


def readable(name: str, table: pd.DataFrame, sources: Sources) -> Table:
    """A table of the chapter, without what was not measured, and how to measure it again."""
    benchmark, path = BENCHMARKS[name], f"results/{sources.run}/benchmark/{name}.csv"
    shown = table[list(benchmark.headings)].dropna(axis="columns", how="all")
    in_seconds = [column for column in shown if "(ms)" in benchmark.headings[column] and not column.endswith("_ms")]
    shown = shown.assign(**{column: 1000 * shown[column] for column in in_seconds}).rename(columns=benchmark.headings)
    command = f"snakemake {path} --force{sources.options}"
    return Table(benchmark.title, shown, f"{benchmark.caption} {made(table)}.", command, (path,), collapsed=True)
