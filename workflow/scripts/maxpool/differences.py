"""Histograms of the difference between two programs' gradients, by precision, as published, coloured by its cause."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import to_rgba

from nonsmooth import maxpool, plotting
from nonsmooth.cells import ZONE_CONDITION
from nonsmooth.joblog import job_log
from nonsmooth.zones.tables import THRESHOLDS, with_words

COLUMNS = [*ZONE_CONDITION, "seed", "minibatch", "images", "difference_published", "class"]
# What rows of panels differ in.
ROW = ["program", "reference", "batch_size", "noise", "kernels"]
# A decade is drawn in so many bars at most, and all decades of a panel in so many.
PER_DECADE, BARS = 4, 40
FORMATS = ("pdf", "png", "svg")


def plot(minibatches: pd.DataFrame, group: dict[str, Any], outputs: dict[str, str]) -> None:
    data = maxpool.select(minibatches, group)[COLUMNS]
    precisions = [name for name in THRESHOLDS if name in set(data.precision)]
    rows = list(data[ROW].drop_duplicates().to_dict("records"))
    varying = {name for name in ROW if data[name].nunique() > 1}

    plotting.use_style()
    figure, axes = plt.subplots(len(rows), len(precisions), squeeze=False, sharex="col",
                                figsize=(max(4.6, 1.2 + 1.8 * len(precisions)), 1.2 + 1.5 * len(rows)))  # fmt: skip
    for precision, column in zip(precisions, axes.T, strict=True):
        threshold = THRESHOLDS[precision]
        sizes = data.difference_published[data.precision == precision]
        edges = bar_edges(sizes, threshold)
        for row, axis in zip(rows, column, strict=True):
            draw(axis, maxpool.select(data, {"precision": precision, **row}), edges, threshold)
        column[0].set_title(precision, pad=14)
        name_places(column[-1], edges)
        column[-1].set_xlabel("difference")
    for row, axis in zip(rows, axes[:, 0], strict=True):
        axis.set_ylabel(row_label(row, varying), fontsize=7.5)
    figure.supylabel("minibatches", fontsize=9)
    line = plt.Line2D([], [], color="0.2", linestyle="--", linewidth=1.1, label="published threshold")
    handles = [*plotting.class_handles(data["class"]), line]
    figure.legend(handles=handles, loc="outside lower center", ncols=plotting.legend_columns(handles, figure))
    seeds = data.seed.nunique()
    plotting.set_title(
        figure,
        f"{', '.join(plotting.zone_words(group))}: {seeds} {'draw' if seeds == 1 else 'draws'} of initial weights",
    )
    plotting.save(figure, [outputs[key] for key in FORMATS], data, outputs["csv"])


def bar_edges(sizes: pd.Series, threshold: float) -> np.ndarray:
    """Edges of the bars on the axis of log10: one bar for zero, a gap, the decades of the data and the threshold, a gap,
    one bar for what is not finite."""
    logarithms = np.log10(np.append(sizes[np.isfinite(sizes) & (sizes > 0)], threshold))
    low, high = np.floor(logarithms.min() - 0.3), np.ceil(logarithms.max() + 0.3)
    decades = int(high - low)
    # The thresholds are powers of ten, so that no bar stands on both sides of one.
    inner = np.linspace(low, high, decades * max(1, min(PER_DECADE, BARS // decades)) + 1)
    wide, gap = decades / 7, decades / 20
    return np.concatenate([[low - gap - wide, low - gap], inner, [high + gap, high + gap + wide]])


def draw(axis, rows: pd.DataFrame, edges: np.ndarray, threshold: float) -> None:
    """The histogram of one panel, stacked by class, and how many minibatches it has."""
    if rows.empty:
        axis.text(
            0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", va="center", fontsize=7.5, color="0.4"
        )
        axis.set(xlim=(edges[0], edges[-1]), yticks=[])
        axis.grid(visible=False)
        return
    zero, nonfinite = edges[:2].mean(), edges[-2:].mean()
    size = rows.difference_published
    with np.errstate(divide="ignore", invalid="ignore"):
        places = np.log10(size).where(np.isfinite(size), nonfinite).where(size != 0, zero)
    names = [name for name in plotting.CLASS_COLOURS if name in set(rows["class"])]
    sns.histplot(x=places, hue=rows["class"], hue_order=names[::-1], palette=plotting.CLASS_COLOURS, bins=edges,
                 multiple="stack", alpha=1, edgecolor="0.3", linewidth=0.3, legend=False, ax=axis)  # fmt: skip
    for name, hatch in plotting.CLASS_HATCHES.items():
        colour = to_rgba(plotting.CLASS_COLOURS[name])
        plt.setp([bar for bar in axis.patches if bar.get_facecolor() == colour], hatch=hatch)
    for place, (low, high) in ((zero, edges[:2]), (nonfinite, edges[-2:])):
        axis.axvspan(low, high, color="0.95", zorder=0)
        count = int((places == place).sum())
        if count:
            axis.annotate(f"{count:,}", (place, count), (0, 1), textcoords="offset points", ha="center", va="bottom",
                          fontsize=6.5)  # fmt: skip
    axis.axvline(np.log10(threshold), color="0.2", linestyle="--", linewidth=1.1)
    # Room for the counts above bars.
    axis.set(xlabel="", ylabel="", xlim=(edges[0], edges[-1]), ylim=(0, 1.16 * axis.dataLim.y1))
    axis.grid(axis="x", visible=False)
    axis.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    axis.text(1, 1.01, f"n = {len(rows):,}", transform=axis.transAxes, ha="right", va="bottom", fontsize=7.5)


def name_places(axis, edges: np.ndarray) -> None:
    """Ticks at decades, at zero, and at what is not finite."""
    low, high = int(edges[2]), int(edges[-3])
    # Away from the ends, where zero and "not finite" are named.
    decades = range(low + 1, high, -(-(high - low) // 3))
    axis.set_xticks([edges[:2].mean(), *decades, edges[-2:].mean()],
                    ["0", *(f"$10^{{{power}}}$" for power in decades), "not\nfinite"])  # fmt: skip


def row_label(row: dict[str, Any], varying: set[str]) -> str:
    """The pair of programs, and below it what else varies."""
    pair = plotting.pair_words(row["program"], row["reference"]).replace(" vs ", "\nvs ")
    others = {name: row[name] for name in ("batch_size", "noise", "kernels") if name in varying}
    return "\n".join([pair, *plotting.zone_words(others)])


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(
            with_words(pd.read_csv(snakemake.input.minibatches, keep_default_na=False, na_values=["", "nan"])),
            snakemake.params.group,
            dict(snakemake.output.items()),
        )
