"""Bars of what comparing two programs on a minibatch costs in plain passes, with and without replays, by precision and network."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from nonsmooth import plotting, speed
from nonsmooth.joblog import job_log

# From light to dark, of the same hue.
BARS = {"pair": ("pair of programs", "#56B4E9"), "with_replays": ("with all replays", "#0072B2")}
BAR = 0.4


def plot(table: pd.DataFrame, outputs: dict[str, str]) -> None:
    data = table[["architecture", "normalization", "precision", "plain_s", *BARS]]
    panels = list(data.groupby(["architecture", "normalization"], sort=False))
    plotting.use_style()
    figure, axes = plt.subplots(
        len(panels), squeeze=False, sharex=True, sharey=True, figsize=(6.4, 1.1 + 1.5 * len(panels))
    )
    for axis, (network, rows) in zip(axes[:, 0], panels, strict=True):
        draw(axis, rows)
        axis.set_title(", ".join(map(plotting.word, network)), fontsize=9)
    axes[0, 0].set_ylim(0, 1.15 * data[list(BARS)].max(axis=None))
    figure.supylabel("time (plain passes)", fontsize=9)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour, label=words) for words, colour in BARS.values()]
    handles.append(plt.Line2D([], [], color=plotting.COLOURS["native"], linewidth=1, label="plain pass"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    plotting.set_title(figure, f"Comparing two programs on a minibatch\n{speed.made(table)}")
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data, outputs["csv"])


def draw(axis: Axes, rows: pd.DataFrame) -> None:
    """The bars of one network, with their heights, and a line at a plain pass."""
    for shift, (name, (_, colour)) in zip((-BAR / 2, BAR / 2), BARS.items(), strict=True):
        bars = axis.bar([place + shift for place in range(len(rows))], rows[name], BAR, color=colour)
        axis.bar_label(bars, fmt="%.1f", fontsize=7.5)
    axis.axhline(1, color=plotting.COLOURS["native"], linewidth=1)
    axis.set_xticks(range(len(rows)), rows.precision)
    axis.grid(axis="x", visible=False)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(speed.read(snakemake.input.measured), dict(snakemake.output.items()))
