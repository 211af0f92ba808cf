"""The project's own files: formatting, lints, the lock, the front doors, and what the README promises."""

import itertools
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement

from .conftest import ROOT


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=300)


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("snakefmt", "--check", "Snakefile", "workflow/rules"),
    ],
    ids=" ".join,
)
def test_format_and_lint(command):
    result = run(sys.executable, "-m", *command)
    assert result.returncode == 0, result.stdout + result.stderr


def test_snakemake_lints_are_only_the_one_environment_of_all_rules():
    """One locked environment serves all rules, so Snakemake's wish for one per rule is the only lint left."""
    result = run(sys.executable, "-m", "snakemake", "--lint")
    lints = re.findall(r"^    \* (.*?):?$", result.stderr, re.MULTILINE)
    assert set(lints) == {"Specify a conda environment or container for each rule."}, result.stderr


def lock() -> dict[str, list[Requirement]]:
    pinned: dict[str, list[Requirement]] = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement = Requirement(line)
            pinned.setdefault(requirement.name.lower(), []).append(requirement)
    return pinned


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    pinned = lock()
    for requirement in map(Requirement, wanted):
        versions = [next(iter(pin.specifier)).version for pin in pinned[requirement.name.lower()]]
        assert all(requirement.specifier.contains(version) for version in versions), requirement
    for pins in pinned.values():
        assert all([specifier.operator for specifier in pin.specifier] == ["=="] for pin in pins)


def test_the_lock_names_no_host():
    assert "://" not in (ROOT / "requirements.txt").read_text()


def test_conda_users_get_the_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, nested = environment["dependencies"]
    assert pip == "pip"
    assert nested == {"pip": ["-r requirements.txt", "-e ."]}
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert Requirement(f"python{supported}").specifier.contains(python.split("=")[1])


def blocks(file: str, language: str) -> list[str]:
    """The blocks of code of a document in a language, or in none."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / file).read_text(), re.MULTILINE | re.DOTALL)


def snakemake_commands(file: str) -> list[str]:
    lines = "\n".join(blocks(file, "")).splitlines()
    return [line.split(" # ")[0].strip() for line in lines if line.startswith("snakemake")]


COMMANDS = [
    command for file in ("README.md", "config/README.md", "docs/cluster.md") for command in snakemake_commands(file)
]
# Presets are planned, and Snakemake's report is made, in other tests; a person writes mine.yaml.
ELSEWHERE = ("--report", "paper.yaml", "mine.yaml")


@pytest.mark.parametrize("command", list(dict.fromkeys(COMMANDS)))
def test_the_readmes_commands_can_be_planned(planning, command):
    if any(words in command for words in ELSEWHERE):
        pytest.skip("in another test")
    _, *arguments = shlex.split(command)
    result = planning.snakemake(*arguments, "--dry-run", check=False)
    if re.search(r"datasets\.\w+\.path: .* (lacks|is not a folder)", result.stdout):
        pytest.skip("the images are not on this machine")
    assert result.returncode == 0, result.stdout


def test_the_readme_has_commands_to_test():
    assert len(COMMANDS) >= 12


def test_files_that_the_readmes_name_are_there():
    """Those in tables and links; results and figures are made."""
    for file in ("README.md", "config/README.md", "data/README.md", "data/published/README.md", "docs/cluster.md"):
        text = (ROOT / file).read_text()
        named = re.findall(r"\]\(([^)#:]+)\)", text)
        for name in named:
            assert (ROOT / file).parent.joinpath(name).exists(), f"{file}: {name}"
        for name in re.findall(r"`((?:config|workflow|docs|tests)/[\w./-]*)`", text):
            assert (ROOT / name).exists(), f"{file}: {name}"


def test_the_readmes_python_runs():
    import torch
    import torchvision

    layers = [
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(36, 2),
    ]
    names = {
        "x": torch.rand(2, 3, 8, 8),
        "model": torchvision.models.vgg11(weights=None, num_classes=2),
        "network": torch.nn.Sequential(*layers),
        "images": torch.zeros(2, 3, 8, 8),  # flat, so that nothing is routed differently
        "labels": torch.tensor([0, 1]),
    }
    for block in blocks("README.md", "python"):
        exec(block, names)
    assert torch.equal(names["y"], torch.nn.functional.max_pool2d(names["x"], 2))
    assert "hybrid-1000-composed" in repr(names["model"])
    assert names["found"] in ("compensation", "identical")
    assert not any(isinstance(module, torch.nn.ReLU) for module in names["model"].modules())


def test_make_help_and_clean():
    assert "make test" in run("make", "help").stdout
    result = run("make", "clean")
    assert result.returncode == 0
    assert "Nothing was deleted" in result.stdout
