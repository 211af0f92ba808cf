"""A run whose scripts are forked from the preloaded process has the results of one whose scripts start by themselves."""

from __future__ import annotations

import json
import sys

import pandas as pd
import pytest

from .conftest import CELL, copy_project

CELLS = [f"results/tiny/maxpool/train/{CELL.format(rule=rule)}" for rule in ("native", "hybrid-10000-composed")]
TABLE = "results/tiny/maxpool/ties.csv"
OF_A_RUN = {"seconds", "process_seconds", "cpu_seconds", "peak_memory_mib", "git"}


# In place of a script: who started it.
SCRIPT = """
import os, psutil
from pathlib import Path

for path in snakemake.output:
    Path(path).write_text(" ".join(psutil.Process(os.getppid()).cmdline()))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="scripts are preloaded on Linux only")


@pytest.mark.parametrize(("setting", "is_forked"), [("", True), ("0", False)])
def test_scripts_of_a_run_are_forked(setting, is_forked, finished, tmp_path, tiny, monkeypatch) -> None:
    project = copy_project(tmp_path, finished)
    (project.path / "workflow/scripts/maxpool/ties.py").write_text(SCRIPT)
    monkeypatch.setenv("NONSMOOTH_PRELOADED", setting)
    project.snakemake(TABLE, "--configfile", project.write_config(tiny))
    assert ("nonsmooth.preloading.server" in (project.path / TABLE).read_text()) == is_forked


def test_results_are_the_same_to_the_bit(finished, tmp_path, tiny, monkeypatch) -> None:
    project = copy_project(tmp_path, finished)
    monkeypatch.setenv("NONSMOOTH_PRELOADED", "0")
    files = [f"{cell}/record.json" for cell in CELLS]
    project.snakemake(TABLE, *files, "--configfile", project.write_config(tiny))

    alone, forked = (
        [json.loads((root / file).read_text()) for file in files] for root in (project.path, finished.path)
    )
    assert [{key: record[key] for key in record.keys() - OF_A_RUN} for record in alone] == [
        {key: record[key] for key in record.keys() - OF_A_RUN} for record in forked
    ]
    for cell in CELLS:
        for name in ("layers.csv", "activations.csv"):
            assert (project.path / cell / name).read_bytes() == (finished.path / cell / name).read_bytes()
        alone, forked = (pd.read_csv(root / cell / "metrics.csv") for root in (project.path, finished.path))
        varying = ["seconds", "images_per_second"]
        pd.testing.assert_frame_equal(alone.drop(columns=varying), forked.drop(columns=varying), check_exact=True)
    assert (project.path / TABLE).read_bytes() == (finished.path / TABLE).read_bytes()
