"""The benchmark of cells at once: real processes, for a moment."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from nonsmooth import datasets, training

from .conftest import load, script_path

benchmark = load("benchmark/side_by_side")
# In place of the script's own end.
MAIN = """
if __name__ == "__main__":
    import json, sys
    print(json.dumps([measure(cells, sys.argv[1], training.Settings(), seconds=0.2) for cells in (1, 2)]))
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


def test_cells_begin_when_all_are_ready(write_split, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one does before is not counted."""
    waited = []
    benchmark.meet_at(SimpleNamespace(wait=waited.append))
    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=iter([0.0, 0.05, 0.2]).__next__))
    path = str(write_split("train", 256))
    assert benchmark.train_for(0.1, path, training.Settings()) == pytest.approx(256 / 0.2)
    assert waited == [benchmark.LONGEST_WAIT]
