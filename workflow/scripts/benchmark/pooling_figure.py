"""Time of max pooling as a ratio to PyTorch's own: a panel per input, the programs side by side by type, with quartiles."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from nonsmooth import plotting, speed
from nonsmooth.joblog import job_log

# Hollow: not compiled.
STYLES = {
    "composed": {"color": plotting.COLOURS["composed"], "marker": "s", "markerfacecolor": "white"},
    "exact": {"color": plotting.COLOURS["exact"], "marker": "o", "markerfacecolor": "white"},
    "composed compiled": {"color": plotting.COLOURS["composed"], "marker": "s"},
    "exact compiled": {"color": plotting.COLOURS["exact"], "marker": "o"},
    "native compiled": {"color": plotting.COLOURS["native"], "marker": "D"},
}
PANEL = ["shape", "kernel", "stride", "padding"]
# The places of a type's programs, of the distance between types.
SPREAD = 0.5
TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50]


def plot(table: pd.DataFrame, outputs: dict[str, str]) -> None:
    data = with_ratios(table)
    programs = [name for name in STYLES if name in set(data.program)]
    panels = list(data.groupby(PANEL, sort=False))
    height = -(-len(panels) // 2)
    plotting.use_style()
    figure, axes = plt.subplots(
        height, min(2, len(panels)), squeeze=False, sharey=True, figsize=(7.2, 1.1 + 2.1 * height)
    )
    for axis, ((shape, kernel, stride, _), rows) in zip(axes.flat, panels, strict=False):
        draw(axis, rows, programs)
        axis.set_title(f"{shape.replace('x', ' × ')}, {kernel} × {kernel} windows, stride {stride}", fontsize=9)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    scale(axes, data)
    for axis in axes[:, 0]:
        axis.set_ylabel("time, as a multiple\nof PyTorch's")
    handles = [plt.Line2D([], [], linestyle="", label=name, **STYLES[name]) for name in programs]
    handles.append(plt.Line2D([], [], color=plotting.COLOURS["native"], linewidth=1, label="PyTorch's own"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    plotting.set_title(figure, f"Max pooling, forward and backward\n{speed.made(table)}")
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data, outputs["csv"])


def with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """The programs but native, with quartiles as ratios to native's median, too, and that median."""
    keys = [*PANEL, "dtype"]
    native = table[table.program == "native"].set_index(keys).median_ms.rename("native_ms")
    found = table[table.program != "native"].join(native, on=keys)
    return found[[*keys, "program", "native_ms", "ratio_to_native"]].assign(
        ratio_quartile1=found.quartile1_ms / found.native_ms, ratio_quartile3=found.quartile3_ms / found.native_ms
    )


def draw(axis: Axes, rows: pd.DataFrame, programs: list[str]) -> None:
    """The ratios of one input, and native's time below each type."""
    types = list(dict.fromkeys(rows.dtype))
    for number, program in enumerate(programs):
        mine = rows[rows.program == program]
        x = mine.dtype.map(types.index) + SPREAD * (number / max(1, len(programs) - 1) - 0.5)
        bars = (
            (mine.ratio_to_native - mine.ratio_quartile1).clip(lower=0),
            (mine.ratio_quartile3 - mine.ratio_to_native).clip(lower=0),
        )
        axis.errorbar(x, mine.ratio_to_native, bars, linestyle="", markersize=5, elinewidth=1, **STYLES[program])
    times = rows.groupby("dtype", sort=False).native_ms.first()
    axis.set_xticks(range(len(types)), [f"{name}\n{times[name]:.3g} ms" for name in types])
    axis.set_xlim(-0.5, len(types) - 0.5)
    axis.grid(axis="x", visible=False)


def scale(axes, data: pd.DataFrame) -> None:
    """A logarithmic axis that holds all quartiles, with a line where PyTorch's own pooling is."""
    low, high = min(data.ratio_quartile1.min(), 0.8) / 1.25, max(data.ratio_quartile3.max(), 1.25) * 1.25
    ticks = [tick for tick in TICKS if low <= tick <= high]
    for axis in axes.flat:
        axis.axhline(1, color=plotting.COLOURS["native"], linewidth=1)
        axis.axhspan(low, 1, color="#EFF6EF", zorder=0)
        axis.set_yscale("log")
        axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.yaxis.set_minor_locator(plt.NullLocator())
        axis.set_ylim(low, high)
    for axis in axes[:, -1]:
        for words, side, points in (("slower", "bottom", 3), ("faster", "top", -3)):
            axis.annotate(words, (1, 1), (6, points), xycoords=axis.get_yaxis_transform(), textcoords="offset points",
                          rotation=270, va=side, fontsize=7.5, color="0.3")  # fmt: skip


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(speed.read(snakemake.input.measured), dict(snakemake.output.items()))
