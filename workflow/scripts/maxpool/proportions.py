"""Bars of the share of minibatches above the published threshold, by architecture, batch size and batch norm."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from nonsmooth import maxpool, plotting
from nonsmooth.architectures import ARCHITECTURES, NORMALIZATIONS
from nonsmooth.cells import ZONE_CONDITION
from nonsmooth.joblog import job_log
from nonsmooth.zones.tables import THRESHOLDS, principal

# What a panel varies, and in which order.
PANELS = {"architecture": list(ARCHITECTURES), "batch_size": None, "normalization": list(NORMALIZATIONS)}
NAMES = {"architecture": "architecture", "batch_size": "batch size", "normalization": "batch norm"}
COLUMNS = [*ZONE_CONDITION, "seeds", "minibatches", "nonfinite", "above", "proportion", "low", "high", "proportion_min",
           "proportion_max"]  # fmt: skip
# Of the distance between groups: the widest place of a bar, and what all bars of a group take. A bar leaves a part of its
# place to what was published.
PLACE, PLACES, BAR = 0.3, 0.86, 0.7
NONFINITE = {"facecolor": "white", "edgecolor": "black", "hatch": "xxxx", "linewidth": 0.6}
PUBLISHED = {"color": plotting.COLOURS["published"], "marker": "<", "markersize": 5, "linestyle": ""}
SEED = {"color": "0.1", "marker": "o", "markersize": 2.2, "linestyle": ""}
FORMATS = ("pdf", "png", "svg")


def plot(
    proportions: pd.DataFrame,
    by_seed: pd.DataFrame,
    published: pd.DataFrame,
    group: dict[str, Any],
    outputs: dict[str, str],
) -> None:
    chosen = principal(maxpool.select(proportions, group))[COLUMNS]
    panels = choose_panels(chosen)
    precisions = [name for name in THRESHOLDS if name in set(chosen.precision)]
    groups = [rows.place.nunique() for _, rows in panels]

    plotting.use_style()
    width = max(5.6, 1.1 + (0.4 + max(0.45, 0.2 * len(precisions))) * sum(groups))
    figure, axes = plt.subplots(1, len(panels), squeeze=False, sharey=True, width_ratios=groups,
                                figsize=(width, 3.2))  # fmt: skip
    for axis, (title, rows) in zip(axes[0], panels, strict=True):
        draw(axis, rows, precisions)
        draw_seeds(axis, rows.drop(columns="proportion").merge(by_seed, on=list(ZONE_CONDITION)))
        draw_published(axis, with_published(rows, published), precisions)
        axis.set_title(title, fontsize=9)
    axes[0, 0].set(ylabel="minibatches above\nthe threshold (%)", ylim=(-1, 104))
    data = with_published(
        pd.concat([rows.assign(panel=title.splitlines()[0] if title else "") for title, rows in panels]),
        published,
        how="left",
    )
    handles = legend_handles(precisions, data)
    columns = plotting.legend_columns(handles, figure)
    figure.set_figheight(3.4 + 0.2 * -(-len(handles) // columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    shown = chosen[["program", "reference", "noise", "kernels"]].iloc[0].to_dict()
    plotting.set_title(figure, ", ".join(plotting.zone_words({**group, **shown})))
    plotting.save(figure, [outputs[key] for key in FORMATS], data.drop(columns=["place", "x", "label"]), outputs["csv"])


def choose_panels(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Title and rows of a panel for every factor that varies while the others stay; one of all conditions if none does.

    Where a factor varies for several values of the others, those for which it has most values are shown. The column
    `place` of the rows numbers the groups of bars from the left, and `label` names them.
    """
    panels = []
    for factor, order in PANELS.items():
        others = [name for name in PANELS if name != factor]
        values = table.groupby(others, sort=False)[factor].nunique()
        if values.max() == 1:
            continue
        fixed = dict(zip(others, values.idxmax(), strict=True))
        rows = maxpool.select(table, fixed)
        places = {
            value: place for place, value in enumerate(sorted(set(rows[factor]), key=order.index if order else None))
        }
        labels = rows[factor].map(lambda value, name=factor: group_label(name, value))
        title = f"by {NAMES[factor]}\n({', '.join(plotting.zone_words(fixed))})"
        panels.append((title, rows.assign(place=rows[factor].map(places), label=labels)))
    if not panels:
        labels = ["\n".join(plotting.zone_words(row)) for row in table[list(PANELS)].to_dict("records")]
        panels.append(("", table.assign(place=pd.factorize(pd.Series(labels))[0], label=labels)))
    return panels


