"""Names and values that a shell would run: none of them does."""

import os
import shutil
import subprocess
import sys

import pytest

from .conftest import ROOT, copy_project

# The shell that reads one of these as code leaves a file.
HOSTILE = [
    "a; touch pwned;",
    'a" ; touch pwned; "',
    "a'; touch pwned; '",
    "$(touch pwned)",
    "`touch pwned`",
    "a\\$(b) & |",
]
MAKE = ["$(shell touch pwned)", "${shell touch pwned}"]
FASHION = "/usr/share/datasets/fashion-mnist"


@pytest.fixture
def make(tmp_path):
    """Runs make in a project of its own, with the Snakemake that is there, which only plans."""
    project = copy_project(tmp_path)
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (programs / "snakemake").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m snakemake -n -q "$@"\n')
    (programs / "snakemake").chmod(0o755)
    (tmp_path / ".venv/.ready").touch()
    environment = {**os.environ, "PYTHONPATH": str(project.path / "workflow/lib")}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["make", *arguments], cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=120
        )

    run.project = project
    return run


@pytest.mark.parametrize("name", HOSTILE + MAKE)
def test_make_reads_no_command_in_the_name_of_a_configuration(make, name):
    result = make(f"CONFIG={name}")
    assert result.returncode != 0
    assert f"CONFIG: there is no file {name}\n" in result.stdout
    assert not list(make.project.path.rglob("pwned*"))


def test_make_takes_a_configuration_of_any_name(make, tiny):
    name = "".join([*HOSTILE, *MAKE]).replace("/", "")
    file = make.project.write_config(tiny, f"{name}.yaml")
    result = make(f"CONFIG={file}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Running {file}:" in result.stdout
    assert "Report: figures/tiny/report.html" in result.stdout
    assert not list(make.project.path.rglob("pwned*"))


def test_a_run_in_a_folder_of_any_name(finished, tmp_path, tiny):
    project = copy_project(tmp_path / "a b'c\"d$(touch pwned)`touch pwned`;&e", finished)
    project.snakemake("--configfile", project.write_config(tiny, "a b'c$(touch pwned).yaml"))
    assert (project.path / "figures/tiny/report.html").exists()
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.skipif(not os.path.isdir(FASHION), reason="the images are not on this machine")
def test_images_in_a_folder_of_any_name(tmp_path, tiny):
    folder = tmp_path / "".join(HOSTILE)
    shutil.copytree(FASHION, folder)
    project = copy_project(tmp_path / "project")
    tiny["maxpool"].pop("ties")
    tiny["maxpool"]["train"][0]["dataset"] = ["fashion_mnist"]
    tiny["datasets"] = {"fashion_mnist": {"path": str(folder)}}
    project.snakemake("data/prepared/fashion_mnist/test.npy", "--configfile", project.write_config(tiny))
    assert not list(tmp_path.rglob("pwned*"))


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="Slurm is not on this machine")
@pytest.mark.parametrize("name", ["$(touch pwned)", "`touch pwned`", "a'\"; touch pwned; '", "\\"])
def test_what_a_shell_would_run_is_not_handed_to_jobs_of_slurm(planning, tiny, name):
    """Snakemake writes --config into the command of a job, which shells read on both machines."""
    value = name.replace("\\", "\\\\").replace('"', '\\"')
    override = f'datasets={{mnist: {{path: "/data/{value}"}}}}'
    arguments = (
        "--configfile",
        planning.write_config(tiny),
        "--executor",
        "slurm",
        "--jobs",
        "1",
        "--config",
        override,
    )
    result = planning.snakemake(*arguments, check=False)
    assert result.returncode != 0
    assert "cannot be handed to jobs on other machines; write a value of --config into a configuration" in result.stdout
    assert not list(planning.path.rglob("pwned*"))
