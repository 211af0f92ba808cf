"""Gather all cells of the zones into tables: minibatches, layers, proportions, classes, thresholds, costs."""

from nonsmooth import published
from nonsmooth.cells import ZoneCell
from nonsmooth.files import atomic
from nonsmooth.joblog import job_log
from nonsmooth.zones import tables as zones


def aggregate(cells, minibatch_paths, layer_paths, record_paths, outputs) -> None:
    minibatches, layers, costs = zones.read_cells(cells, minibatch_paths, layer_paths, record_paths)
    proportions = zones.proportions(minibatches)
    tables = {
        "minibatches": minibatches,
        "layers": layers,
        "proportions": proportions,
        "proportions_by_seed": zones.proportions_by_seed(minibatches),
        "classes": zones.classes(minibatches),
        "magnitudes": zones.magnitudes(minibatches),
        "misjudged": zones.misjudged(minibatches),
        "pure_rounding": zones.pure_rounding(minibatches),
        "thresholds": zones.thresholds(minibatches),
        "published": zones.compare(proportions, published.zones()),
        "costs": costs,
    }
    for name, table in tables.items():
        with atomic(outputs[name]) as temporary:
            table.to_csv(temporary, index=False)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        aggregate(
            [ZoneCell.from_dict(cell) for cell in snakemake.params.cells],
            snakemake.input.minibatches,
            snakemake.input.layers,
            snakemake.input.records,
            dict(snakemake.output.items()),
        )
