"""The factorial experiment of one group: what each of the eight programs scored, by beta and normalization.

Below each column of panels dots say which parts of the published program a program keeps.
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import offset_copy

from nonsmooth import maxpool, plotting
from nonsmooth.factorial import EXPERIMENT, experiments
from nonsmooth.joblog import job_log
from nonsmooth.programs import PARTS, PROGRAMS, levels

COLUMNS = [*EXPERIMENT, "program", "seed", "test_accuracy", "diverged"]
UNLIMITED = "_unlimited"
# How far a program's runs with an unlimited range are beside its own.
OFFSET = 0.24


def plot(runs: pd.DataFrame, group: dict[str, Any], outputs: dict[str, str]) -> None:
    data = choose(maxpool.select(runs, group))
    betas, normalizations = sorted(set(data.beta)), list(dict.fromkeys(data.normalization))
    has_unlimited = data.is_unlimited.any()
    plotting.use_style()
    figure, axes = plt.subplots(
        len(normalizations) + 1, len(betas), squeeze=False, sharex=True,
        height_ratios=[*[2.1] * len(normalizations), 0.75],
        figsize=(max(4.6, 1.5 + 2.45 * len(betas)), 1.9 + 2.1 * len(normalizations)),
    )  # fmt: skip
    for row, normalization in enumerate(normalizations):
        for column, beta in enumerate(betas):
            axis = axes[row, column]
            part = maxpool.select(data, {"normalization": normalization, "beta": beta})
            axis.set_visible(len(part) > 0)
            if axis.get_visible():
                draw(axis, part, has_unlimited)
                count_diverged(axis, part)
                if column == 0:
                    name_counts(axis, data[data.normalization == normalization])
            if row == 0:
                axis.set_title(f"β = {plotting.place_label(beta)}", pad=6 + 9 * rows_of_counts(data))
        axes[row, 0].set_ylabel(f"{plotting.word(normalization)}\ntest accuracy (%)")
    plotting.scale_errors(axes[:-1].flat, data.accuracy_percent)
    for axis in axes[:-1, 1:].flat:
        axis.tick_params(labelleft=False)
    for axis in axes[-1]:
        draw_matrix(axis, is_first=axis is axes[-1, 0])
    handles = legend_handles(data)
    figure.legend(handles=handles, loc="outside lower center", ncols=plotting.legend_columns(handles, figure))
    per_program = data.groupby(["normalization", "beta", "program"]).size()
    plotting.set_title(figure, f"{plotting.condition_title(group)}: {plotting.run_count(per_program)} of each program")
    data = data.drop(columns=["accuracy_percent", "is_unlimited"])
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data, outputs["csv"])


def choose(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the eight programs, and of the same with an unlimited range, of every whole factorial of the group."""
    found = pd.concat(
        [programs.assign(beta=experiment["beta"]) for experiment, programs in experiments(runs)], ignore_index=True
    )
    is_unlimited = found.program.str.endswith(UNLIMITED)
    found = found[found.program.str.removesuffix(UNLIMITED).isin(list(PROGRAMS))][COLUMNS]
    return found.assign(is_unlimited=is_unlimited, accuracy_percent=100 * found.test_accuracy)


