"""Accuracy and divergence of the programs between native and the published one against beta, for one group."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from nonsmooth import maxpool, plotting
from nonsmooth.joblog import job_log
from nonsmooth.programs import PROGRAMS

COLUMNS = ["normalization", "program", "beta", "seed", "test_accuracy", "diverged"]
# How far the first and the last program's points of one beta are apart, of the distance between neighbouring betas.
SPREAD = 0.5


def plot(runs: pd.DataFrame, group: dict[str, Any], outputs: dict[str, str]) -> None:
    runs = maxpool.with_program(maxpool.select(runs, group))
    runs = runs[runs.program.isin(list(PROGRAMS))][COLUMNS]
    programs = [name for name in PROGRAMS if name in set(runs.program)]
    normalizations = list(dict.fromkeys(runs.normalization))
    betas = sorted(set(runs.beta[runs.program != "native"]))
    data = summarize(runs)

    plotting.use_style()
    figure, axes = plt.subplots(
        2, len(normalizations), squeeze=False, sharex=True, sharey="row",
        height_ratios=[2.4, 0.25 + 0.2 * len(programs)],
        figsize=(max(4.8, 1.3 + 3.0 * len(normalizations)), 3.9 + 0.2 * len(programs)),
    )  # fmt: skip
    positions = {beta: position for position, beta in enumerate(betas)}
    for column, normalization in enumerate(normalizations):
        part = data[data.normalization == normalization]
        draw_accuracies(axes[0, column], part, programs, positions)
        draw_divergence(axes[1, column], part, programs, positions)
        axes[0, column].set_title(plotting.word(normalization))
        axes[1, column].set_xlabel("β")
    plotting.scale_errors(axes[0], 100 * runs.test_accuracy)
    axes[0, 0].set_ylabel("test accuracy (%)")
    axes[1, 0].set_ylabel("runs that\ndiverged")
    axes[1, 0].set_yticks(range(len(programs)), map(plotting.part_words, programs))
    for label, program in zip(axes[1, 0].get_yticklabels(), programs, strict=True):
        label.set_color(plotting.PROGRAM_COLOURS[program])
    axes[1, 0].set_xticks(range(len(betas)), map(plotting.place_label, betas))
    handles = [plt.Line2D([], [], label=plotting.part_words(name), **line_style(name)) for name in programs]
    figure.legend(handles=handles, loc="outside lower center", ncols=plotting.legend_columns(handles, figure))
    runs_per_point = plotting.run_count(data.runs)
    what = runs_per_point if runs_per_point == "1 run" else f"mean and range of {runs_per_point}"
    plotting.set_title(figure, f"{plotting.condition_title(group)}: {what}")
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data, outputs["csv"])


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and divergence of a program at a beta; native, which has none, is at beta 0."""
    keys = ["normalization", "program", "beta"]
    return (
        runs.groupby(keys, sort=False)
        .agg(
            mean=("test_accuracy", "mean"),
            min=("test_accuracy", "min"),
            max=("test_accuracy", "max"),
            runs=("seed", "size"),
            diverged=("diverged", "sum"),
        )
        .reset_index()
    )


def line_style(program: str) -> dict[str, Any]:
    """Of a program's line and points; native, which has no beta, is a level."""
    if program == "native":
        return {"color": plotting.PROGRAM_COLOURS[program], "linewidth": 1.2, "linestyle": (0, (4, 2))}
    return {**plotting.program_style(program), "markersize": 4.5, "linewidth": 1.1}


def draw_accuracies(axis: Axes, data: pd.DataFrame, programs: list[str], positions: dict[float, int]) -> None:
    """A line per program, side by side at a beta; native's is level."""
    hybrids = [name for name in programs if name != "native"]
    for number, program in enumerate(programs):
        mine = data[data.program == program].sort_values("beta")
        if program == "native":
            for row in mine.itertuples():
                axis.axhline(100 * row.mean, zorder=1, **line_style(program))
            continue
        shift = SPREAD * (hybrids.index(program) - (len(hybrids) - 1) / 2) / max(len(hybrids) - 1, 1)
        x = mine.beta.map(positions) + shift
        deviation = [
            (100 * (mine["mean"] - mine["min"])).clip(lower=0),
            (100 * (mine["max"] - mine["mean"])).clip(lower=0),
        ]
        axis.errorbar(x, 100 * mine["mean"], deviation, **line_style(program), elinewidth=0.9, zorder=2 + number / 100)
    axis.set_xlim(-0.5, len(positions) - 0.5)
    axis.grid(axis="x", visible=False)


def draw_divergence(axis: Axes, data: pd.DataFrame, programs: list[str], positions: dict[float, int]) -> None:
    """A square per program and beta, the darker the more of its runs diverged, with their number."""
    for row, program in enumerate(programs):
        for found in data[data.program == program].itertuples():
            places = positions.values() if program == "native" else [positions[found.beta]]
            share = found.diverged / found.runs
            shade = str(1 - 0.72 * share) if share else "#F4F4F4"
            for place in places:
                axis.add_patch(plt.Rectangle((place - 0.46, row - 0.44), 0.92, 0.88, facecolor=shade, linewidth=0))
                if share:
                    axis.text(place, row, f"{found.diverged}/{found.runs}", ha="center", va="center", fontsize=7,
                              color="white" if share > 0.6 else "black")  # fmt: skip
    axis.set_ylim(len(programs) - 0.5, -0.5)
    axis.grid(visible=False)
    axis.tick_params(axis="y", length=0)
    axis.spines[:].set_visible(False)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(
            pd.read_csv(snakemake.input.runs, keep_default_na=False, na_values=[""]),
            snakemake.params.group,
            dict(snakemake.output.items()),
        )
