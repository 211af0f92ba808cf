"""A copy of the project in which Snakemake runs for real, and a preset small enough for it."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "run": "tiny",
    "maxpool": {
        "train": [
            {
                "dataset": ["mnist_5k"],
                "architecture": ["lenet5"],
                "normalization": ["none"],
                "optimizer": ["sgd"],
                "precision": ["float16"],
                "rule": ["native", "hybrid"],
                "beta": [10000],
                "evaluation": ["composed"],
                "seeds": [0],
                "epochs": 1,
                "learning_rate": 0.05,
            }
        ],
        "ties": {
            "dataset": "mnist_5k",
            "architecture": "lenet5",
            "image": 0,
            "seed": 0,
            "precisions": ["float16", "float32"],
        },
    },
}
# The folder of a cell below results/<run>/maxpool/train.
CELL = "mnist_5k/lenet5/none/sgd/float16/{rule}/relu-0/seed0"


@dataclass
class Project:
    """A project folder and how to run Snakemake in it, on its own copy of the library."""

    path: Path

    def snakemake(self, *arguments: str, cores: int = 2, check: bool = True) -> subprocess.CompletedProcess:
        process = self.start(*arguments, cores=cores)
        try:
            output, _ = process.communicate(timeout=1800)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        result = subprocess.CompletedProcess(process.args, process.returncode, output)
        if check and result.returncode != 0:
            pytest.fail(f"snakemake {' '.join(arguments)} failed:\n{result.stdout[-6000:]}")
        return result

    def start(self, *arguments: str, cores: int = 2) -> subprocess.Popen:
        """Snakemake in the background, with one stream of text."""
        environment = {**os.environ, "PYTHONPATH": str(self.path / "workflow/lib")}
        command = [sys.executable, "-m", "snakemake", *arguments, "--cores", str(cores)]
        return subprocess.Popen(
            command, cwd=self.path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def planned(self, *arguments: str) -> dict[str, int]:
        """Jobs by rule that a run would execute."""
        output = self.snakemake(*arguments, "--dry-run").stdout
        table = re.search(r"^job +count\n-[- ]+\n(.*?)\n\n", output, re.MULTILINE | re.DOTALL)
        counts = dict(line.split() for line in table[1].splitlines()) if table else {}
        return {rule: int(count) for rule, count in counts.items() if rule != "total"}

    def write_config(self, config: dict, name: str = "tiny.yaml") -> str:
        (self.path / "config" / name).write_text(yaml.safe_dump(config))
        return f"config/{name}"

    def files(self, pattern: str) -> dict[str, int]:
        """Files below the project with their modification times."""
        return {
            str(path.relative_to(self.path)): path.stat().st_mtime_ns
            for path in self.path.glob(pattern)
            if path.is_file()
        }


def scripts(snakemake: subprocess.Popen, name: str) -> list[psutil.Process]:
    """The processes that run a script of this name, forked or not."""
    children = psutil.Process(snakemake.pid).children(recursive=True)
    return [
        child
        for child in children
        if child.name().endswith(name) or any(word.endswith(name) for word in child.cmdline()[1:2])
    ]


def copy_project(target: Path, prepared: Project | None = None) -> Project:
    """A new project, with the prepared images of another one if one is given: making them takes a while."""
    generated = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("workflow", "config", "profiles", "data/benchmarks", "data/claims", "data/published"):
        shutil.copytree(ROOT / name, target / name, ignore=generated)
    shutil.copy(ROOT / "Snakefile", target)
    if prepared is not None:
        shutil.copytree(prepared.path / "data/prepared", target / "data/prepared")
    return Project(target)


@pytest.fixture(scope="session")
def planning(tmp_path_factory) -> Project:
    """A project in which nothing is run, for dry runs."""
    return copy_project(tmp_path_factory.mktemp("planning"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Project:
    """A project in which the tiny preset has been run. Tests leave it finished."""
    project = copy_project(tmp_path_factory.mktemp("finished"))
    project.snakemake("--configfile", project.write_config(TINY))
    return project


@pytest.fixture
def tiny() -> dict:
    """A copy of the tiny preset to change."""
    return yaml.safe_load(yaml.safe_dump(TINY))
