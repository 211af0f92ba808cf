"""Box plot of the final test accuracy against beta, with and without batch norm, for one condition."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.transforms import offset_copy

from nonsmooth import maxpool, plotting
from nonsmooth.joblog import job_log

COLUMNS = ["normalization", "rule", "beta", "evaluation", "seed", "test_accuracy", "diverged"]
PUBLISHED = ["normalization", "beta", "published_mean", "published_std", "published_runs", "published_epochs"]
# Where a box stands beside the tick of its beta.
OFFSETS = {"native": 0.0, "minimal": 0.0, "exact": -0.2, "composed": 0.2, "other": 0.0}


def plot(runs: pd.DataFrame, published: pd.DataFrame, condition: dict[str, Any], outputs: dict[str, str]) -> None:
    chosen = maxpool.against_beta(maxpool.select(runs, condition))
    data = chosen[COLUMNS].assign(
        accuracy_percent=100 * chosen.test_accuracy, family=chosen.rule.map(plotting.rule_family)
    )
    # Every evaluation is beside the same published value.
    theirs = maxpool.select(published, condition)[PUBLISHED].drop_duplicates()
    places = plotting.places(data)
    positions = plotting.place_axis(places)
    data["position"] = places.map(positions).astype(float) + data.family.map(OFFSETS)
    families = [name for name in OFFSETS if name in set(data.family)]
    lost = [name for name in families if data.diverged[data.family == name].any()]
    normalizations = list(data.normalization.unique())

    plotting.use_style()
    figure, axes = plt.subplots(1, len(normalizations), figsize=(max(5.2, 0.6 + 3.3 * len(normalizations)), 3.2), sharey=True,
                                squeeze=False)  # fmt: skip
    for axis, normalization in zip(axes[0], normalizations, strict=True):
        part = data[data.normalization == normalization]
        shared = {"x": "position", "y": "accuracy_percent", "hue": "family", "hue_order": families,
                  "palette": plotting.COLOURS, "native_scale": True, "legend": False, "ax": axis}  # fmt: skip
        sns.boxplot(part, **shared, dodge=False, fill=False, width=0.3, linewidth=1, showfliers=False)
        for diverged, marker, size in ((False, "o", 3.5), (True, "X", 5.5)):
            if (part.diverged == diverged).any():
                sns.stripplot(part[part.diverged == diverged], **shared, marker=marker, size=size, jitter=False)
        draw_published(axis, theirs[theirs.normalization == normalization], positions)
        count_diverged(axis, part, lost, is_first=axis is axes[0, 0])
        axis.set_title(plotting.word(normalization), pad=6 + 9 * len(lost))
        axis.set(xlabel="β (0: native, 1: minimal)", ylabel="")
        axis.set_xticks(list(positions.values()), map(plotting.place_label, positions))
        axis.set_xlim(-0.5, len(positions) - 0.5)
        axis.grid(axis="x", visible=False)
    # Where every run learns, the whole range would hide how they differ.
    lowest = min(data.accuracy_percent.min(), (100 * (theirs.published_mean - theirs.published_std.fillna(0))).min())
    axes[0, 0].set_ylim(*((0, 104) if lowest < 50 else (5 * ((lowest - 1) // 5), 100.5)))
    axes[0, 0].set_ylabel("test accuracy, last epoch (%)")
    handles = [
        plt.Line2D([], [], color=plotting.COLOURS[name], marker="o", markersize=4, label=name) for name in families
    ]
    if lost:
        handles.append(plt.Line2D([], [], color="0.3", marker="X", markersize=5, linestyle="", label="diverged run"))
    if len(theirs):
        handles.append(published_handle(theirs))
    figure.legend(handles=handles, loc="outside lower center", ncols=plotting.legend_columns(handles, figure))
    runs_per_box = plotting.run_count(data.groupby(["normalization", "rule"]).size())
    figure.suptitle(f"{plotting.condition_title(condition)}: {runs_per_box} per box", fontsize=10)
    keys = ["normalization", "beta"]
    data = (
        data.drop(columns="position").merge(theirs, how="left", on=keys)
        if len(theirs)
        else data.drop(columns="position")
    )
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data, outputs["csv"])


def draw_published(axis, theirs: pd.DataFrame, positions: dict) -> None:
    """Behind ours: mean and, shaded, one standard deviation of the published runs."""
    colour, half = plotting.COLOURS["published"], 0.42
    for row in theirs.itertuples():
        x, mean, std = positions[row.beta], 100 * row.published_mean, 100 * row.published_std
        band = (mean - std, mean + std) if std >= 0 else (mean, mean)  # a single run has no deviation
        axis.fill_between([x - half, x + half], *band, color=colour, alpha=0.3, linewidth=0, zorder=0.5)
        axis.plot([x - half, x + half], [mean, mean], color=colour, linewidth=1.6, zorder=0.6)


def published_handle(theirs: pd.DataFrame):
    """The legend's entry for the published values, with their numbers of runs and epochs."""
    runs, epochs = plotting.run_count(theirs.published_runs), plotting.span(theirs.published_epochs)
    label = f"published, mean ± std ({runs}, {epochs} epochs)"
    return plt.Line2D([], [], color=plotting.COLOURS["published"], linewidth=1.6, label=label)


def count_diverged(axis, data: pd.DataFrame, lost: list[str], is_first: bool) -> None:
    """A row above the axes for each family that lost runs anywhere: how many of how many, at their beta."""
    for row, name in enumerate(lost):
        above = offset_copy(axis.get_xaxis_transform(), axis.figure, y=2 + 9 * row, units="points")
        style = {"transform": above, "fontsize": 7, "color": plotting.COLOURS[name], "va": "bottom"}
        if is_first:
            axis.text(-0.6, 1, "NaN", ha="right", **style)
        for position, runs in data[data.family == name].groupby("position"):
            if runs.diverged.any():
                text = f"{runs.diverged.sum()}/{len(runs)}"
                axis.text(position - OFFSETS[name], 1, text, ha="center", **style)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(
            pd.read_csv(snakemake.input.runs, keep_default_na=False, na_values=[""]),
            pd.read_csv(snakemake.input.published, keep_default_na=False, na_values=[""]),
            snakemake.params.group,
            dict(snakemake.output.items()),
        )
