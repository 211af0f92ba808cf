"""Overview: final test accuracy against beta for every condition of the preset, exact beside composed."""

import matplotlib.pyplot as plt
import pandas as pd

from nonsmooth import maxpool, plotting
from nonsmooth.joblog import job_log

PANEL = ("dataset", "architecture", "optimizer", "precision")


def plot(runs: pd.DataFrame, outputs: dict[str, str]) -> None:
    panels = maxpool.conditions(runs, PANEL)
    normalizations = list(runs.normalization.unique())
    positions = plotting.beta_axis(runs.beta)
    data = runs.groupby([*PANEL, "normalization", "rule", "beta"], sort=False).agg(
        mean=("test_accuracy", "mean"), min=("test_accuracy", "min"), max=("test_accuracy", "max"),
        runs=("seed", "size"), diverged=("diverged", "sum"),
    ).reset_index()  # fmt: skip

    plotting.use_style()
    figure, axes = plt.subplots(len(normalizations), len(panels), squeeze=False, sharex=True, sharey=True,
                                figsize=(1.2 + 2.0 * len(panels), 0.9 + 1.9 * len(normalizations)))  # fmt: skip
    for column, panel in enumerate(panels):
        for row, normalization in enumerate(normalizations):
            axis = axes[row, column]
            part = maxpool.select(data, {**dict(zip(PANEL, panel, strict=True)), "normalization": normalization})
            for offset, family in ((-0.1, "exact"), (0.1, "composed")):
                rules = part[part.rule.map(plotting.rule_family).isin(["native", "minimal", family])]
                draw_line(axis, rules.sort_values("beta"), positions, family, offset)
            axis.set_xlim(-0.5, len(positions) - 0.5)
            axis.set_ylim(0, 104)
            axis.grid(axis="x", visible=False)
        axes[0, column].set_title(", ".join(map(plotting.word, (panel[3], panel[2]))))
        axes[-1, column].set_xticks(list(positions.values()), map(plotting.beta_label, positions), rotation=45)
        axes[-1, column].set_xlabel("β")
    for row, normalization in enumerate(normalizations):
        axes[row, 0].set_ylabel(f"{plotting.word(normalization)}\ntest accuracy (%)")
    handles = [
        plt.Line2D([], [], color=plotting.COLOURS["exact"], marker="o", markersize=4),
        plt.Line2D([], [], color=plotting.COLOURS["composed"], marker="s", markersize=4),
        plt.Line2D([], [], color="0.2", marker="x", linestyle="", markersize=7),
    ]
    labels = ["exact (true maximum, hybrid Jacobian)", "composed (as published)", "some runs diverged"]
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    names = sorted({f"{plotting.word(panel[1])} on {plotting.word(panel[0])}" for panel in panels})
    figure.suptitle(f"{'; '.join(names)}: mean and range of {plotting.span(data.runs)} runs", fontsize=10)
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data, outputs["csv"])


def draw_line(axis, rules: pd.DataFrame, positions: dict[float, int], family: str, offset: float) -> None:
    """Mean and range per beta; a cross where a run diverged."""
    x = rules.beta.map(positions) + offset
    mean, low, high = 100 * rules["mean"], 100 * rules["min"], 100 * rules["max"]
    colour = plotting.COLOURS[family]
    marker = {"exact": "o", "composed": "s"}[family]
    # The mean of equal values can lie a rounding outside of them.
    spread = ((mean - low).clip(lower=0), (high - mean).clip(lower=0))
    axis.errorbar(x, mean, spread, color=colour, marker=marker, markersize=3.5, capsize=2)
    some = rules.diverged > 0
    axis.plot(x[some], mean[some], "x", color="0.2", markersize=7)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(
            pd.read_csv(snakemake.input.runs, keep_default_na=False, na_values=[""]),
            dict(snakemake.output.items()),
        )
