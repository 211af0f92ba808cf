"""Relative error of composed pooling against beta by precision, with its bound: of the value, and of the gradient without ties."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import offset_copy

from nonsmooth import plotting
from nonsmooth.joblog import job_log

PASSES = {"forward": "value, where the maximum is not 0", "backward": "gradient, where one maximum"}
# Windows that each pass counts.
COUNTED = {"forward": "nonzero", "backward": "untied"}
# The errors of types of 16 bits are about the same, so that their marks are side by side.
SHIFTS = {"bfloat16": 0.76, "mixed16": 1.32}


def plot(errors: pd.DataFrame, outputs: dict[str, str]) -> None:
    data = summarize(errors)
    precisions = [name for name in plotting.PRECISION_COLOURS if name in set(data.precision)]
    lost = [name for name in precisions if data.nonfinite[data.precision == name].any()]
    plotting.use_style()
    figure, axes = plt.subplots(1, 2, sharex=True, sharey=True, figsize=(7.6, 5.0))
    for axis, (name, words) in zip(axes, PASSES.items(), strict=True):
        for precision in precisions:
            part = data[(data.precision == precision) & (data["pass"] == name)].sort_values("beta")
            draw(axis, part, plotting.PRECISION_COLOURS[precision], SHIFTS.get(precision, 1.0))
            if precision in lost:
                count_nonfinite(
                    axis, part, plotting.PRECISION_COLOURS[precision], lost.index(precision), axis is axes[0]
                )
        axis.set_title(words, pad=6 + 9 * len(lost))
        axis.set_xlabel("β")
    axes[0].set(xscale="log", yscale="log")
    axes[0].set_ylabel("relative error")
    betas = sorted(set(data.beta))
    axes[0].set_xticks(betas, map(plotting.place_label, betas))
    axes[0].xaxis.set_minor_locator(plt.NullLocator())
    handles = [
        plt.Line2D([], [], color=plotting.PRECISION_COLOURS[name], linewidth=2, label=name) for name in precisions
    ]
    grey = {"color": "0.3", "markersize": 4.5}
    handles += [
        plt.Line2D([], [], marker="o", linewidth=1.4, label="mean", **grey),
        plt.Line2D([], [], marker="v", linestyle="", markerfacecolor="white", label="largest", **grey),
        plt.Line2D([], [], linestyle="--", linewidth=1, color="0.3", label="bound u(|β| + |1 − β|)"),
    ]
    if data.rounded_error.notna().any():
        handles.append(
            plt.Line2D(
                [], [], marker="_", markeredgewidth=1.6, linestyle="", label="mean, rounded to p − log₂ 2β bits", **grey
            )
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    first = errors.iloc[0]
    where = ", ".join(plotting.word(first[name]) for name in ("architecture", "dataset", "normalization"))
    networks = errors.seed.nunique()
    what = "1 network" if networks == 1 else f"{networks} networks"
    plotting.set_title(figure, f"{where}: first minibatch of {what}")
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data, outputs["csv"])


def summarize(errors: pd.DataFrame) -> pd.DataFrame:
    """A row per pass, precision and beta, over layers and seeds: mean and largest error, and the share that is not finite.

    Means are over windows, so that a layer counts by the number of them.
    """
    tables = []
    for name, counted in COUNTED.items():
        rows = errors.assign(
            counted=errors[counted],
            nonfinite=errors[f"{name}_nonfinite"],
            largest=errors[f"{name}_error_max"],
            total=errors[f"{name}_error"] * (errors[counted] - errors[f"{name}_nonfinite"]),
            rounded_total=(errors.rounded_error if name == "forward" else np.nan) * errors[counted],
        )
        sums = rows.groupby(["precision", "beta"], sort=False).agg(
            counted=("counted", "sum"),
            nonfinite=("nonfinite", "sum"),
            total=("total", "sum"),
            rounded_total=("rounded_total", lambda totals: totals.sum(min_count=1)),
            largest=("largest", "max"),
            bound=("bound", "first"),
        )
        finite = (sums.counted - sums.nonfinite).where(lambda count: count > 0)
        means = {"mean": sums.total / finite, "rounded_error": sums.rounded_total / sums.counted}
        tables.append(sums.assign(**means, **{"pass": name}).reset_index())
    columns = ["pass", "precision", "beta", "counted", "nonfinite", "mean", "largest", "bound", "rounded_error"]
    return pd.concat(tables, ignore_index=True)[columns]


def draw(axis: Axes, rows: pd.DataFrame, colour: str, shift: float) -> None:
    """Mean, largest and bound of one precision; an error of 0, as at beta = 1, has no place on the axis."""
    x = rows.beta * shift
    axis.plot(x, rows["mean"].where(rows["mean"] > 0), "o-", color=colour, markersize=4, zorder=3)
    axis.plot(
        x, rows.largest.where(rows.largest > 0), "v", color=colour, markersize=4.5, markerfacecolor="white", zorder=3
    )
    axis.plot(x, rows.rounded_error, "_", color=colour, markersize=9, markeredgewidth=1.6, zorder=4)
    axis.plot(x, rows.bound, "--", color=colour, linewidth=0.9, zorder=2)


def count_nonfinite(axis: Axes, rows: pd.DataFrame, colour: str, height: int, is_first: bool) -> None:
    """The share of windows that are not finite above the axes, in percent, at their beta."""
    above = offset_copy(axis.get_xaxis_transform(), axis.figure, y=2 + 9 * height, units="points")
    style = {"transform": above, "fontsize": 6.5, "color": colour, "va": "bottom"}
    if is_first:
        axis.text(rows.beta.min() / 2.5, 1, "not finite", ha="right", **style)
    for row in rows[rows.nonfinite > 0].itertuples():
        axis.text(row.beta, 1, f"{100 * row.nonfinite / row.counted:.2g} %", ha="center", **style)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(
            pd.read_csv(snakemake.input.errors, keep_default_na=False, na_values=["", "nan"]),
            dict(snakemake.output.items()),
        )
