"""Distance between the weights that two programs train, and their test accuracies, per epoch, for all conditions."""

from math import ceil, floor, log10

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator

from nonsmooth import maxpool, plotting
from nonsmooth.cells import Program
from nonsmooth.joblog import job_log

NETWORK = ["dataset", "architecture", "normalization"]
PAIR = ["program", "reference"]
# Pairs of one colour, such as two betas, differ in these.
LINES = ["-", "--", ":", "-."]
# Decades on the axis of distances that can have a label each.
LABELS = 6
REFERENCE = {"color": "0.6", "linewidth": 0.8, "zorder": 2.5}
THRESHOLD = {"color": "0.7", "linewidth": 0.8, "linestyle": (0, (2, 2)), "zorder": 0}


def plot(weights: pd.DataFrame, outputs: dict[str, str]) -> None:
    networks = maxpool.conditions(weights, NETWORK)
    precisions = list(weights.precision.unique())
    looks = pair_looks(maxpool.conditions(weights, PAIR))
    decades = distance_decades(weights)

    plotting.use_style()
    figure, axes = plt.subplots(
        2 * len(networks), len(precisions), sharex=True, sharey="row", squeeze=False,
        figsize=(max(6.2, 1.0 + 2.4 * len(precisions)), 1.2 + 4.0 * len(networks)),
    )  # fmt: skip
    for number, network in enumerate(networks):
        for column, precision in enumerate(precisions):
            part = maxpool.select(weights, {**dict(zip(NETWORK, network, strict=True)), "precision": precision})
            distance, accuracy = axes[2 * number : 2 * number + 2, column]
            if part.empty:  # not every network has every precision
                distance.set_visible(False)
                accuracy.set_visible(False)
                continue
            draw_runs(distance, part, "distance_l1", 1, looks)
            draw_references(accuracy, part)
            draw_runs(accuracy, part, "program_test_accuracy", 100, looks)
            scale_distances(distance, decades)
            lines = [] if len(networks) == 1 else network_title(network).split(", ")
            distance.set_title("\n".join([*lines, precision]))
            accuracy.set_ylim(0, 104)
            accuracy.xaxis.get_major_locator().set_params(integer=True)
        axes[2 * number, 0].set_ylabel("L1 distance\nbetween the weights")
        axes[2 * number + 1, 0].set_ylabel("test accuracy (%)")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    handles = [plt.Line2D([], [], label=pair_label(*pair), **look) for pair, look in looks.items()]
    handles.append(plt.Line2D([], [], label="accuracy of the reference", **REFERENCE))
    if not np.isfinite(weights.distance_l1).all():
        handles.append(plt.Line2D([], [], color="0.2", marker="x", linestyle="", markersize=6,
                                  label="last epoch with finite weights"))  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=plotting.legend_columns(handles, figure))
    runs = plotting.run_count(weights.groupby(["precision", *NETWORK, *PAIR], sort=False).seed.nunique())
    title = f"{network_title(networks[0])}: " if len(networks) == 1 else ""
    figure.suptitle(f"{title}{runs} of each pair", fontsize=10)
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], weights, outputs["csv"])


def network_title(network: tuple[str, ...]) -> str:
    dataset, architecture, normalization = map(plotting.word, network)
    return f"{architecture} on {dataset}, {normalization}"


def pair_label(program: str, reference: str) -> str:
    return f"{program} against {'itself (control)' if program == reference else reference}"


def pair_looks(pairs: list[tuple[str, str]]) -> dict[tuple[str, str], dict]:
    """Colour, style and width of each pair's lines, controls first: black for a program against itself, otherwise the
    colour of its rule, or that of ReLUs where the rule is native. Later lines are thinner and on top, so that all show."""
    looks: dict[tuple[str, str], dict] = {}
    ordered = sorted(pairs, key=lambda pair: pair[0] != pair[1])
    for (program, reference), width in zip(ordered, np.linspace(3.2, 1.2, len(pairs)), strict=True):
        family = plotting.rule_family(Program.parse(program).rule)
        name = "native" if program == reference else "accent" if family == "native" else family
        colour = plotting.COLOURS[name]
        style = LINES[sum(look["color"] == colour for look in looks.values()) % len(LINES)]
        looks[program, reference] = {"color": colour, "linestyle": style, "linewidth": width}
    return looks


def distance_decades(weights: pd.DataFrame) -> tuple[int, int]:
    """The powers of ten between which all positive distances are; 0 is drawn below the first."""
    positive = weights.distance_l1[np.isfinite(weights.distance_l1) & (weights.distance_l1 > 0)]
    if positive.empty:
        return 0, 1
    low, high = floor(log10(positive.min())), ceil(log10(positive.max()))
    return low, max(high, low + 1)


def scale_distances(axis, decades: tuple[int, int]) -> None:
    """Logarithmic, and linear below the lowest decade, so that 0 has a place."""
    low, high = decades
    axis.set_yscale("symlog", linthresh=10.0**low, linscale=0.16 * (high - low))  # in decades: room for a label
    axis.set_ylim(-0.2 * 10.0**low, 1.3 * 10.0**high)
    exponents = range(low, high + 1, ceil((high - low + 1) / LABELS))
    axis.set_yticks([0, *(10.0**exponent for exponent in exponents)])
    axis.yaxis.set_minor_locator(NullLocator())
    axis.axhline(10.0**low, **THRESHOLD)


def draw_runs(axis, part: pd.DataFrame, column: str, factor: float, looks: dict) -> None:
    """A line per run, to the last finite value; a cross there if it is not the last."""
    for (program, reference), look in looks.items():
        for _, run in maxpool.select(part, {"program": program, "reference": reference}).groupby("seed", sort=False):
            finite = run[np.isfinite(run[column])]
            axis.plot(finite.epoch, factor * finite[column], **look)
            if len(finite) < len(run):
                last = finite.iloc[-1]
                axis.plot(
                    last.epoch, factor * last[column], "x", color=look["color"], markersize=7, zorder=3, clip_on=False
                )


def draw_references(axis, part: pd.DataFrame) -> None:
    """The accuracies of the reference, which are those of every pair that has it, on top, since a control has the same."""
    for _, runs in part.groupby(["reference", "seed"], sort=False):
        run = runs.drop_duplicates("epoch")
        axis.plot(run.epoch, 100 * run.reference_test_accuracy, **REFERENCE)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(pd.read_csv(snakemake.input.weights, keep_default_na=False, na_values=["", "nan"]),
             dict(snakemake.output.items()))  # fmt: skip
