"""Box plot of the final test accuracy against beta, with and without batch norm, for one condition."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from nonsmooth import maxpool, plotting
from nonsmooth.joblog import job_log

COLUMNS = ["normalization", "rule", "beta", "evaluation", "seed", "test_accuracy", "diverged"]
# Where a box stands beside the tick of its beta.
OFFSETS = {"native": 0.0, "minimal": 0.0, "exact": -0.2, "composed": 0.2}


def plot(runs: pd.DataFrame, condition: dict[str, str], outputs: dict[str, str]) -> None:
    chosen = maxpool.select(runs, condition)
    data = chosen[COLUMNS].assign(
        accuracy_percent=100 * chosen.test_accuracy, family=chosen.rule.map(plotting.rule_family)
    )
    positions = plotting.beta_axis(data.beta)
    data["position"] = data.beta.map(positions) + data.family.map(OFFSETS)
    families = [name for name in OFFSETS if name in set(data.family)]
    normalizations = list(data.normalization.unique())

    plotting.use_style()
    figure, axes = plt.subplots(1, len(normalizations), figsize=(0.6 + 3.3 * len(normalizations), 3.2), sharey=True,
                                squeeze=False)  # fmt: skip
    for axis, normalization in zip(axes[0], normalizations, strict=True):
        part = data[data.normalization == normalization]
        shared = {"data": part, "x": "position", "y": "accuracy_percent", "hue": "family", "hue_order": families,
                  "palette": plotting.COLOURS, "native_scale": True, "legend": False, "ax": axis}  # fmt: skip
        sns.boxplot(**shared, dodge=False, fill=False, width=0.3, linewidth=1, showfliers=False)
        sns.stripplot(**shared, size=3.5, jitter=False)
        mark_diverged(axis, part)
        axis.set(title=plotting.word(normalization), xlabel="β (0: native, 1: minimal)")
        axis.set_xticks(list(positions.values()), map(plotting.beta_label, positions))
        axis.set_xlim(-0.5, len(positions) - 0.5)
        axis.grid(axis="x", visible=False)
    # Where every run learns, the whole range would hide how they differ.
    lowest = data.accuracy_percent.min()
    axes[0, 0].set_ylim(*((0, 104) if lowest < 50 else (5 * (lowest // 5), 100.5)))
    axes[0, 0].set_ylabel("test accuracy, last epoch (%)")
    handles = [plt.Line2D([], [], color=plotting.COLOURS[name], marker="o", markersize=4) for name in families]
    figure.legend(handles, families, loc="outside lower center", ncols=len(families))
    runs_per_box = plotting.span(data.groupby(["normalization", "rule"]).size())
    figure.suptitle(f"{plotting.condition_title(condition)}: {runs_per_box} runs per box", fontsize=10)
    data = data.drop(columns="position")
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data, outputs["csv"])


def mark_diverged(axis, part: pd.DataFrame) -> None:
    """Above a box, how many of its runs diverged."""
    for (position, family), box in part.groupby(["position", "family"]):
        if box.diverged.any():
            label = f"NaN\n{box.diverged.sum()}/{len(box)}"
            y = min(box.accuracy_percent.max() + 2, 90)
            axis.text(position, y, label, ha="center", va="bottom", fontsize=6, color=plotting.COLOURS[family])


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        factors = ("dataset", "architecture", "optimizer", "precision")
        plot(
            pd.read_csv(snakemake.input.runs, keep_default_na=False, na_values=[""]),
            {factor: snakemake.wildcards[factor] for factor in factors},
            dict(snakemake.output.items()),
        )
