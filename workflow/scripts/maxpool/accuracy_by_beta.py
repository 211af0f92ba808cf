"""Overview: final test accuracy against beta for every condition of the preset, exact beside composed."""

import matplotlib.pyplot as plt
import pandas as pd

from nonsmooth import maxpool, plotting
from nonsmooth.cells import GROUP
from nonsmooth.joblog import job_log

# Panels side by side; more of them go below, so that the text of a wide preset stays readable on a page.
COLUMNS = 4
MARKERS = {"native": "o", "exact": "o", "composed": "s", "other": "^"}
LABELS = {
    "native": "native and minimal",
    "exact": "exact (true maximum, hybrid Jacobian)",
    "composed": "composed (as published)",
    "other": "other rules",
}


def plot(runs: pd.DataFrame, published: pd.DataFrame, outputs: dict[str, str]) -> None:
    runs = maxpool.against_beta(runs)
    panels = maxpool.conditions(runs, GROUP)
    normalizations = list(runs.normalization.unique())
    # Without hybrid rules there is one line, of native and minimal.
    families = [name for name in ("exact", "composed") if name in set(runs.evaluation)] or ["native"]
    offsets = {name: 0.24 * (number - (len(families) - 1) / 2) for number, name in enumerate(families)}
    runs = runs.assign(place=plotting.places(runs))
    positions = plotting.place_axis(runs.place)
    data = runs.groupby([*GROUP, "normalization", "rule", "beta", "place"], sort=False, dropna=False).agg(
        mean=("test_accuracy", "mean"), min=("test_accuracy", "min"), max=("test_accuracy", "max"),
        runs=("seed", "size"), diverged=("diverged", "sum"),
    ).reset_index()  # fmt: skip
    # Every evaluation is beside the same published value.
    theirs = published[[*GROUP, "normalization", "beta", "published_mean", "published_std"]].drop_duplicates()
    data = data.merge(theirs, how="left", on=[*GROUP, "normalization", "beta"])

    plotting.use_style()
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns) * len(normalizations)
    figure, axes = plt.subplots(rows, columns, squeeze=False, sharey=True,
                                figsize=(max(6.6, 1.2 + 2.2 * columns), 1.2 + 1.8 * rows))  # fmt: skip
    for number, panel in enumerate(panels):
        block, column = divmod(number, columns)
        for position, normalization in enumerate(normalizations):
            axis = axes[block * len(normalizations) + position, column]
            part = maxpool.select(data, {**dict(zip(GROUP, panel, strict=True)), "normalization": normalization})
            family_of = part.rule.map(plotting.rule_family)
            # Without hybrid rules in this panel there is one line, of native and minimal.
            for family in [name for name in offsets if name in set(family_of)] or ["native"]:
                rules = part[family_of.isin(["native", "minimal", family])]
                draw_line(axis, rules.sort_values("beta"), positions, family, offsets.get(family, 0))
            draw_line(axis, part[part.beta.isna()], positions, "other", 0, linestyle="")
            draw_published(
                axis,
                maxpool.select(theirs, {**dict(zip(GROUP, panel, strict=True)), "normalization": normalization}),
                positions,
            )
            axis.set(xlim=(-0.5, len(positions) - 0.5), ylim=(0, 104))
            axis.set_yticks(range(0, 101, 20))
            axis.grid(axis="x", visible=False)
            axis.set_xticks(list(positions.values()), map(plotting.place_label, positions), rotation=45, ha="right",
                            rotation_mode="anchor")  # fmt: skip
            is_lowest = position == len(normalizations) - 1
            axis.tick_params(labelbottom=is_lowest)
            axis.set_xlabel("β" if is_lowest else "")
            if position == 0:
                axis.set_title(panel_title(panel, panels))
            if column == 0:
                axis.set_ylabel(f"{plotting.word(normalization)}\ntest accuracy (%)")
    for axis in axes.flat:
        axis.set_visible(axis.has_data())
    has_native_line = not data.groupby([*GROUP, "normalization"], sort=False).rule.apply(has_hybrid).all()
    shown = [*families, *(["native"] if has_native_line and families != ["native"] else [])]
    handles = [
        plt.Line2D([], [], color=plotting.COLOURS[name], marker=MARKERS[name], markersize=4, label=LABELS[name])
        for name in [*shown, *(["other"] if data.beta.isna().any() else [])]
    ]
    if data.diverged.any():
        handles.append(
            plt.Line2D([], [], color="0.2", marker="x", linestyle="", markersize=7, label="some runs diverged")
        )
    if len(theirs):
        handles.append(plt.Line2D([], [], color=plotting.COLOURS["published"], marker="_", linestyle="", markersize=8,
                                  markeredgewidth=2.5, label="published"))  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=plotting.legend_columns(handles, figure))
    names = {f"{plotting.word(panel[1])} on {plotting.word(panel[0])}" for panel in panels}
    count = plotting.run_count(data.runs)
    what = count if count == "1 run" else f"mean and range of {count}"
    figure.suptitle(f"{names.pop()}: {what}" if len(names) == 1 else what.capitalize(), fontsize=10)
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data, outputs["csv"])


def has_hybrid(rules: pd.Series) -> bool:
    return bool(rules.map(plotting.rule_family).isin(["exact", "composed"]).any())


def panel_title(panel: tuple[str, ...], panels: list[tuple[str, ...]]) -> str:
    """Precision and optimizer, below the architecture and dataset where panels differ in them."""
    dataset, architecture, optimizer, precision = map(plotting.word, panel[:4])
    arithmetic = ", ".join([precision, optimizer, *plotting.relu_words(panel[4])])
    return arithmetic if len({other[:2] for other in panels}) == 1 else f"{architecture}, {dataset}\n{arithmetic}"


def draw_published(axis, theirs: pd.DataFrame, positions: dict) -> None:
    """A bar behind our points at the published mean."""
    if theirs.empty:
        return
    axis.plot(theirs.beta.map(positions), 100 * theirs.published_mean, "_", color=plotting.COLOURS["published"],
              markersize=14, markeredgewidth=2.5, zorder=1)  # fmt: skip


def draw_line(axis, rules: pd.DataFrame, positions: dict, family: str, offset: float, linestyle: str = "-") -> None:
    """Mean and range per beta; a cross where a run diverged."""
    if rules.empty:  # which matplotlib would take for data
        return
    x = rules.place.map(positions).astype(float) + offset
    mean, low, high = 100 * rules["mean"], 100 * rules["min"], 100 * rules["max"]
    # The mean of equal accuracies can be an ulp beside them.
    deviation = (mean - low).clip(lower=0), (high - mean).clip(lower=0)
    colour = plotting.COLOURS[family]
    axis.errorbar(x, mean, deviation, color=colour, marker=MARKERS[family], markersize=3.5, capsize=2,
                  linestyle=linestyle)  # fmt: skip
    some = rules.diverged > 0
    axis.plot(x[some], mean[some], "x", color="0.2", markersize=7)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(
            pd.read_csv(snakemake.input.runs, keep_default_na=False, na_values=[""]),
            pd.read_csv(snakemake.input.published, keep_default_na=False, na_values=[""]),
            dict(snakemake.output.items()),
        )
