"""Snakemake runs whose training jobs are killed or stopped: what was saved survives Snakemake's clean-up, and the rerun goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from .conftest import CELL, Project, copy_project, scripts

# Long enough to be met in training, and saved after every epoch.
EPOCHS = 20
CELL_FOLDER = "results/tiny/maxpool/train/" + CELL.format(rule="native")
METRICS = f"{CELL_FOLDER}/metrics.csv"


@pytest.fixture
def project(tmp_path: Path, finished: Project, tiny: dict) -> Project:
    project = copy_project(tmp_path / "project", prepared=finished)
    (block,) = tiny["maxpool"]["train"]
    block |= {"rule": ["native"], "epochs": EPOCHS}
    del block["beta"], block["evaluation"]
    project.write_config({**tiny, "checkpoints": {"epochs": 1}})
    return project


def start(project: Project) -> tuple[subprocess.Popen, psutil.Process]:
    """Snakemake, and its job that trains, once this has saved something."""
    snakemake = project.start(METRICS, "--configfile", "config/tiny.yaml")
    checkpoint = project.path / CELL_FOLDER / "checkpoint.pt"
    while not checkpoint.exists():
        assert snakemake.poll() is None, snakemake.communicate()[0]
        time.sleep(0.05)
    (job,) = scripts(snakemake, "train.py")
    return snakemake, job


def interrupted(project: Project) -> list[dict]:
    return json.loads((project.path / CELL_FOLDER / "record.json").read_text())["interrupted"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_job_goes_on(number: signal.Signals, project: Project) -> None:
    """What a scheduler does to a job; Snakemake reports the failure and deletes the job's outputs."""
    snakemake, job = start(project)
    job.send_signal(number)
    output, _ = snakemake.communicate(timeout=120)
    assert snakemake.returncode == 1, output
    assert "Error in rule maxpool_train" in output
    if number == signal.SIGTERM:
        assert (
            f"interrupted by SIGTERM; saved in {CELL_FOLDER}/checkpoint.pt, from where the same command goes on"
            in output
        )
    check_that_it_goes_on(project)


def test_a_run_that_is_killed_goes_on(project: Project) -> None:
    """All its processes at once, as if the machine had stopped; Snakemake's lock stays."""
    snakemake, _ = start(project)
    for process in [*psutil.Process(snakemake.pid).children(recursive=True), snakemake]:
        os.kill(process.pid, signal.SIGKILL)
    snakemake.communicate()
    project.snakemake("--unlock", "--configfile", "config/tiny.yaml")
    check_that_it_goes_on(project)


def test_a_run_that_is_interrupted_from_the_keyboard_goes_on(project: Project) -> None:
    snakemake, job = start(project)
    # A terminal sends it to all.
    for process in (job.pid, snakemake.pid):
        os.kill(process, signal.SIGINT)
    output, _ = snakemake.communicate(timeout=120)
    assert "interrupted by SIGINT; saved in" in output
    check_that_it_goes_on(project)


def check_that_it_goes_on(project: Project) -> None:
    folder = project.path / CELL_FOLDER
    assert not (folder / "metrics.csv").exists()
    assert (folder / "checkpoint.pt").exists()
    project.snakemake(METRICS, "--configfile", "config/tiny.yaml")
    (part,) = interrupted(project)
    assert part["steps"] > 0
    assert pd.read_csv(folder / "metrics.csv").epoch.tolist() == list(range(1, EPOCHS + 1))
    assert not (folder / "checkpoint.pt").exists()


def test_another_configuration_is_refused_and_nothing_is_lost(project: Project, tiny: dict) -> None:
    snakemake, job = start(project)
    job.kill()
    snakemake.communicate(timeout=120)
    saved = (project.path / CELL_FOLDER / "checkpoint.pt").read_bytes()
    other = project.snakemake(
        METRICS, "--configfile", "config/tiny.yaml", "--config", "epochs=5", "run=tiny", check=False
    )
    assert other.returncode == 1
    assert f"{CELL_FOLDER}/checkpoint.pt: of a run with epochs {EPOCHS}, not 5; delete it to start" in other.stdout
    assert (project.path / CELL_FOLDER / "checkpoint.pt").read_bytes() == saved
    check_that_it_goes_on(project)
