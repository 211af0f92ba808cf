"""Check one split of a dataset and write it in the form that cells read."""

from nonsmooth import datasets
from nonsmooth.joblog import job_log

if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        datasets.prepare(
            snakemake.wildcards.dataset, snakemake.wildcards.split, snakemake.output[0], snakemake.params.folder
        )
