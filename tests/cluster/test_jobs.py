"""Real jobs through sbatch: a small preset, and jobs that fail. The long form is test_outages.py."""

import json
import re
from collections import Counter

import pytest

from .conftest import slurm

CELLS = {
    "run": "cells",
    "maxpool": {
        "train": [
            {
                "dataset": ["mnist_5k"],
                "architecture": ["lenet5"],
                "normalization": ["none"],
                "optimizer": ["sgd"],
                "precision": ["float16", "float32"],
                "rule": ["native", "minimal"],
                "seeds": [0, 1],
                "epochs": 1,
                "learning_rate": 0.05,
            }
        ]
    },
}
# Trains for two minutes, when one is left alone.
LONG = CELLS["maxpool"]["train"][0] | {"precision": ["float64"], "rule": ["native"], "seeds": [0], "epochs": 200}
LONG_CELL = "maxpool/train/mnist_5k/lenet5/none/sgd/float64/native/relu-0/seed0"
CELLS["maxpool"]["train"].append(LONG)
# Two cells of a preset that takes a GPU if there is one. Slurm pretends: PyTorch sees none, and trains on the CPU.
WITH_GPU = {
    "run": "with_gpu",
    "device": "auto",
    "maxpool": {"train": [CELLS["maxpool"]["train"][0] | {"precision": ["float32"], "rule": ["native"]}]},
}


def submitted(output: str) -> dict[str, list[str]]:
    """Slurm's job ids by folder of the log, which names the rule and the wildcards."""
    found: dict[str, list[str]] = {}
    for job, name in re.findall(r"with SLURM jobid (\d+) \(log: .*?/slurm_logs/rule_(\S+)/\d+\.log\)", output):
        found.setdefault(name, []).append(job)
    return found


def shown(job: str) -> dict[str, str]:
    """What Slurm knows of a job."""
    return dict(word.split("=", 1) for word in slurm("scontrol", "show", "job", job).split() if "=" in word)


@pytest.fixture(scope="module")
def output(cluster) -> str:
    """All jobs in one run, since most of them wait."""
    targets = [
        "results/cells/maxpool/runs.csv",
        "jobs/fails.txt",
        "jobs/gpu-0.txt",
        "jobs/gpu-1.txt",
    ]
    config = cluster.write_config(CELLS)
    # A minute at first, two and three at the next attempts; Slurm knows no shorter time.
    minutes = ("--set-resources", "maxpool_train:runtime=attempt")
    result = cluster.snakemake(*targets, "--configfile", config, *minutes, check=False)
    assert result.returncode == 1, result.stdout
    assert submitted(result.stdout), result.stdout
    return result.stdout


def test_cells_are_trained_by_jobs_and_gathered_beside_snakemake(cluster, output):
    assert len((cluster.path / "results/cells/maxpool/runs.csv").read_text().splitlines()) == 1 + 9
    rules = Counter(name.split("/")[0] for name in submitted(output))
    assert rules == {"maxpool_train": 9, "fails": 1, "gpu": 2}


def test_a_cell_over_its_time_limit_is_saved_and_goes_on_with_more_time(cluster, output):
    (jobs,) = [jobs for name, jobs in submitted(output).items() if "float64" in name]
    attempts = [shown(job) for job in jobs]
    assert [job["TimeLimit"] for job in attempts] == ["00:01:00", "00:02:00", "00:03:00"][: len(jobs)]
    assert [job["JobState"] for job in attempts] == ["TIMEOUT"] * (len(jobs) - 1) + ["COMPLETED"]
    record = json.loads((cluster.path / "results/cells" / LONG_CELL / "record.json").read_text())
    steps = [part["steps"] for part in record["interrupted"]]
    assert len(steps) == len(jobs) - 1 > 0
    assert 0 < steps[0] < record["steps"]
    assert "interrupted by SIGTERM; saved in" in output


def test_a_failing_job_is_reported_with_its_log_and_stops_no_other(output):
    assert len(submitted(output)["fails"]) == 3
    report = output[output.rindex("Error in rule fails:") :]
    assert "this is why it fails" in report
    assert "logs/jobs/fails.log" in report


def test_only_a_job_that_asks_for_a_gpu_sees_one(cluster, output):
    assert (cluster.path / "jobs/gpu-0.txt").read_text() == "none\n"
    assert (cluster.path / "jobs/gpu-1.txt").read_text() in ("0\n", "1\n")
    assert all("gres/gpu" not in str(shown(job)) for job in submitted(output)["gpu/0"])
    cells = [jobs for name, jobs in submitted(output).items() if name.startswith("maxpool_train")]
    assert all("gres/gpu" not in str(shown(job)) for jobs in cells for job in jobs)


@pytest.fixture(scope="module")
def cells_with_gpu(cluster, output) -> list[list[dict[str, str]]]:
    """What Slurm knows of every attempt at cells that ask for a GPU, and at first for too little memory."""
    table = cluster.path / "workflow/lib/nonsmooth/architectures/__init__.py"
    table.write_text(table.read_text().replace("memory_mb=2000", "memory_mb=450"))
    result = cluster.snakemake("results/with_gpu/maxpool/runs.csv", "--configfile", cluster.write_config(WITH_GPU))
    return [
        [shown(job) for job in jobs]
        for name, jobs in submitted(result.stdout).items()
        if name.startswith("maxpool_train")
    ]


def test_with_device_auto_a_cell_asks_for_one_gpu(cells_with_gpu):
    assert len(cells_with_gpu) == 2
    assert all(job["TresPerJob"] == "gres:gpu:1" for jobs in cells_with_gpu for job in jobs)


def test_a_cell_over_its_memory_limit_gets_more(cells_with_gpu):
    for jobs in cells_with_gpu:
        assert [job["MinMemoryNode"] for job in jobs] == ["450M", "900M", "1350M"][: len(jobs)]
        assert [job["JobState"] in ("FAILED", "OUT_OF_MEMORY") for job in jobs] == [True] * (len(jobs) - 1) + [False]
        assert len(jobs) > 1, "450 MB were enough"