def draw(axis: Axes, runs: pd.DataFrame, has_unlimited: bool) -> None:
    """Each run as a point, a cross if it diverged, the mean of a program as a bar, and native's across the panel."""
    native = runs[runs.program == "native"].accuracy_percent.mean()
    axis.axhline(native, color="0.55", linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    for position, program in enumerate(PROGRAMS):
        colour = plotting.PROGRAM_COLOURS[program]
        for name, is_unlimited in ((program, False), (program + UNLIMITED, True)):
            mine = runs[runs.program == name].sort_values("seed")
            if mine.empty:
                continue
            centre = position + (OFFSET if is_unlimited else -OFFSET) * (has_unlimited and program_has_range(program))
            x = centre + np.linspace(-0.13, 0.13, len(mine)) if len(mine) > 1 else np.array([centre])
            lost = mine.diverged.to_numpy(bool)
            axis.plot(x[~lost], mine.accuracy_percent[~lost], "D" if is_unlimited else "o", color=colour, markersize=3,
                      markerfacecolor="white" if is_unlimited else colour, markeredgewidth=0.8, zorder=3)  # fmt: skip
            axis.plot(
                x[lost], mine.accuracy_percent[lost], "x", color=colour, markersize=4, markeredgewidth=1.1, zorder=3
            )
            mean = mine.accuracy_percent.mean()
            axis.plot([centre - 0.21, centre + 0.21], [mean, mean], color=colour, linewidth=1.6, zorder=2)
    axis.set_xlim(-0.6, len(PROGRAMS) - 0.4)
    axis.grid(axis="x", visible=False)


def program_has_range(program: str) -> bool:
    """Whether a program computes anything that can overflow; the others stand alone."""
    return PROGRAMS[program].forward or PROGRAMS[program].backward


def rows_of_counts(data: pd.DataFrame) -> int:
    """A second row, of runs with an unlimited range, is above the first, also where that one is empty."""
    lost = data[data.diverged]
    return 0 if lost.empty else 1 + int(lost.is_unlimited.any())


def count_diverged(axis: Axes, runs: pd.DataFrame) -> None:
    """How many runs of a program diverged, above it."""
    for position, program in enumerate(PROGRAMS):
        for name, height in ((program, 0), (program + UNLIMITED, 1)):
            mine = runs[runs.program == name]
            if mine.diverged.any():
                above = offset_copy(axis.get_xaxis_transform(), axis.figure, y=2 + 9 * height, units="points")
                text = f"{mine.diverged.sum()}/{len(mine)}"
                axis.text(
                    position,
                    1,
                    text,
                    transform=above,
                    fontsize=6.5,
                    color=plotting.LOST_COLOUR,
                    ha="center",
                    va="bottom",
                )


def name_counts(axis: Axes, data: pd.DataFrame) -> None:
    """What the rows of counts are, left of them."""
    for height, name in enumerate(("diverged", "without overflow")):
        if data[data.is_unlimited == bool(height)].diverged.any():
            above = offset_copy(axis.get_xaxis_transform(), axis.figure, y=2 + 9 * height, units="points")
            axis.text(
                -0.75, 1, name, transform=above, fontsize=6.5, color=plotting.LOST_COLOUR, ha="right", va="bottom"
            )


def draw_matrix(axis: Axes, is_first: bool) -> None:
    """A column of dots for each program, filled where it has the part of the row."""
    names = list(PARTS)[::-1]
    for position, evaluation in enumerate(PROGRAMS.values()):
        filled = [row for row, name in enumerate(names) if levels(evaluation)[name]]
        axis.plot([position] * len(names), range(len(names)), "o", color="#DDDDDD", markersize=6)
        axis.plot([position] * len(filled), filled, "o-", color="0.15", markersize=6, linewidth=1.5)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.set_yticks(range(len(names)), [f"{PARTS[name]}  {name}" for name in names] if is_first else [], fontsize=7)
    axis.set_xticks([0, 3, 7], ["native", "exact", "published"])
    axis.tick_params(length=0)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)


def legend_handles(data: pd.DataFrame) -> list[plt.Line2D]:
    style = {"color": "0.3", "linestyle": "", "markersize": 4}
    handles = [
        plt.Line2D([], [], marker="o", label="a run", **style),
        plt.Line2D([], [], color="0.3", linewidth=1.6, label="mean"),
        plt.Line2D([], [], color="0.55", linewidth=0.9, linestyle=(0, (4, 2)), label="mean of native"),
    ]
    if data.is_unlimited.any():
        label = "a run whose pooling cannot overflow"
        handles.insert(1, plt.Line2D([], [], marker="D", markerfacecolor="white", label=label, **style))
    if data.diverged.any():
        handles.append(plt.Line2D([], [], marker="x", label="a run that diverged", **style))
    return handles


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(
            pd.read_csv(snakemake.input.runs, keep_default_na=False, na_values=[""]),
            snakemake.params.group,
            dict(snakemake.output.items()),
        )
