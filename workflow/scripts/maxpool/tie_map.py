"""One image through the first convolution and ReLU, with the tied maxima of every pooling window marked."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap

from nonsmooth import plotting
from nonsmooth.joblog import job_log
from nonsmooth.precision import PRECISIONS


def plot(arrays: dict[str, np.ndarray], counts: pd.DataFrame, settings: dict, outputs: dict[str, str]) -> None:
    precisions = list(counts.precision)
    channels = len(arrays[f"{precisions[0]}/activations"])
    shown = min(channels, 6)
    widest = min(precisions, key=lambda name: PRECISIONS[name].unit_roundoff)

    plotting.use_style()
    figure, axes = plt.subplots(len(precisions), shown + 1, squeeze=False,
                                figsize=(1.25 * (shown + 1), 1.28 * len(precisions) + 0.9))  # fmt: skip
    for row, count in enumerate(counts.itertuples()):
        precision = count.precision
        axes[row, 0].imshow(arrays["image"].transpose(1, 2, 0).squeeze(), cmap="gray")
        axes[row, 0].set_ylabel(
            f"{precision}\n{count.tied} of {count.windows} tied,\n{count.tied_above_zero} above zero", fontsize=7.5
        )
        for channel in range(shown):
            draw_channel(
                axes[row, channel + 1],
                arrays[f"{precision}/activations"][channel],
                arrays[f"{precision}/tied"][channel],
                arrays[f"{widest}/tied"][channel],
            )
            if row == 0:
                axes[row, channel + 1].set_title(f"channel {channel + 1}", fontsize=9)
    axes[0, 0].set_title("input", fontsize=9)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    labels = {"exact": "tied at zero", "composed": "tied above zero", "accent": f"tied by rounding (not in {widest})"}
    handles = [
        plt.Line2D([], [], marker="s", linestyle="", markersize=7, color=plotting.COLOURS[colour], label=label)
        for colour, label in labels.items()
        if colour != "accent" or any((arrays[f"{name}/tied"] & ~arrays[f"{widest}/tied"]).any() for name in precisions)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    of_all = "" if shown == channels else f", {shown} of {channels} channels"
    figure.suptitle(
        f"{plotting.word(settings['architecture'])}, {plotting.word(settings['dataset'])}: activations before the first "
        f"pooling (grey), tied maxima in colour{of_all}",
        fontsize=10,
    )
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], counts, outputs["csv"])


def draw_channel(axis, activations: np.ndarray, tied: np.ndarray, tied_in_widest: np.ndarray) -> None:
    axis.imshow(activations, cmap="gray", interpolation="nearest")
    by_rounding = tied & ~tied_in_widest
    masks = {
        "exact": tied & (activations == 0) & ~by_rounding,
        "composed": tied & (activations > 0) & ~by_rounding,
        "accent": by_rounding,
    }
    for colour, mask in masks.items():
        overlay = np.ma.masked_where(~mask, mask)
        axis.imshow(overlay, cmap=ListedColormap([plotting.COLOURS[colour]]), interpolation="nearest")


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(
            dict(np.load(snakemake.input.arrays)),
            pd.read_csv(snakemake.input.counts),
            snakemake.params.ties,
            dict(snakemake.output.items()),
        )
