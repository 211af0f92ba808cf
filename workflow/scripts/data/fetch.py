"""Download the published files of a dataset; the receipt lists them with their checksums."""

from pathlib import Path

from nonsmooth.datasets.fetching import fetch
from nonsmooth.files import write_json
from nonsmooth.joblog import job_log

if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        receipt = Path(snakemake.output[0])
        files = fetch(snakemake.wildcards.dataset, snakemake.params.splits, receipt.parent, snakemake.params.mirrors)
        write_json(receipt, files)
