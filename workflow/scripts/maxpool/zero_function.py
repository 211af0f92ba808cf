"""Tabulate the derivatives that autodiff returns for programs of the function zero."""

from nonsmooth import tables
from nonsmooth.joblog import job_log
from nonsmooth.zones.zero_function import readable, zero_table


def zero_function(settings: dict, outputs: dict[str, str]) -> None:
    """Write every value to `values`, and the derivatives for readers to `csv`, `md` and `tex`."""
    table = zero_table(settings["precisions"], settings["x"], settings["t"])
    tables.write_csv(table, outputs["values"])
    tables.write(readable(table), outputs)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        zero_function(snakemake.params.zero_function, dict(snakemake.output.items()))
