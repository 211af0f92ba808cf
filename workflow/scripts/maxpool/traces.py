"""Gather what the poolings of all cells did while these were trained."""

from nonsmooth import maxpool
from nonsmooth.cells import TrainingCell
from nonsmooth.joblog import job_log
from nonsmooth.tables import write_csv


def gather(cells, layers, activations, outputs) -> None:
    by_layer, by_step = maxpool.read_traces(cells, layers, activations)
    write_csv(by_layer, outputs["layers"])
    write_csv(by_step, outputs["activations"])


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        gather(
            [TrainingCell.from_dict(cell) for cell in snakemake.params.cells],
            snakemake.input.layers,
            snakemake.input.activations,
            dict(snakemake.output.items()),
        )
