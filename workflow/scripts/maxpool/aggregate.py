"""Gather all cells into one table of runs, one of epochs, the summary and the costs."""

from nonsmooth import maxpool
from nonsmooth.cells import TrainingCell
from nonsmooth.files import atomic
from nonsmooth.joblog import job_log


def aggregate(cells, metrics, records, benchmarks, outputs) -> None:
    runs, epochs = maxpool.read_runs(cells, metrics, records, benchmarks)
    tables = {"runs": runs, "epochs": epochs, "summary": maxpool.summarize(runs), "costs": maxpool.costs(runs)}
    for name, table in tables.items():
        with atomic(outputs[name]) as temporary:
            table.to_csv(temporary, index=False)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        aggregate(
            [TrainingCell.from_dict(cell) for cell in snakemake.params.cells],
            snakemake.input.metrics,
            snakemake.input.records,
            snakemake.input.benchmarks,
            dict(snakemake.output.items()),
        )
