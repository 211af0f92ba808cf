"""docs/extending.md, word for word: a dataset, an architecture and a rule of one's own, trained."""

import hashlib
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from .conftest import ROOT, copy_project

BLOCK = re.compile(r"^```(?:python|yaml)\n# (?P<file>\S+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^```\nsnakemake (?P<arguments>.*)\n```", re.MULTILINE)


def write_squares(folder):
    """Dark images with a bright square, on the left for label 0 and on the right for label 1."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    checksums = {}
    for split, count in (("train", 400), ("test", 100)):
        labels = np.arange(count, dtype=np.uint8) % 2
        images = draws.integers(0, 60, (count, 1, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[0, 8:20, 2 + 14 * label : 12 + 14 * label] += 150
        np.savez(folder / f"{split}.npz", images=images, labels=labels)
        checksums[split] = hashlib.sha256((folder / f"{split}.npz").read_bytes()).hexdigest()
    return checksums


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A project with the blocks of the document applied, and its preset run."""
    project = copy_project(tmp_path_factory.mktemp("extended"))
    checksums = write_squares(project.path / "squares")
    document = (ROOT / "docs/extending.md").read_text()
    files = set()
    for block in BLOCK.finditer(document):
        text = block["text"]
        for split, checksum in checksums.items():
            text = text.replace(f"{split.upper()}_CHECKSUM", checksum)
        path = project.path / block["file"]
        with path.open("a") as file:
            file.write("\n\n" + text)
        files.add(block["file"])
    assert len(files) == 7
    project.snakemake(*COMMAND.search(document)["arguments"].split())
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
