"""A copy of the project that runs on the Slurm of tests/cluster/slurm.sh, and on no other."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workflow.conftest import Project, copy_project

from .summary import summary

HERE = Path(__file__).parent
# The test Slurm has no accounting, and the profile is for runs of days.
HERE_AND_NOW = (
    *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2"),
    *("--max-status-checks-per-second", "0.5", "--latency-wait", "10"),
)
SUMMARIES = pytest.StashKey[dict[str, Path]]()


class ClusterProject(Project):
    """A project whose runs go through profiles/slurm."""

    def start(self, *arguments: str, cores: int | None = None, stdout=subprocess.PIPE) -> subprocess.Popen:
        command = [sys.executable, "-m", "snakemake", "--workflow-profile", "profiles/slurm", *HERE_AND_NOW, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(self.path / "workflow/lib")}
        return subprocess.Popen(
            command, cwd=self.path, env=environment, text=True, stdout=stdout, stderr=subprocess.STDOUT
        )


def slurm(*command: str) -> str:
    """Run a command of Slurm and give back what it prints."""
    return subprocess.run(command, text=True, capture_output=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, request):
    """A project with the jobs of jobs.smk. Its Slurm jobs are cancelled at the end."""
    if shutil.which("scontrol") is None or "= nonsmooth\n" not in slurm("scontrol", "show", "config"):
        pytest.skip("the Slurm of the tests is not up: tests/cluster/slurm.sh start")
    project = ClusterProject(copy_project(tmp_path_factory.mktemp("cluster")).path)
    shutil.copy(HERE / "jobs.smk", project.path)
    with (project.path / "Snakefile").open("a") as snakefile:
        snakefile.write('\n\ninclude: "jobs.smk"\n')
    request.config.stash.setdefault(SUMMARIES, {})[request.module.__name__] = project.path
    yield project
    slurm("scancel", "--user", "root")


def pytest_terminal_summary(terminalreporter, config):
    for name, path in config.stash.get(SUMMARIES, {}).items():
        terminalreporter.section(f"Slurm: {name}")
        terminalreporter.write_line(summary(path))
