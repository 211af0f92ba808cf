"""Milliseconds of a training step by architecture and precision, with quartiles."""

import matplotlib.pyplot as plt
import pandas as pd

from nonsmooth import plotting, speed
from nonsmooth.joblog import job_log

TIMES = ["seconds", "quartile1", "quartile3"]
# What the precisions of an architecture share of the distance between architectures.
SPREAD = 0.56


def plot(table: pd.DataFrame, outputs: dict[str, str]) -> None:
    data = table[["architecture", "precision"]].join(
        (1000 * table[TIMES]).set_axis(["ms", "quartile1", "quartile3"], axis=1)
    )
    architectures = list(dict.fromkeys(data.architecture))
    precisions = [name for name in plotting.PRECISION_COLOURS if name in set(data.precision)]
    plotting.use_style()
    figure, axis = plt.subplots(figsize=(6.6, 1.4 + 0.38 * len(architectures)))
    for number, precision in enumerate(precisions):
        mine = data[data.precision == precision]
        y = mine.architecture.map(architectures.index) + SPREAD * (number / max(1, len(precisions) - 1) - 0.5)
        bars = (mine.ms - mine.quartile1).clip(lower=0), (mine.quartile3 - mine.ms).clip(lower=0)
        axis.errorbar(mine.ms, y, xerr=bars, linestyle="", marker="o", markersize=4, elinewidth=1, label=precision,
                      color=plotting.PRECISION_COLOURS[precision])  # fmt: skip
    for border in range(1, len(architectures)):
        axis.axhline(border - 0.5, color="0.9", linewidth=0.6)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.set_xlabel("milliseconds per training step")
    axis.set_yticks(range(len(architectures)), map(plotting.word, architectures))
    axis.set_ylim(len(architectures) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=len(precisions))
    plotting.set_title(figure, f"A training step of {int(table.batch_size.iloc[0])} images\n{speed.made(table)}")
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data, outputs["csv"])


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(speed.read(snakemake.input.measured), dict(snakemake.output.items()))
