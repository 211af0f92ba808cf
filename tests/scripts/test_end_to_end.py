"""The benchmark beside a plain program: its statistics on a made-up clock, and that both programs train."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from nonsmooth import training
from nonsmooth.cells import TrainingCell

from .conftest import load

benchmark = load("benchmark/end_to_end")
IMAGES = 100


def measured(monkeypatch: pytest.MonkeyPatch, seconds: dict[tuple[str, str, str], list[float]], rounds: int):
    now = [0.0]

    def case(durations: list[float]) -> Callable[[], None]:
        left = iter(durations)
        return lambda: now.__setitem__(0, now[0] + next(left))

    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(benchmark, "cases", lambda _: iter([(*key, case(taken)) for key, taken in seconds.items()]))
    return benchmark.measure("path", rounds, IMAGES)


def test_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {
        ("native", "float16", "plain"): [9.0, 4.0, 2.0, 5.0],
        ("native", "float16", "project"): [9.0, 0.5, 0.25, 1.0],
        ("native", "float32", "plain"): [9.0, 1.0, 1.0, 1.0],
        ("native", "float32", "project"): [9.0, 0.5, 0.5, 0.2],
    }
    table = measured(monkeypatch, seconds, 3)
    for row, (key, (_, *taken)) in zip(table.to_dict("records"), seconds.items(), strict=True):
        assert (row["rule"], row["precision"], row["program"]) == key
        rates = [IMAGES / duration for duration in taken]
        low, median, high = statistics.quantiles(rates, method="inclusive")
        assert [row["quartile1"], row["images_per_second"], row["quartile3"]] == pytest.approx([low, median, high])
        assert row["rounds"] == 3
    assert table.ratio_to_plain.tolist() == [1.0, 8.0, 1.0, 2.0]


def test_a_slow_case_runs_once_when_its_budget_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = [benchmark.BUDGET, 50.0]
    seconds = {("native", "float16", "plain"): slow, ("native", "float16", "project"): [1.0] * 4}
    table = measured(monkeypatch, seconds, 3)
    assert table.rounds.tolist() == [1, 3]
    assert table.ratio_to_plain.tolist() == [1.0, 50.0]


@pytest.mark.parametrize("precision", benchmark.PRECISION_NAMES)
def test_both_programs_train(precision: str, write_split) -> None:
    """In float32 and float64 they are the same program but for the order of the images: with one batch, to the same weights."""
    path = str(write_split("train", 64))
    found = {}
    for rule, name, program, run in benchmark.cases(path):
        if (rule, name) == ("native", precision):
            run()
            found[program] = run
    assert found.keys() == {"plain", "project"}


def test_an_epoch_is_an_epoch(write_split, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one batch, both take the same step."""
    path = str(write_split("train", 100))
    cell = TrainingCell(
        dataset="mnist_5k", architecture="lenet5", precision="float64", learning_rate=0.1, epochs=1, batch_size=100
    )
    models = []
    real = training.initial_model
    monkeypatch.setattr(training, "initial_model", lambda *given: models.append(real(*given)) or models[-1])
    for epoch in (benchmark.plain_epoch, benchmark.project_epoch):
        run = epoch(replace(cell, epochs=2), path)
        # Their inputs are normalised in float32 in another order of operations.
        run()
    plain, project = models
    start = real(cell)
    for before, one, other in zip(start.parameters(), plain.parameters(), project.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-5)
        assert not torch.allclose(before, one, rtol=0, atol=1e-5)
