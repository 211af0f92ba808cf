"""The benchmark of planning: real processes, on presets of a few cells."""

from __future__ import annotations

import sys

import pytest

from nonsmooth import config as presets

from .conftest import load

benchmark = load("benchmark/planning")
WHATS = ["plan, nothing made", "plan, everything made", "run, everything made"]


@pytest.mark.parametrize("cells", [10, 100, 1000, 10_000])
def test_a_preset_has_as_many_cells_as_it_says(cells: int) -> None:
    assert len(presets.training_cells(presets.check(benchmark.preset(cells)))) == cells


def test_rows() -> None:
    rows = list(benchmark.measure(benchmark.preset(20)))
    assert [row["what"] for row in rows] == WHATS
    for row in rows:
        assert row["cells"] == 20
        # Two splits, four figures, two jobs of tables, the claims, the mitigations, the report, and the target.
        assert row["jobs"] == 20 + 2 + 4 + 2 + 1 + 1 + 1 + 1
        assert row["seconds"] > 0
        assert row["cpu_seconds"] > 0
        assert row["peak_memory_mib"] > 50


def test_a_process_that_fails_is_told(tmp_path) -> None:
    with pytest.raises(RuntimeError, match="no such luck"):
        benchmark.run(tmp_path, "sh", "-c", "echo no such luck; exit 3")


def test_memory_is_measured(tmp_path) -> None:
    """Of the process, whatever this one has in memory."""
    here = bytearray(3000 * 2**20)
    work = "print('done'); bytearray(1000 * 2**20); main()"
    output, used = benchmark.run(tmp_path, sys.executable, "-c", benchmark.MAIN.replace("main()", work), "--version")
    assert output.startswith("done")
    assert 1000 < used["peak_memory_mib"] < 1200 < len(here) / 2**20


def test_what_is_left_to_be_done_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files without Snakemake's records are not everything."""
    monkeypatch.setattr(benchmark, "TOUCH", "pass")
    with pytest.raises(RuntimeError, match="something is left to be done"):
        list(benchmark.measure(benchmark.preset(10)))
