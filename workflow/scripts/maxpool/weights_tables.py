"""Gather the cells of weights into one table, a row per cell and epoch."""

from nonsmooth import maxpool
from nonsmooth.cells import WeightsCell
from nonsmooth.files import atomic
from nonsmooth.joblog import job_log


def weights_tables(cells, epochs, records, output) -> None:
    with atomic(output) as temporary:
        maxpool.read_weights(cells, epochs, records).to_csv(temporary, index=False)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        weights_tables(
            [WeightsCell.from_dict(cell) for cell in snakemake.params.cells],
            snakemake.input.epochs,
            snakemake.input.records,
            snakemake.output[0],
        )
