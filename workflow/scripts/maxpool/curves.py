"""Training loss or test accuracy per epoch by beta: mean and one standard deviation over runs, for one condition."""

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from nonsmooth import maxpool, plotting
from nonsmooth.joblog import job_log


@dataclass(frozen=True)
class Quantity:
    """What is drawn: the axis's label, scale and limits, and whether it stays as it is when a run has stopped."""

    label: str
    scale: str
    factor: float = 1.0
    limits: tuple[float, float] | None = None
    is_kept: bool = False


QUANTITIES = {
    "train_loss": Quantity("training loss", "log"),
    # A run stops when its weights are not finite, and then no epoch changes what they score.
    "test_accuracy": Quantity("test accuracy (%)", "linear", factor=100, limits=(0, 104), is_kept=True),
}


def plot(epochs: pd.DataFrame, condition: dict[str, Any], quantity: str, outputs: dict[str, str]) -> None:
    drawn = QUANTITIES[quantity]
    chosen = maxpool.against_beta(maxpool.select(epochs, condition))
    chosen = chosen.assign(
        family=chosen.rule.map(plotting.rule_family),
        place=plotting.places(chosen),
        value=drawn.factor * chosen[quantity],
    )
    chosen = every_epoch(chosen, drawn.is_kept)
    data = summarize(chosen)
    normalizations = list(data.normalization.unique())
    evaluations = [name for name in ("exact", "composed") if name in set(data.family)] or ["native"]
    places = plotting.place_axis(data.place)
    # From black, the colour of native, to a yellow that is still seen on white.
    shades = plt.get_cmap("inferno")(np.linspace(0, 0.82, len(places)))
    colours = dict(zip(places, shades, strict=True))
    # Curves that coincide all show: a larger beta is a thinner line above.
    widths = dict(zip(places, np.linspace(3.6, 1.2, len(places)), strict=True))

    plotting.use_style()
    figure, axes = plt.subplots(
        len(evaluations), len(normalizations), sharex=True, sharey=True, squeeze=False,
        figsize=(max(5.6, 0.8 + 3.1 * len(normalizations)), 0.8 + 2.3 * len(evaluations)),
    )  # fmt: skip
    for row, evaluation in enumerate(evaluations):
        for column, normalization in enumerate(normalizations):
            axis = axes[row, column]
            is_shown = data.family.isin(["native", "minimal", "other", evaluation]) & (
                data.normalization == normalization
            )
            lost = []
            for place in places:
                for rule, line in data[is_shown & (data.place == place)].groupby("rule"):
                    if np.isfinite(line["mean"]).all():
                        draw_mean(axis, line, colours[place], widths[place], drawn.scale)
                    else:
                        lost.append(plotting.place_label(place))
                        runs = maxpool.select(chosen, {"normalization": normalization, "rule": rule})
                        draw_runs(axis, runs, colours[place])
            if lost:
                note = f"NaN in some run: β = {'; '.join(dict.fromkeys(lost))}"
                axis.text(0.5, 1.01, note, transform=axis.transAxes, ha="center", va="bottom", fontsize=8,
                          color=plotting.LOST_COLOUR)  # fmt: skip
            axis.set_title(f"{evaluation}, {plotting.word(normalization)}", pad=15)
            axis.set_yscale(drawn.scale)
            axis.set_xlim(0.5, data.epoch.max() + 0.5)
            if drawn.limits:
                axis.set_ylim(*drawn.limits)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(which="minor", visible=False)
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    for axis in axes[:, 0]:
        axis.set_ylabel(drawn.label)
    handles = [plt.Line2D([], [], color=colours[place], linewidth=widths[place]) for place in places]
    labels = [plotting.place_label(place) for place in colours]
    if data["mean"].isna().any():
        handles.append(plt.Line2D([], [], color="0.3", linestyle=":", marker="x", markersize=6))
        labels.append("a run,\nbefore NaN")
    figure.legend(handles, labels, title="β", loc="outside right center")
    runs = plotting.run_count(data.runs)
    what = runs if runs == "1 run" else f"mean ± std of {runs}"
    figure.suptitle(f"{plotting.condition_title(condition)}: {what}", fontsize=10)
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data, outputs["csv"])


def every_epoch(epochs: pd.DataFrame, is_kept: bool) -> pd.DataFrame:
    """A row for every epoch that was asked for: a run that stopped keeps its value from then on, or has NaN."""
    run = ["normalization", "family", "rule", "place", "seed"]
    asked = epochs[[*run, "epochs"]].drop_duplicates()
    asked = asked.loc[asked.index.repeat(asked.epochs), run]
    rows = asked.assign(epoch=asked.groupby(run).cumcount() + 1).merge(epochs, how="left", on=[*run, "epoch"])
    return rows.assign(value=rows.groupby(run).value.ffill()) if is_kept else rows


def summarize(epochs: pd.DataFrame) -> pd.DataFrame:
    """Mean and deviation of the value per rule and epoch; NaN where that of any run is not finite."""
    keys = ["normalization", "family", "rule", "place", "epoch"]
    table = epochs.groupby(keys, sort=False).value.agg(
        mean="mean",
        std="std",
        runs="size",
        finite_runs=lambda values: int(np.isfinite(values).sum()),
    )
    table.loc[table.finite_runs < table.runs, ["mean", "std"]] = np.nan
    return table.reset_index()


def draw_mean(axis, line: pd.DataFrame, colour, width: float, scale: str) -> None:
    """Mean and one standard deviation over runs."""
    marker = "o" if len(line) == 1 else None  # one epoch is no line
    axis.plot(line.epoch, line["mean"], marker=marker, color=colour, linewidth=width)
    deviation = line["std"].fillna(0)
    low, high = line["mean"] - deviation, line["mean"] + deviation
    if scale == "log":
        low = low.clip(lower=line["mean"].min() / 10)
    axis.fill_between(line.epoch, low, high, color=colour, alpha=0.15, linewidth=0)


def draw_runs(axis, epochs: pd.DataFrame, colour) -> None:
    """Each run as long as its loss is finite; a cross marks the last epoch of one that is lost."""
    last = epochs.epoch.max()
    for _, run in epochs.groupby("seed"):
        finite = run[np.isfinite(run.value)]
        axis.plot(finite.epoch, finite.value, ":", color=colour, linewidth=1.2)
        if len(finite) > 0 and finite.epoch.max() < last:
            axis.plot(finite.epoch.iloc[-1], finite.value.iloc[-1], "x", color=colour, markersize=6)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(
            pd.read_csv(snakemake.input.epochs, keep_default_na=False, na_values=["", "nan"]),
            snakemake.params.group,
            snakemake.params.quantity,
            dict(snakemake.output.items()),
        )
