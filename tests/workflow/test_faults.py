"""What goes wrong around a run: one clear message, nothing finished is lost, and the same command goes on."""

import signal
import subprocess
import time

import psutil
import pytest

from .conftest import CELL, copy_project

CONFIG = ("--configfile", "config/tiny.yaml")
RUNS = "results/tiny/maxpool/runs.csv"
NATIVE, COMPOSED = (f"maxpool/train/{CELL.format(rule=rule)}" for rule in ("native", "hybrid-10000-composed"))


@pytest.fixture
def half_run(finished, tmp_path, tiny, make_disk):
    """A project with one of two cells, whose results are on a small disk of their own."""
    project = copy_project(tmp_path, finished)
    project.write_config(tiny)
    make_disk(tmp_path / "results", "2m")
    project.snakemake(f"results/tiny/{NATIVE}/metrics.csv", *CONFIG)
    return project


def cells(project) -> dict[str, int]:
    return project.files("results/**/seed0/*")


def test_a_full_disk_is_said_before_training_and_keeps_finished_cells(half_run, fill_disk):
    kept = cells(half_run)
    (half_run.path / f"results/tiny/{COMPOSED}").mkdir(parents=True)
    filler = fill_disk(half_run.path / "results")

    result = half_run.snakemake(RUNS, *CONFIG, "--keep-going", check=False)

    assert result.returncode != 0
    said = [line for line in result.stdout.splitlines() if line.startswith("OSError") and "(details: " in line]
    assert len(said) == 1, result.stdout
    assert f"results/tiny/{COMPOSED}: nothing can be written there (No space left on device)" in said[0]
    assert "epoch 1" not in result.stdout
    assert "free some space there and run the same command again" in result.stdout
    assert cells(half_run) == kept
    filler.unlink()
    half_run.snakemake(RUNS, *CONFIG)
    assert kept.items() < cells(half_run).items()


def test_a_read_only_folder_is_said_before_training_and_keeps_finished_cells(half_run):
    kept = cells(half_run)
    results = half_run.path / "results"
    subprocess.run(["mount", "-o", "remount,ro", results], check=True)

    result = half_run.snakemake(RUNS, *CONFIG, check=False)

    assert result.returncode != 0
    assert "results: nothing can be written there; make the folder writable" in result.stdout
    assert "Train lenet5" not in result.stdout
    assert cells(half_run) == kept
    subprocess.run(["mount", "-o", "remount,rw", results], check=True)
    half_run.snakemake(RUNS, *CONFIG)
    assert kept.items() < cells(half_run).items()


def test_a_disk_without_space_for_snakemake_itself_is_one_message(tmp_path, make_disk, fill_disk):
    project = copy_project(make_disk(tmp_path / "project", "32m"))
    filler = fill_disk(project.path)
    result = project.snakemake("--dry-run", check=False)
    assert result.returncode != 0
    assert "no space left on the disk of" in result.stdout
    assert "Traceback" not in result.stdout
    filler.unlink()
    project.snakemake("--dry-run", "--quiet")


def test_a_second_snakemake_is_refused_and_a_killed_one_leaves_a_lock_that_can_be_removed(finished, tmp_path, tiny):
    project = copy_project(tmp_path, finished)
    short = project.write_config({**tiny, "run": "long"}, "short.yaml")
    tiny["maxpool"]["train"][0].update(epochs=1000)
    command = (f"results/long/{NATIVE}/metrics.csv", "--configfile", project.write_config({**tiny, "run": "long"}))
    first = project.start(*command)
    deadline = time.monotonic() + 120
    while not any(project.path.glob("logs/long/**/train/**/*.log")):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    second = project.snakemake(*command, check=False)
    for process in [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]:
        process.kill()
    assert first.wait(30) == -signal.SIGKILL
    first.stdout.close()
    third = project.snakemake(*command, check=False)

    for refused in (second, third):
        assert refused.returncode != 0
        assert "Directory cannot be locked" in refused.stdout
        assert "--unlock" in refused.stdout
        assert "Traceback" not in refused.stdout
    project.snakemake("--unlock", *command)
    project.snakemake(command[0], "--configfile", short)
