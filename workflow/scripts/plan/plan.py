"""Print what is left to run of a preset and what it would take: by part, dataset, network and precision, and in all."""

from pathlib import Path

from nonsmooth import costs, plan
from nonsmooth.joblog import job_log

if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        config, device = snakemake.params.config, snakemake.params.device
        benchmarks = costs.find(Path("results"), device, config["threads"])
        jobs = plan.jobs_table(config, benchmarks, Path("results") / config["run"])
        print(plan.write(plan.summary(jobs)), end="\n\n")
        print(*plan.sentences(config, jobs, benchmarks, device, snakemake.threads), sep="\n")
