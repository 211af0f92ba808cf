"""Images per second of several cells at once, in all and of the slowest one, against their number, with the ideal."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from nonsmooth import plotting, speed
from nonsmooth.joblog import job_log
from nonsmooth.report import words

PANELS = {"images_per_second": "all cells together", "slowest_cell": "slowest cell"}
IDEAL = {"color": "0.4", "linestyle": "--", "linewidth": 1}


def plot(table: pd.DataFrame, outputs: dict[str, str]) -> None:
    first = table.sort_values("cells").iloc[0]
    most, limit = (first.cores / first.threads, ", until all cores compute") if first.device == "cpu" else (np.inf, "")

    def ideal(cells: pd.Series | np.ndarray) -> dict[str, pd.Series | np.ndarray]:
        together = first.slowest_cell * np.minimum(cells, most)
        return {"images_per_second": together, "slowest_cell": together / cells}

    data = table[["cells", *PANELS, "ratio_to_one"]].sort_values("cells")
    data = data.assign(**{f"ideal_{name}": rates for name, rates in ideal(data.cells).items()})
    counts = np.geomspace(first.cells, data.cells.max(), 200)
    plotting.use_style()
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.4))
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        axis.plot(counts, ideal(counts)[name], **IDEAL, label=f"ideal: each as fast as one alone{limit}")
        axis.plot(data.cells, data[name], "o-", color=plotting.COLOURS["exact"], label="measured")
        axis.set(title=title, xlabel="cells at once", ylabel="images per second")
        axis.set_xscale("log", base=2)
        axis.set_xticks(data.cells, data.cells)
        axis.xaxis.set_minor_locator(plt.NullLocator())
        axis.set_ylim(0, 1.1 * data[[name, f"ideal_{name}"]].max(axis=None))
        axis.yaxis.set_major_formatter("{x:,.0f}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    cores = words(int(first.cores), "core")
    plotting.set_title(figure, f"Cells of LeNet-5 at once, each in a process of its own\n{speed.made(table)}, {cores}")
    plotting.save(figure, [outputs[key] for key in ("pdf", "png", "svg")], data, outputs["csv"])


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        plot(speed.read(snakemake.input.measured), dict(snakemake.output.items()))
