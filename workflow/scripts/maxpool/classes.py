"""Stacked bars of why two programs' gradients differ or agree: the share of minibatches of each class, by precision."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from nonsmooth import maxpool, plotting
from nonsmooth.cells import ZONE_CONDITION
from nonsmooth.joblog import job_log
from nonsmooth.zones.tables import CLASSES, THRESHOLDS

# A narrower segment has no room for its count, which then stands beside the bar.
NARROW = 0.045
# What a title says where all conditions share it.
FIXED = [name for name in ZONE_CONDITION if name not in ("precision", "noise", "kernels")]
FORMATS = ("pdf", "png", "svg")


def plot(classes: pd.DataFrame, group: dict[str, Any], outputs: dict[str, str]) -> None:
    data = maxpool.select(classes, group)
    precisions = [name for name in THRESHOLDS if name in set(data.precision)]
    varying = [name for name in ZONE_CONDITION if name != "precision" and data[name].nunique() > 1]
    labels = condition_labels(data, varying)
    bars = [labels[data.precision == name].nunique() for name in precisions]

    plotting.use_style()
    figure, axes = plt.subplots(max(1, len(precisions)), squeeze=False, sharex=True, height_ratios=bars or [1],
                                figsize=(7.2, 1.2 + 0.3 * len(precisions) + 0.24 * sum(bars)))  # fmt: skip
    for precision, axis in zip(precisions, axes[:, 0], strict=False):
        is_mine = data.precision == precision
        draw(axis, data[is_mine], labels[is_mine])
        axis.set_title(precision, loc="left", pad=2, fontsize=9)
    present = [name for name in CLASSES if data["count"][data["class"] == name].any()]
    handles = plotting.class_handles(present)
    if handles:
        axes[-1, 0].set(xlabel="share of minibatches (%)", xlim=(0, 100))
        figure.legend(handles=handles, loc="outside lower center", ncols=plotting.legend_columns(handles, figure))
    else:
        axes[0, 0].set_axis_off()
        axes[0, 0].text(0.5, 0.5, "causes were not looked for", transform=axes[0, 0].transAxes, ha="center")
    fixed = {name: data[name].iloc[0] for name in FIXED if name not in varying and len(data)}
    plotting.set_title(figure, ", ".join(plotting.zone_words({**group, **fixed})))
    plotting.save(figure, [outputs[key] for key in FORMATS], data, outputs["csv"])


def condition_labels(data: pd.DataFrame, varying: list[str]) -> pd.Series:
    """What tells the conditions of a figure apart, but for the precision; the pair of programs if nothing else has words."""
    if not {*varying} - {"noise"} or {"program", "reference"} & {*varying}:
        varying = [name for name in ZONE_CONDITION if name in {*varying, "program", "reference"}]
    words = [", ".join(plotting.zone_words(row)) for row in data[varying].to_dict("records")]
    return pd.Series(words, index=data.index, dtype=object)


def draw(axis: Axes, rows: pd.DataFrame, labels: pd.Series) -> None:
    """One bar per condition, from above, and beside it how many minibatches it has, and are in narrow segments."""
    order = list(labels.drop_duplicates())
    left = dict.fromkeys(order, 0.0)
    notes = {label: [f"n = {n:,}"] for label, n in zip(labels, rows.minibatches, strict=True)}
    for row, label in zip(rows.to_dict("records"), labels, strict=True):
        if row["count"] == 0:
            continue
        name, width = row["class"], 100 * row["share"]
        axis.barh(order.index(label), width, 0.78, left[label], color=plotting.CLASS_COLOURS[name], edgecolor="0.3",
                  linewidth=0.4, hatch=plotting.CLASS_HATCHES.get(name))  # fmt: skip
        if row["share"] >= NARROW:
            write_count(axis, left[label] + width / 2, order.index(label), f"{row['count']:,}", name)
        else:
            notes[label].append(f"{row['count']:,} {plotting.CLASS_WORDS[name]}")
        left[label] += width
    for position, label in enumerate(order):
        axis.text(101, position, ", ".join(notes[label]), va="center", fontsize=7)
    axis.set_yticks(range(len(order)), order, fontsize=7.5)
    axis.set_ylim(len(order) - 0.5, -0.5)
    axis.grid(visible=False)


def write_count(axis: Axes, x: float, y: float, text: str, name: str) -> None:
    """A count inside its segment, readable on the segment's colour."""
    is_dark = name in ("real", "compensation", "lost_tie", "overflow")
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6} if name in plotting.CLASS_HATCHES else None
    axis.text(
        x, y, text, ha="center", va="center_baseline", fontsize=6.5, color="white" if is_dark else "black", bbox=box
    )


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(
            pd.read_csv(snakemake.input.classes, keep_default_na=False, na_values=[""]),
            snakemake.params.group,
            dict(snakemake.output.items()),
        )
