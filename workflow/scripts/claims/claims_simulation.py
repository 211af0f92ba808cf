"""How often the rule of decision holds, fails and errs, on simulated differences."""

from nonsmooth.joblog import job_log
from nonsmooth.simulation import simulate
from nonsmooth.tables import write_csv

REPEATS = 500

if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        settings = snakemake.params.settings
        write_csv(simulate(REPEATS, settings["alpha"], settings["power"]), snakemake.output[0])
