"""docs/extending.md, word for word: a dataset, an architecture and a rule of one's own, trained."""

import re
import subprocess
import sys

import pandas as pd
import pytest

from .conftest import ROOT, copy_project

BLOCK = re.compile(r"^```(?:python|yaml)\n# (?P<file>\S+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^```\nsnakemake (?P<arguments>.*)\n```", re.MULTILINE)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A project with the blocks of the document applied, and its preset run."""
    project = copy_project(tmp_path_factory.mktemp("extended"))
    blocks = list(BLOCK.finditer((ROOT / "docs/extending.md").read_text()))
    assert len({block["file"] for block in blocks}) == 8
    first, *others = blocks
    (project.path / first["file"]).write_text(first["text"])
    made = subprocess.run([sys.executable, first["file"]], cwd=project.path, text=True, capture_output=True, check=True)
    checksums = dict(line.split() for line in made.stdout.splitlines())
    for block in others:
        text = block["text"]
        for split, checksum in checksums.items():
            text = text.replace(f"{split.upper()}_CHECKSUM", checksum)
        with (project.path / block["file"]).open("a") as file:
            file.write("\n\n" + text)
    project.snakemake(*COMMAND.search((ROOT / "docs/extending.md").read_text())["arguments"].split())
    return project


def test_the_extended_preset_trains_and_reports(extended):
    runs = pd.read_csv(extended.path / "results/extended/maxpool/runs.csv", keep_default_na=False, na_values=[""])
    assert len(runs) == 2
    assert set(runs.rule) == {"native", "last"}
    assert runs.beta.isna().sum() == 1
    assert runs.test_accuracy.max() > 0.9
    report = (extended.path / "figures/extended/report.html").read_text()
    assert "Small on Squares" in report
    assert "rule last" in report


def test_a_rule_of_ones_own_chooses_the_last_maximum(extended):
    code = """
import torch
from nonsmooth.pooling import max_pool2d
from nonsmooth.rules import parse_rule
x = torch.ones(1, 1, 2, 2, requires_grad=True)
max_pool2d(x, 2, rule=parse_rule("last")).backward()
print(x.grad.flatten().tolist())
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(extended.path / "workflow/lib")},
        text=True,
        capture_output=True,
    )
    assert result.stdout.strip() == "[0.0, 0.0, 0.0, 1.0]", result.stderr