def group_label(factor: str, value: Any) -> str:
    """A value of the factor of a panel, in a narrow column."""
    (label,) = plotting.zone_words({factor: value})
    return label.replace(" batch norm", "\nbatch norm").removeprefix("batch size ")


def draw(axis: Axes, rows: pd.DataFrame, precisions: list[str]) -> None:
    """Bars with Wilson's intervals, side by side by precision; above them, hatched, what is not finite."""
    place = place_width(precisions)
    rows["x"] = rows.place + place * (rows.precision.map(precisions.index) - (len(precisions) - 1) / 2)
    measured = rows[rows.minibatches > 0]
    percent = 100 * measured[["proportion", "low", "high"]]
    deviation = (percent.proportion - percent.low).clip(lower=0), (percent.high - percent.proportion).clip(lower=0)
    # An edge of the bar's colour, so that a share of 0 is seen.
    colours = list(measured.precision.map(plotting.PRECISION_COLOURS))
    axis.bar(measured.x, percent.proportion, BAR * place, color=colours, edgecolor=colours, yerr=deviation,
             error_kw={"elinewidth": 0.9, "capsize": 2, "ecolor": "0.1"})  # fmt: skip
    overflows = measured[measured.nonfinite > 0]
    axis.bar(overflows.x, 100 * overflows.nonfinite / overflows.minibatches, BAR * place, 100 * overflows.proportion, zorder=0.9,
             **NONFINITE)  # fmt: skip
    labels = [
        f"{mine.label.iloc[0]}\nn = {plotting.span(mine.minibatches)}"
        for _, mine in rows.sort_values("place").groupby("place")
    ]
    axis.set_xticks(range(len(labels)), labels)
    axis.set_xlim(-0.55, len(labels) - 0.45)
    axis.grid(axis="x", visible=False)


def place_width(precisions: list[str]) -> float:
    return min(PLACE, PLACES / len(precisions))


def draw_seeds(axis: Axes, seeds: pd.DataFrame) -> None:
    """A dot per draw of initial weights, where there are several."""
    several = seeds[seeds.seeds > 1]
    axis.plot(several.x, 100 * several.proportion, **SEED, zorder=3)


def with_published(rows: pd.DataFrame, published: pd.DataFrame, how: str = "inner") -> pd.DataFrame:
    """The rows and what was published of their conditions, more than once for some."""
    theirs = published[[*ZONE_CONDITION, "published_proportion"]].drop_duplicates()
    return rows.merge(theirs, on=list(ZONE_CONDITION), how=how)


def draw_published(axis: Axes, both: pd.DataFrame, precisions: list[str]) -> None:
    """Beside each bar, pointing at it, what was published."""
    if both.empty:  # an empty line that is not clipped has no place that a layout could work with
        return
    right = both.x + (1 + BAR) / 4 * place_width(precisions)
    axis.plot(right, 100 * both.published_proportion, **PUBLISHED, clip_on=False, zorder=3)


def legend_handles(precisions: list[str], data: pd.DataFrame) -> list:
    handles = [plt.Rectangle((0, 0), 1, 1, color=plotting.PRECISION_COLOURS[name], label=name) for name in precisions]
    if data.nonfinite.any():
        handles.append(plt.Rectangle((0, 0), 1, 1, **NONFINITE, label="not finite"))
    if (data.seeds > 1).any():
        handles.append(plt.Line2D([], [], **SEED, label="one initialization"))
    if data.published_proportion.notna().any():
        handles.append(plt.Line2D([], [], **PUBLISHED, label="published"))
    return handles


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        tables = [
            pd.read_csv(getattr(snakemake.input, name), keep_default_na=False, na_values=[""])
            for name in ("proportions", "proportions_by_seed", "published")
        ]
        plot(*tables, snakemake.params.group, dict(snakemake.output.items()))
