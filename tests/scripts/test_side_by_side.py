"""The benchmark of cells at once: real processes, for a moment."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nonsmooth import datasets, training

from .conftest import load, script_path

benchmark = load("benchmark/side_by_side")
# In place of the script's own end.
MAIN = """
if __name__ == "__main__":
    import json, sys
    print(json.dumps([measure(cells, sys.argv[1], training.Settings(), seconds=0.2, ready=20.0) for cells in (1, 2)]))
"""


def test_one_cell_and_two(tmp_path) -> None:
    program, images = tmp_path / "script.py", tmp_path / "train.npy"
    program.write_text(script_path("benchmark/side_by_side").read_text().split("\nif __name__")[0] + MAIN)
    datasets.prepare("mnist_5k", "train", images)
    command = [sys.executable, str(program), str(images)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    for cells, row in enumerate(json.loads(done.stdout), 1):
        assert row["cells"] == cells
        assert 0 < row["slowest_cell"] <= row["images_per_second"] / cells + 0.1


def test_cells_that_are_not_ready_are_told(write_split) -> None:
    with pytest.raises(RuntimeError, match="is the machine busy"):
        benchmark.train_for(0.1, 0.0, str(write_split("train", 256)), training.Settings())
