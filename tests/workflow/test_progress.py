"""What a person sees of a run in the terminal, and the command that lists failed cells, on real runs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from .conftest import CELL, TINY, Project, copy_project

CONFIG = ("--configfile", "config/tiny.yaml", "--keep-going")
ZONES = {
    "dataset": ["mnist_5k"],
    "architecture": ["lenet5"],
    "normalization": ["none"],
    "precision": ["float32"],
    "compare": [["minimal", "native"]],
    "seeds": [0, 1],
    "minibatches": 2,
}
ZONE = "mnist_5k/lenet5/none/float32/batch128/minimal-vs-native/noise-0/deterministic/seed{}"


TRAIN = [CELL.format(rule=rule) for rule in ("native", "hybrid-10000-composed")]
TARGETS = [f"results/tiny/maxpool/train/{cell}/metrics.csv" for cell in TRAIN]
TARGETS += [f"results/tiny/maxpool/zones/{ZONE.format(seed)}/record.json" for seed in ZONES["seeds"]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Project:
    """A project with nothing but the images."""
    project = copy_project(tmp_path_factory.mktemp("prepared"))
    project.write_config(TINY)
    project.snakemake(*(f"data/prepared/mnist_5k/{split}.npy" for split in ("train", "test")), *CONFIG)
    return project


def failed(project, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(project.path / "workflow/lib")}
    command = [sys.executable, "-m", "nonsmooth.failed", *arguments]
    return subprocess.run(command, cwd=project.path, env=environment, text=True, capture_output=True, check=True).stdout


def told(output: str) -> list[str]:
    """The lines on progress, without the time left."""
    return [line.partition(";")[0] for line in output.splitlines() if line.startswith("Cells: ")]


def job_that_writes(log: Path, snakemake: subprocess.Popen) -> psutil.Process:
    while snakemake.poll() is None:
        for process in psutil.Process(snakemake.pid).children(recursive=True):
            try:
                if str(log) in [file.path for file in process.open_files()]:
                    return process
            except psutil.Error:  # it ended meanwhile
                continue
        time.sleep(0.2)
    raise AssertionError(snakemake.stdout.read())


def test_failed_and_killed_cells_are_counted_and_listed(prepared, tmp_path, tiny):
    """Training fails, since the images for testing are damaged; of two measurements of zones one is killed."""
    project = copy_project(tmp_path, prepared)
    tiny["maxpool"]["zones"] = [ZONES]
    project.write_config(tiny)
    images = tmp_path / "data/prepared/mnist_5k/test.npy"
    content = images.read_bytes()
    images.write_bytes(content[: len(content) // 2])
    log = tmp_path / f"logs/tiny/maxpool/zones/{ZONE.format(1)}.log"

    snakemake = project.start(*TARGETS, *CONFIG, cores=1)
    job = job_that_writes(log, snakemake)
    job.suspend()
    during = failed(project)
    job.send_signal(signal.SIGKILL)
    output, _ = snakemake.communicate(timeout=600)
    after = failed(project)

    assert snakemake.returncode != 0
    assert told(output)[0] == "Cells: 0 of 4 are done already, 4 to run"
    assert "Cells: 0 of 4 done, 0 running, 1 failed" in told(output)
    assert told(output)[-1] == "Cells: 1 of 4 done, 0 running, 3 failed"
    assert "`python -m nonsmooth.failed`" in output
    assert " goes on: " in during
    assert " 1 running, " in during
    assert ", over: 1 of 4 cells done, 0 interrupted, 3 failed, 0 waiting" in after
    assert "\n2 failed: ValueError: data/prepared/mnist_5k/test.npy: not a prepared split of mnist_5k" in after
    for cell in TRAIN:
        assert f"\n  maxpool/train/{cell}, " in after
        assert f"\n  logs/tiny/maxpool/train/{cell}.log\n" in after
    assert "\n1 failed: ended by SIGKILL" in after
    assert f"\n  maxpool/zones/{ZONE.format(1)}, " in after
    assert f"maxpool/zones/{ZONE.format(0)}" not in after

    images.write_bytes(content)
    output = project.snakemake(*TARGETS, *CONFIG).stdout
    assert told(output)[0] == "Cells: 1 of 4 are done already, 3 to run"
    assert told(output)[-1] == "Cells: 4 of 4 done, 0 running, 0 failed"
    assert ", over: 4 of 4 cells done, 0 interrupted, 0 failed, 0 waiting" in failed(project)


def test_a_cell_that_succeeds_in_another_attempt_has_not_failed(prepared, tmp_path, tiny):
    project = copy_project(tmp_path, prepared)
    project.write_config(tiny)
    snakemake = project.start(TARGETS[0], "--retries", "1", *CONFIG)
    job_that_writes(tmp_path / f"logs/tiny/maxpool/train/{TRAIN[0]}.log", snakemake).kill()
    output, _ = snakemake.communicate(timeout=600)
    assert snakemake.returncode == 0, output
    assert told(output)[1:] == ["Cells: 0 of 1 done, 0 running, 1 failed", "Cells: 1 of 1 done, 0 running, 0 failed"]
    assert ", over: 1 of 1 cells done, 0 interrupted, 0 failed, 0 waiting" in failed(project)


def test_quiet_runs_tell_nothing_and_record_all_the_same(prepared, tmp_path, tiny):
    project = copy_project(tmp_path, prepared)
    project.write_config(tiny)
    assert not told(project.snakemake(TARGETS[0], *CONFIG, "--dry-run").stdout)
    assert not (tmp_path / "logs").exists()
    assert not told(project.snakemake(TARGETS[0], *CONFIG, "--quiet", "progress").stdout)
    assert ", over: 1 of 1 cells done, 0 interrupted, 0 failed, 0 waiting" in failed(project)
