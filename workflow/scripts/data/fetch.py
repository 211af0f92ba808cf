"""Download the published files of a dataset; the receipt lists them with their checksums."""

from pathlib import Path

from nonsmooth.datasets.fetching import fetch
from nonsmooth.files import write_json
from nonsmooth.joblog import job_log

if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        receipt = Path(snakemake.output[0])
        name = snakemake.wildcards.dataset
        # Not a parameter, whose change would fetch what is there again.
        mirrors = snakemake.config.get("datasets", {}).get(name, {}).get("mirrors", [])
        files = fetch(name, snakemake.params.splits, receipt.parent, mirrors)
        write_json(receipt, files)
