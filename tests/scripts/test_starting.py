"""The benchmark of starting scripts: its statistics, and that it starts real ones both ways."""

from __future__ import annotations

import statistics
import sys

import pytest

from nonsmooth import preloading

from .conftest import load

benchmark = load("benchmark/starting")


def test_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"/bin/bash": iter([9.0, 4.0, 2.0, 3.0]), "shell": iter([9.0, 1.0, 0.5, 0.25])}
    monkeypatch.setattr(preloading, "start", lambda threads: "shell")
    monkeypatch.setattr(benchmark, "run", lambda script, shell, threads: next(taken[shell]))
    table = benchmark.measure(3, 1).set_index("start")
    for start, seconds in (("by itself", [4.0, 2.0, 3.0]), ("forked", [1.0, 0.5, 0.25])):
        expected = statistics.quantiles(seconds, method="inclusive")
        assert table.loc[start, ["quartile1", "seconds", "quartile3"]].tolist() == pytest.approx(expected, abs=5e-4)
    assert table.ratio.tolist() == pytest.approx([1, 0.5 / 3], abs=5e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="scripts are preloaded on Linux only")
def test_scripts_are_started_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(preloading.VARIABLE, "")  # restored afterwards
    table = benchmark.measure(1, 1)
    assert table.start.tolist() == ["by itself", "forked"]
    assert (table.seconds > 0).all()


def test_where_scripts_cannot_be_forked_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(preloading.VARIABLE, "0")
    with pytest.raises(RuntimeError, match="NONSMOOTH_PRELOADED=0"):
        benchmark.measure(1, 1)
