"""The largest pooled value at every training step, by program, and the value at which composed pooling overflows."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter

from nonsmooth import maxpool, plotting
from nonsmooth.joblog import job_log
from nonsmooth.precision import PRECISIONS
from nonsmooth.programs import PROGRAMS

COLUMNS = ["normalization", "program", "beta", "seed", "step", "max_activation"]
OVERFLOW = {"color": plotting.LOST_COLOUR, "linewidth": 1.1, "linestyle": (0, (5, 2))}
CROSS = {"marker": "x", "markersize": 5, "markeredgewidth": 1.3}


def plot(activations: pd.DataFrame, group: dict[str, Any], outputs: dict[str, str]) -> None:
    data = choose(maxpool.select(activations, group))
    programs = [name for name in PROGRAMS if name in set(data.program)]
    betas = sorted(set(data.beta))
    normalizations = [name for name in dict.fromkeys(activations.normalization) if name in set(data.normalization)]
    # Lines that coincide all show: a later one is thinner.
    widths = dict(zip(programs, np.linspace(1.5, 0.7, len(programs)), strict=True))
    limits = value_limits(data.max_activation)
    largest = largest_number(group["precision"])
    overflows = {
        beta: largest / abs(beta) for beta in betas if beta != 0 and limits[0] < largest / abs(beta) < limits[1]
    }
    plotting.use_style()
    figure, axes = plt.subplots(
        len(normalizations), len(betas), squeeze=False, sharex=True, sharey=True,
        figsize=(max(5.0, 0.9 + 2.4 * len(betas)), 1.3 + 2.2 * len(normalizations)),
    )  # fmt: skip
    axes[0, 0].set_yscale("log")
    axes[0, 0].set_xscale("log")  # most of it happens in the first steps
    axes[0, 0].set_ylim(*limits)
    for set_formatter in (axes[0, 0].yaxis.set_major_formatter, axes[0, 0].yaxis.set_minor_formatter):
        set_formatter(LogFormatter())
    axes[0, 0].xaxis.set_major_formatter(LogFormatter())
    for row, normalization in enumerate(normalizations):
        for column, beta in enumerate(betas):
            axis = axes[row, column]
            part = maxpool.select(data, {"normalization": normalization, "beta": beta})
            axis.set_visible(len(part) > 0)
            for program in programs:
                draw(axis, part[part.program == program], plotting.PROGRAM_COLOURS[program], widths[program])
            if beta in overflows:
                mark_overflow(axis, overflows[beta], f"{largest:.5g} / β = {overflows[beta]:.3g}")
            axis.grid(which="minor", visible=False)
            if row == 0:
                axis.set_title(f"β = {plotting.place_label(beta)}")
            if row == len(normalizations) - 1:
                axis.set_xlabel("training step")
        axes[row, 0].set_ylabel(f"{plotting.word(normalization)}\nlargest pooled value")
    handles = [
        plt.Line2D(
            [], [], color=plotting.PROGRAM_COLOURS[name], linewidth=widths[name], label=plotting.part_words(name)
        )
        for name in programs
    ]
    if data.is_end.any():
        handles.append(plt.Line2D([], [], label="not finite from here", linestyle="", color="0.3", **CROSS))
    if overflows:
        handles.append(plt.Line2D([], [], label="F overflows above", **OVERFLOW))
    figure.legend(handles=handles, loc="outside lower center", ncols=plotting.legend_columns(handles, figure))
    runs = plotting.run_count(data.runs)
    plotting.set_title(figure, f"{plotting.condition_title(group)}: {runs} of each program, a line each")
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data, outputs["csv"])


def choose(activations: pd.DataFrame) -> pd.DataFrame:
    """The finite rows of the programs' runs, native's at every beta; `is_end` marks the last one of a run that was lost, and `runs`
    counts those of the program, also if one has no finite row.

    A run is lost where a value is not finite, or where it stops before the others do.
    """
    rows = maxpool.with_program(activations)
    rows = rows[rows.program.isin(list(PROGRAMS))]
    places = rows[rows.program != "native"][["normalization", "beta"]].drop_duplicates()
    native = rows[rows.program == "native"].drop(columns="beta").merge(places, on="normalization")
    rows = pd.concat([native, rows[rows.program != "native"]], ignore_index=True)[COLUMNS]

    run = ["normalization", "program", "beta", "seed"]
    rows = rows.sort_values([*run, "step"], ignore_index=True)
    rows["runs"] = rows.groupby(run[:-1]).seed.transform("nunique")
    is_finite = np.isfinite(rows.max_activation).groupby([rows[name] for name in run]).cummin()
    finite = rows[is_finite]
    end = rows.groupby(["normalization", "beta"]).step.transform("max")
    last = finite.groupby(run).step.transform("max")
    return finite.assign(is_end=(finite.step == last) & (last < end[is_finite]))


def value_limits(values: pd.Series) -> tuple[float, float]:
    """Limits of a logarithmic axis that holds the positive values with a margin."""
    positive = values[values > 0]
    return (positive.min() / 1.5, positive.max() * 2) if len(positive) else (0.1, 10)


def largest_number(precision: str) -> float:
    """The largest finite number of the type that a pooling computes in."""
    return torch.finfo(PRECISIONS[precision].autocast or PRECISIONS[precision].dtype).max


def draw(axis: Axes, rows: pd.DataFrame, colour: str, width: float) -> None:
    """A line per run, with a cross where it is lost."""
    for _, run in rows.groupby("seed"):
        axis.plot(run.step, run.max_activation, color=colour, linewidth=width)
        axis.plot(run.step[run.is_end], run.max_activation[run.is_end], linestyle="", color=colour, zorder=5, **CROSS)


def mark_overflow(axis: Axes, value: float, words: str) -> None:
    """A line at the value above which a product with beta is not finite, with what it is."""
    axis.axhline(value, zorder=4, **OVERFLOW)
    axis.annotate(words, (1, value), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points",
                  ha="right", va="bottom", fontsize=7, color=OVERFLOW["color"], zorder=6,
                  bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.8})  # fmt: skip


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(
            pd.read_csv(snakemake.input.activations, keep_default_na=False, na_values=["", "nan", "NaN"]),
            snakemake.params.group,
            dict(snakemake.output.items()),
        )
