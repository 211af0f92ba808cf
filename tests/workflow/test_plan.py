"""`snakemake plan` and `make plan`: they print, whatever else is there or running, and change nothing."""

import re
import subprocess
from pathlib import Path

import pytest

from nonsmooth import config as presets
from nonsmooth import costs

from .conftest import ROOT, copy_project

PAPER = ("--configfile", "config/presets/paper.yaml")


def counts(output: str) -> tuple[int, int]:
    """Cells to run and finished ones, in the sentence and as the sums of the table."""
    (found,) = re.findall(r"^([\d,]+) cells to run, ([\d,]+) finished;", output, re.MULTILINE)
    rows = re.findall(r"^(?:search|train|weights|zones) .*", output, re.MULTILINE)
    numbers = [[int(number.replace(",", "")) for number in row.split()[4:6]] for row in rows]
    sums = tuple(map(sum, zip(*numbers, strict=True)))
    assert sums == tuple(int(number.replace(",", "")) for number in found)
    return sums


def test_the_paper_preset_is_planned_in_one_job(planning):
    output = planning.snakemake("plan", *PAPER).stdout
    jobs = list(costs.jobs(presets.read(ROOT / PAPER[1])))
    assert counts(output) == (len(jobs), 0)
    assert "1 of 1 steps" in output
    assert re.search(r"core-hours: [\d,.]+ hours with 2 at a time on 2 cores", output)
    assert "Times from data/benchmarks" in output
    assert planning.files("results/paper/**/*") == planning.files("figures/paper/**/*") == {}


def test_a_gpu_that_nobody_measured_is_not_known(planning):
    output = planning.snakemake("plan", *PAPER, "--config", "device=cuda", "seeds=[0]").stdout
    assert "Hours are not known: run `snakemake benchmark --config device=cuda` first" in output
    assert counts(output)[0] > 100


def test_overrides_are_planned(planning):
    few = counts(planning.snakemake("plan", "--config", "seeds=[0]").stdout)
    assert 0 < few[0] < counts(planning.snakemake("plan").stdout)[0]


def test_finished_cells_are_counted_and_checked(finished):
    """And nothing is made, or to be made again."""
    config = ("--configfile", "config/tiny.yaml")
    before = finished.files("results/**/*") | finished.files("figures/**/*")
    assert counts(finished.snakemake("plan", *config).stdout) == (0, 2)
    output = finished.snakemake("plan_check", *config).stdout
    assert re.search(r"^all +2 ", output, re.MULTILINE)
    assert finished.files("results/**/*") | finished.files("figures/**/*") == before
    assert finished.planned(*config) == {}


def test_a_broken_table_is_one_error(tmp_path):
    project = copy_project(tmp_path)
    folder = tmp_path / "results/mine/benchmark"
    folder.mkdir(parents=True)
    for name in costs.TABLES:
        (folder / f"{name}.csv").write_text("broken")
    result = project.snakemake("plan", check=False)
    assert result.returncode != 0
    line = r"^ValueError: results/mine/benchmark/architectures.csv: not a table of `snakemake benchmark`.*plan.log\)$"
    assert re.search(line, result.stdout, re.MULTILINE)
    assert "cells to run" not in result.stdout


def test_a_run_in_the_same_folder_keeps_its_locks(tmp_path):
    """Without --nolock Snakemake would delete them all when the plan is printed."""
    project = copy_project(tmp_path)
    locks = tmp_path / ".snakemake/locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").write_text("data/prepared/mnist_5k/train.npy\n")
    (locks / "0.output.lock").write_text("results/default/maxpool/runs.csv\n")
    before = project.files(".snakemake/locks/*")
    assert "cells to run" in project.snakemake("plan", "--nolock").stdout
    assert project.files(".snakemake/locks/*") == before


@pytest.fixture
def environment() -> Path:
    """Make sets an environment up where there is none."""
    ready = ROOT / ".venv/.ready"
    if not ready.exists():
        pytest.skip("no environment of make's")
    return ready


def test_make_plan(environment):
    result = subprocess.run(
        ["make", "plan", "CONFIG=config/config.yaml"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "cells to run" in result.stdout
