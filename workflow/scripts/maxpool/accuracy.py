"""Box plot of the final test accuracy against beta, with and without batch norm, for one condition."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from nonsmooth import plotting
from nonsmooth.joblog import job_log

COLUMNS = ["normalization", "rule", "beta", "evaluation", "seed", "test_accuracy", "diverged"]


def plot(runs: pd.DataFrame, condition: dict[str, str], outputs: dict[str, str]) -> None:
    chosen = runs[(runs[list(condition)] == pd.Series(condition)).all(axis=1)]
    data = chosen[COLUMNS].assign(
        accuracy_percent=100 * chosen.test_accuracy,
        family=chosen.rule.map(plotting.rule_family),
        label=chosen.beta.map(plotting.beta_label),
    )
    order = [plotting.beta_label(beta) for beta in plotting.beta_axis(data.beta)]
    families = [name for name in plotting.COLOURS if name in set(data.family)]
    normalizations = list(data.normalization.unique())

    plotting.use_style()
    figure, axes = plt.subplots(1, len(normalizations), figsize=(3.6 * len(normalizations), 3.2), sharey=True,
                                squeeze=False)  # fmt: skip
    for axis, normalization in zip(axes[0], normalizations, strict=True):
        part = data[data.normalization == normalization]
        shared = {"data": part, "x": "label", "y": "accuracy_percent", "order": order, "hue": "family",
                  "hue_order": families, "palette": plotting.COLOURS, "dodge": True, "ax": axis}  # fmt: skip
        sns.boxplot(**shared, fill=False, width=0.8, linewidth=1, showfliers=False)
        sns.stripplot(**shared, size=3.5, jitter=False, legend=False)
        diverged = part.groupby("label").diverged.sum()
        for position, label in enumerate(order):
            if diverged.get(label, 0):
                total = (part.label == label).sum()
                axis.text(position, 101, f"NaN {diverged[label]}/{total}", ha="center", va="bottom", fontsize=7)
        axis.set(title=plotting.word(normalization), xlabel="β (0: native, 1: minimal)", ylabel="", ylim=(0, 108))
        axis.set_yticks(range(0, 101, 20))
        axis.grid(axis="x", visible=False)
        axis.legend_.remove()
    axes[0, 0].set_ylabel("test accuracy, last epoch (%)")
    handles = [plt.Line2D([], [], color=plotting.COLOURS[name], marker="o", markersize=4) for name in families]
    figure.legend(handles, families, loc="outside lower center", ncols=len(families))
    runs_per_box = plotting.span(data.groupby(["normalization", "rule"]).size())
    figure.suptitle(f"{plotting.condition_title(condition)}: {runs_per_box} runs per box", fontsize=10)
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data.drop(columns="label"), outputs["csv"])


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        factors = ("dataset", "architecture", "optimizer", "precision")
        plot(
            pd.read_csv(snakemake.input.runs, keep_default_na=False, na_values=[""]),
            {factor: snakemake.wildcards[factor] for factor in factors},
            dict(snakemake.output.items()),
        )
