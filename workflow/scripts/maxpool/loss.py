"""Training loss per epoch by beta: mean and one standard deviation over runs, for one condition."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from nonsmooth import plotting
from nonsmooth.joblog import job_log


def plot(epochs: pd.DataFrame, condition: dict[str, str], outputs: dict[str, str]) -> None:
    chosen = epochs[(epochs[list(condition)] == pd.Series(condition)).all(axis=1)]
    chosen = chosen.assign(family=chosen.rule.map(plotting.rule_family))
    data = (
        chosen.groupby(["normalization", "family", "rule", "beta", "epoch"], sort=False)
        .agg(
            # A mean with a NaN in it is NaN: a diverged run is never dropped.
            mean=("train_loss", lambda losses: losses.mean(skipna=False)),
            std=("train_loss", lambda losses: losses.std(skipna=False)),
            runs=("seed", "size"),
            finite_runs=("train_loss", lambda losses: int(np.isfinite(losses).sum())),
        )
        .reset_index()
    )
    normalizations = list(data.normalization.unique())
    evaluations = [name for name in ("exact", "composed") if name in set(data.family)] or ["native"]
    betas = plotting.beta_axis(data.beta)
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.92, len(betas)))
    colours = dict(zip(betas, shades, strict=True))

    plotting.use_style()
    figure, axes = plt.subplots(
        len(evaluations), len(normalizations), sharex=True, sharey=True, squeeze=False,
        figsize=(0.8 + 3.1 * len(normalizations), 0.8 + 2.3 * len(evaluations)),
    )  # fmt: skip
    for row, evaluation in enumerate(evaluations):
        for column, normalization in enumerate(normalizations):
            axis = axes[row, column]
            shown = data[data.family.isin(["native", "minimal", evaluation]) & (data.normalization == normalization)]
            lost = []
            for (beta, _), line in shown.groupby(["beta", "family"]):
                draw_line(axis, line, colours[beta])
                if not np.isfinite(line["mean"]).all():
                    lost.append(plotting.beta_label(beta))
            if lost:
                axis.text(0.98, 0.97, f"NaN: β = {', '.join(lost)}", transform=axis.transAxes, ha="right", va="top",
                          fontsize=8, color="#B00020")  # fmt: skip
            axis.set(title=f"{evaluation}, {plotting.word(normalization)}", yscale="log")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(which="minor", visible=False)
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    for axis in axes[:, 0]:
        axis.set_ylabel("training loss")
    handles = [plt.Line2D([], [], color=colour) for colour in colours.values()]
    labels = [plotting.beta_label(beta) for beta in colours]
    figure.legend(handles, labels, title="β", loc="outside right center")
    runs = plotting.span(data.runs.groupby([data.normalization, data.rule]).max())
    figure.suptitle(f"{plotting.condition_title(condition)}: mean ± std of {runs} runs", fontsize=10)
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data, outputs["csv"])


def draw_line(axis, line: pd.DataFrame, colour) -> None:
    """One rule; a cross marks the last epoch whose mean is finite if there is a later one."""
    line = line.sort_values("epoch")
    axis.plot(line.epoch, line["mean"], color=colour)
    deviation = line["std"].fillna(0)
    low = (line["mean"] - deviation).clip(lower=line["mean"].min() / 10)
    axis.fill_between(line.epoch, low, line["mean"] + deviation, color=colour, alpha=0.15, linewidth=0)
    finite = line[np.isfinite(line["mean"])]
    if 0 < len(finite) < len(line):
        axis.plot(finite.epoch.iloc[-1], finite["mean"].iloc[-1], "x", color=colour, markersize=7)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        factors = ("dataset", "architecture", "optimizer", "precision")
        plot(
            pd.read_csv(snakemake.input.epochs, keep_default_na=False, na_values=["", "nan"]),
            {factor: snakemake.wildcards[factor] for factor in factors},
            dict(snakemake.output.items()),
        )
