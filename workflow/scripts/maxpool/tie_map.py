"""One image through the first convolution and ReLU, with the tied maxima of every pooling window marked."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap

from nonsmooth import plotting
from nonsmooth.joblog import job_log


def plot(arrays: dict[str, np.ndarray], counts: pd.DataFrame, settings: dict, outputs: dict[str, str]) -> None:
    precisions = list(counts.precision)
    channels = len(arrays[f"{precisions[0]}/activations"])
    shown = min(channels, 6)

    plotting.use_style()
    figure, axes = plt.subplots(len(precisions), shown + 1, squeeze=False,
                                figsize=(1.25 * (shown + 1), 1.3 * len(precisions) + 0.7))  # fmt: skip
    for row, precision in enumerate(precisions):
        count = counts[counts.precision == precision].iloc[0]
        axes[row, 0].imshow(arrays["image"].transpose(1, 2, 0).squeeze(), cmap="gray")
        axes[row, 0].set_ylabel(
            f"{precision}\n{count.tied} of {count.windows} tied,\n{count.tied_above_zero} above zero", fontsize=8
        )
        for channel in range(shown):
            draw_channel(
                axes[row, channel + 1],
                arrays[f"{precision}/activations"][channel],
                arrays[f"{precision}/tied"][channel],
            )
            if row == 0:
                axes[row, channel + 1].set_title(f"channel {channel + 1}", fontsize=9)
    axes[0, 0].set_title("input", fontsize=9)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    handles = [
        plt.Line2D([], [], marker="s", linestyle="", markersize=7, color=plotting.COLOURS[colour])
        for colour in ("exact", "composed")
    ]
    figure.legend(handles, ["tied at zero", "tied above zero"], loc="outside lower center", ncols=2)
    figure.suptitle(
        f"{plotting.word(settings['architecture'])}, {plotting.word(settings['dataset'])}: activations before the first "
        "pooling (grey), tied maxima in colour",
        fontsize=10,
    )
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], counts, outputs["csv"])


def draw_channel(axis, activations: np.ndarray, tied: np.ndarray) -> None:
    axis.imshow(activations, cmap="gray", interpolation="nearest")
    for mask, colour in ((tied & (activations == 0), "exact"), (tied & (activations > 0), "composed")):
        overlay = np.ma.masked_where(~mask, mask)
        axis.imshow(overlay, cmap=ListedColormap([plotting.COLOURS[colour]]), alpha=0.85, interpolation="nearest")


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(
            dict(np.load(snakemake.input.arrays)),
            pd.read_csv(snakemake.input.counts),
            snakemake.params.ties,
            dict(snakemake.output.items()),
        )
