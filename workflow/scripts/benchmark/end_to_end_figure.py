"""Bars of images per second, the project's beside a plain program's, by precision and rule, with their ratio."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from nonsmooth import plotting, speed
from nonsmooth.joblog import job_log

COLOURS = {"plain": plotting.COLOURS["published"], "project": plotting.COLOURS["exact"]}
BAR = 0.38


def plot(table: pd.DataFrame, outputs: dict[str, str]) -> None:
    data = table[["rule", "precision", "program", "images_per_second", "quartile1", "quartile3", "ratio_to_plain"]]
    panels = list(data.groupby("rule", sort=False))
    plotting.use_style()
    figure, axes = plt.subplots(1, len(panels), squeeze=False, sharey=True, figsize=(1.2 + 3 * len(panels), 3.4))
    for axis, (rule, rows) in zip(axes[0], panels, strict=True):
        draw(axis, rows)
        axis.set_title(f"rule {rule}")
    axes[0, 0].set(ylabel="images per second", ylim=(0, 1.1 * data.quartile3.max()))
    axes[0, 0].yaxis.set_major_formatter("{x:,.0f}")
    handles = [
        plt.Rectangle((0, 0), 1, 1, color=COLOURS["plain"], label="plain program"),
        plt.Rectangle((0, 0), 1, 1, color=COLOURS["project"], label="project (above: ratio)"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    plotting.set_title(figure, f"An epoch of LeNet-5 by the project and by a plain program\n{speed.made(table)}")
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data, outputs["csv"])


def draw(axis: Axes, rows: pd.DataFrame) -> None:
    """Two bars per precision with their quartiles, and the ratio above the second one."""
    precisions = list(dict.fromkeys(rows.precision))
    for shift, (program, colour) in zip((-BAR / 2, BAR / 2), COLOURS.items(), strict=True):
        mine = rows[rows.program == program]
        x, rate = mine.precision.map(precisions.index) + shift, mine.images_per_second
        axis.bar(x, rate, BAR, color=colour, yerr=((rate - mine.quartile1).clip(lower=0), (mine.quartile3 - rate).clip(lower=0)),
                 error_kw={"elinewidth": 0.9, "capsize": 2, "ecolor": "0.1"})  # fmt: skip
        if program == "project":
            for place, top, ratio in zip(x, mine.quartile3, mine.ratio_to_plain, strict=True):
                axis.annotate(f"{ratio:.1f} ×", (place, top), (0, 3), textcoords="offset points", ha="center",
                              fontsize=8, fontweight="bold")  # fmt: skip
    axis.set_xticks(range(len(precisions)), precisions)
    axis.grid(axis="x", visible=False)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(speed.read(snakemake.input.measured), dict(snakemake.output.items()))
