"""The share of pooling windows that tie, layer by layer and by precision: at zero, above zero, and those that matter."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nonsmooth import maxpool, plotting
from nonsmooth.joblog import job_log
from nonsmooth.zones.tables import THRESHOLDS, layers_table, principal

# What the panels show.
SHARES = {
    "zero_share": "tied at zero",
    "above_zero_share": "tied above zero",
    "with_gradient_share": "tied, and a gradient arrives",
    "by_rounding_share": "tied by rounding only",
}
# How far the points of one layer are apart, of the distance between layers.
SPREAD = 0.6
MARKERS = ("o", "s", "^", "D", "v", "P")
FORMATS = ("pdf", "png", "svg")


def plot(layers: pd.DataFrame, group: dict[str, Any], outputs: dict[str, str]) -> None:
    data = choose(layers_table(maxpool.select(layers, group)))
    precisions = [name for name in THRESHOLDS if name in set(data.precision)]
    # What needs replays is not there without.
    shares = [name for name in SHARES if data[name].notna().any()]

    plotting.use_style()
    figure, axes = plt.subplots(1, len(shares), squeeze=False, sharex=True, sharey=True,
                                figsize=(max(4.6, 0.8 + 2.1 * len(shares)), 3.1))  # fmt: skip
    floor = smallest_decade(data[shares])
    for share, axis in zip(shares, axes[0], strict=True):
        draw(axis, data, share, precisions)
        axis.set_title(SHARES[share], fontsize=9)
        axis.set_xlabel("layer")
    # Zero has a place of its own, below the smallest share there is.
    axes[0, 0].set_yscale("symlog", linthresh=floor, linscale=0.6)
    axes[0, 0].set_ylim(-0.15 * floor, 130)
    axes[0, 0].set_yticks([0, *decades(floor)], ["0", *map("{:g}".format, decades(floor))])
    axes[0, 0].yaxis.set_minor_locator(plt.NullLocator())
    axes[0, 0].set_ylabel("windows (%)")
    handles = [
        plt.Line2D(
            [], [], color=plotting.PRECISION_COLOURS[name], marker=MARKERS[i], markersize=3.5, linewidth=1, label=name
        )
        for i, name in enumerate(precisions)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=plotting.legend_columns(handles, figure))
    size, windows = data.batch_size.iloc[0], data.windows[data.layer == data.layer.min()].max()
    plotting.set_title(
        figure,
        f"{', '.join(plotting.zone_words({**group, 'batch_size': size}))}: {windows:,} windows in the first layer",
    )
    plotting.save(figure, [outputs[key] for key in FORMATS], data, outputs["csv"])


def choose(table: pd.DataFrame) -> pd.DataFrame:
    """The pooling layers of one measurement; or its ReLUs, in a network without pooling."""
    table = principal(table)
    table = table[table.batch_size == table.batch_size.iloc[0]]
    is_pooling = table.kind != "relu"
    return table[is_pooling] if is_pooling.any() else table


def smallest_decade(shares: pd.DataFrame) -> float:
    """The largest power of ten that is not above any of the shares but 0, in percent."""
    positive = 100 * shares.to_numpy(float)
    positive = positive[positive > 0]
    return 10.0 ** np.floor(np.log10(positive.min())) if len(positive) else 1.0


def decades(floor: float) -> list[float]:
    """At most six powers of ten from `floor` to 100 percent, in percent."""
    powers = range(2, round(np.log10(floor)) - 1, -max(1, -(-(2 - round(np.log10(floor))) // 5)))
    return [10.0**power for power in powers][::-1]


def draw(axis: Axes, data: pd.DataFrame, share: str, precisions: list[str]) -> None:
    for number, precision in enumerate(precisions):
        mine = data[data.precision == precision].sort_values("layer")
        # Side by side, since lines of different precisions often coincide.
        offset = SPREAD * (number - (len(precisions) - 1) / 2) / len(precisions)
        axis.plot(mine.layer + offset, 100 * mine[share], color=plotting.PRECISION_COLOURS[precision],
                  marker=MARKERS[number], markersize=3.5, linewidth=1)  # fmt: skip
    axis.set_xticks(sorted(set(data.layer)))
    axis.set_xlim(data.layer.min() - 0.5, data.layer.max() + 0.5)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(
            pd.read_csv(snakemake.input.layers, keep_default_na=False, na_values=[""]),
            snakemake.params.group,
            dict(snakemake.output.items()),
        )
