"""Gather all cells into tables: runs, epochs, the summary, the costs, and ours beside the published values."""

from nonsmooth import maxpool, published
from nonsmooth.cells import TrainingCell
from nonsmooth.files import atomic
from nonsmooth.joblog import job_log


def aggregate(cells, metrics, records, outputs) -> None:
    runs, epochs = maxpool.read_runs(cells, metrics, records)
    tables = {"runs": runs, "epochs": epochs, "summary": maxpool.summarize(runs), "costs": maxpool.costs(runs),
              "published": maxpool.compare(runs, published.training())}  # fmt: skip
    for name, table in tables.items():
        with atomic(outputs[name]) as temporary:
            table.to_csv(temporary, index=False)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        aggregate(
            [TrainingCell.from_dict(cell) for cell in snakemake.params.cells],
            snakemake.input.metrics,
            snakemake.input.records,
            dict(snakemake.output.items()),
        )
