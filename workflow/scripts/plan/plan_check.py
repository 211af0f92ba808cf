"""Print what the finished cells of a preset took, as their records say, beside what was expected of them."""

from pathlib import Path

from nonsmooth import costs, plan
from nonsmooth.joblog import job_log

if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        config = snakemake.params.config
        benchmarks = costs.find(Path("results"), snakemake.params.device, config["threads"])
        jobs = plan.jobs_table(config, benchmarks, Path("results") / config["run"])
        print(plan.write(plan.check(jobs)))
