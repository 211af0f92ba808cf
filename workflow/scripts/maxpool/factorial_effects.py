"""The effects of the parts of the published program in one group: main effects and interactions with their intervals."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from nonsmooth import maxpool, plotting
from nonsmooth.factorial import DESIGNS
from nonsmooth.joblog import job_log
from nonsmooth.programs import FACTORS

# What is drawn of each response: its words, colour, mark and how far below the middle of its effect's row it is.
RESPONSES = {
    "test_accuracy": ("test accuracy", plotting.COLOURS["exact"], "o", -0.17),
    "diverged": ("share of runs that diverge", plotting.COLOURS["composed"], "X", 0.17),
}


def plot(effects: pd.DataFrame, group: dict[str, Any], outputs: dict[str, str]) -> None:
    data = choose(maxpool.select(effects, group))
    betas, normalizations = sorted(set(data.beta)), list(dict.fromkeys(data.normalization))
    names = list(dict.fromkeys(data.effect))
    plotting.use_style()
    figure, axes = plt.subplots(
        len(normalizations), len(betas), squeeze=False, sharey=True, sharex="col",
        figsize=(max(4.6, 1.2 + 2.1 * len(betas)), 1.3 + len(normalizations) * (0.5 + 0.19 * len(names))),
    )  # fmt: skip
    for row, normalization in enumerate(normalizations):
        for column, beta in enumerate(betas):
            axis = axes[row, column]
            part = maxpool.select(data, {"normalization": normalization, "beta": beta})
            axis.set_visible(len(part) > 0)
            draw(axis, part, names)
            if row == 0:
                axis.set_title(f"β = {plotting.place_label(beta)}")
            if row == len(normalizations) - 1:
                axis.set_xlabel("effect (percentage points)")
        axes[row, 0].set_ylabel(plotting.word(normalization))
    axes[0, 0].set_yticks(range(len(names)), map(effect_words, names))
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    handles = [
        plt.Line2D([], [], color=colour, marker=marker, markersize=4, linewidth=1.2, label=words)
        for words, colour, marker, _ in RESPONSES.values()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=plotting.legend_columns(handles, figure))
    runs = plotting.run_count(data.n)
    what = runs if runs == "1 run" else f"mean and 95\u00a0% interval of {runs} of each program"
    plotting.set_title(figure, f"{plotting.condition_title(group)}: {what}")
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data, outputs["csv"])


def choose(effects: pd.DataFrame) -> pd.DataFrame:
    """Each effect once: of F, B and J from the design without other factors, and what R and W add from theirs."""
    order = {design: number for number, design in enumerate(DESIGNS)}
    by_design = effects.assign(order=effects.design.map(order)).sort_values("order", kind="stable")
    keys = ["normalization", "beta", "response", "effect"]
    return by_design.drop_duplicates(keys).drop(columns="order")


def effect_words(effect: str) -> str:
    """A main effect with what its factor is, an interaction by its letters."""
    return f"{FACTORS[effect]}  {effect}" if effect in FACTORS else effect.replace(":", " × ")


def draw(axis: Axes, effects: pd.DataFrame, names: list[str]) -> None:
    """A row per effect, with stripes that lead the eye from the names to the last panel."""
    for position, name in enumerate(names):
        if position % 2:
            axis.axhspan(position - 0.5, position + 0.5, color="#F4F4F4", linewidth=0, zorder=0)
        for response, (_, colour, marker, offset) in RESPONSES.items():
            for found in maxpool.select(effects, {"effect": name, "response": response}).itertuples():
                low, high = max(found.estimate - found.low, 0), max(found.high - found.estimate, 0)
                axis.errorbar(100 * found.estimate, position + offset, xerr=[[100 * low], [100 * high]], color=colour,
                              marker=marker, markersize=3.5, elinewidth=1.2, capsize=1.5, zorder=3)  # fmt: skip
    axis.axvline(0, color="0.3", linewidth=0.8, zorder=1)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(
            pd.read_csv(snakemake.input.effects, keep_default_na=False, na_values=[""]),
            snakemake.params.group,
            dict(snakemake.output.items()),
        )
