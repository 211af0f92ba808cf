"""What became of the jobs of a project on Slurm, from the logs of Snakemake and of Slurm: python summary.py PROJECT"""

import re
import sys
from collections import Counter
from pathlib import Path

JOBS = Path("/var/log/slurm/jobs.log")


def states(slurm_ids: set[str]) -> Counter:
    """How jobs ended by Slurm's own record (JobCompType=jobcomp/filetxt)."""
    if not JOBS.exists():
        return Counter()
    records = (dict(field.split("=", 1) for field in line.split() if "=" in field) for line in JOBS.open())
    return Counter(record["JobState"] for record in records if record["JobId"] in slurm_ids)


def summary(project: Path) -> str:
    """Jobs submitted, retried, recovered and failed over all runs of a project, and their total time."""
    submitted, retried, recovered, failed, seconds = set(), 0, 0, Counter(), 0
    for log in sorted(project.glob(".snakemake/log/*.snakemake.log")):
        text = log.read_text()
        finished = set(re.findall(r"^Finished jobid: (\d+)", text, re.MULTILINE))
        restarts = re.findall(r"^Trying to restart job (\d+)\.", text, re.MULTILINE)
        submitted |= set(re.findall(r"submitted with SLURM jobid (\d+)", text))
        retried += len(restarts)
        recovered += len(set(restarts) & finished)
        errors = re.findall(r"^Error in rule (\w+):.*?\n    jobid: (\d+)$", text, re.MULTILINE | re.DOTALL)
        failed.update(rule for rule, job in dict.fromkeys(errors) if job not in finished)
        for hours, minutes, rest in re.findall(r"^Elapsed time: (\d+):(\d+):([\d.]+)", text, re.MULTILINE):
            seconds += int(hours) * 3600 + int(minutes) * 60 + float(rest)
    lines = {
        "jobs submitted": len(submitted),
        "ended as": ", ".join(f"{state} {count}" for state, count in states(submitted).most_common()),
        "retried": retried,
        "recovered by a retry": recovered,
        "failed for good": ", ".join(f"{rule} {count}" for rule, count in failed.items()) or "none",
        "total time": f"{seconds:.0f} s",
    }
    return "\n".join(f"{name:22}{value}" for name, value in lines.items())


if __name__ == "__main__":
    print(summary(Path(sys.argv[1])))
