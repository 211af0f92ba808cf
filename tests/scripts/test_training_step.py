"""The benchmark of a step: its statistics on a made-up clock, and its real cases at a small batch."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest

from nonsmooth import timing, training
from nonsmooth.precision import PRECISIONS, SIXTEEN_BITS

from .conftest import load

benchmark = load("benchmark/training_step")
ROUNDS = 5


class Clock:
    """A clock that moves only when a case runs."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, []

    def case(self, name: str, seconds: list[float]) -> Callable[[], None]:
        """A case whose calls take these seconds, one after another; the first call warms up."""
        durations = iter(seconds)

        def run() -> None:
            self.calls.append(name)
            self.now += next(durations)

        return run


def measure(monkeypatch: pytest.MonkeyPatch, cases: dict[tuple[str, str, str], list[float]]):
    clock = Clock()
    monkeypatch.setattr(timing, "clock", lambda _: lambda: clock.now)
    monkeypatch.setattr(
        benchmark, "cases", lambda: iter([(*key, clock.case(key[1], seconds)) for key, seconds in cases.items()])
    )
    return benchmark.measure(ROUNDS), clock


def test_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {
        ("step", "float16", "project"): [50.0, 0.004, 0.001, 0.003, 0.005, 0.002],
        ("step", "float32", "project"): [90.0, 0.002, 0.002, 0.001, 0.004, 0.002],
        ("layer", "float32", "project"): [9.0, 0.010, 0.011, 0.012, 0.013, 0.014],
        ("layer", "float16", "pytorch"): [9.0, 0.100, 0.110, 0.120, 0.130, 0.140],
    }
    table, clock = measure(monkeypatch, cases)
    # Case by case in every round, so that noise meets all alike.
    assert clock.calls == [precision for _ in range(1 + ROUNDS) for _, precision, _ in cases]
    medians = {}
    for row, (key, (_, *seconds)) in zip(table.to_dict("records"), cases.items(), strict=True):
        assert (row["case"], row["precision"], row["path"]) == key
        low, median, high = (1000 * quartile for quartile in statistics.quantiles(seconds, method="inclusive"))
        assert [row["quartile1_ms"], row["median_ms"], row["quartile3_ms"]] == pytest.approx([low, median, high])
        assert row["rounds"] == ROUNDS
        medians[key] = median
    ratios = dict(zip(cases, table.ratio_to_float32, strict=True))
    for (case, precision, path), ratio in ratios.items():
        assert ratio == pytest.approx(medians[case, precision, path] / medians[case, "float32", "project"], abs=5e-4)


def test_a_slow_case_is_measured_until_its_budget_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = benchmark.BUDGET
    cases = {
        ("step", "slow", "pytorch"): [0.0, 2 * limit],
        ("step", "slower", "pytorch"): [limit * 9, limit / 2, limit / 2],
        ("step", "float32", "project"): [0.0, 0.1, 0.1, 0.1, 0.1, 0.1],
    }
    table, _ = measure(monkeypatch, cases)
    assert table.rounds.tolist() == [1, 2, ROUNDS]
    assert table.quartile1_ms[0] == table.quartile3_ms[0] == pytest.approx(2000 * limit)


def test_real_cases_at_a_small_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "BATCH", 2)
    table = benchmark.measure(1)
    on_cpu = {name: precision for name, precision in PRECISIONS.items() if "cpu" in precision.devices}
    paths = [(name, "project") for name in on_cpu]
    paths += [(name, "pytorch") for name, precision in on_cpu.items() if precision.dtype in SIXTEEN_BITS]
    for case in ("lenet5 step", "vgg11 layer"):
        part = table[table.case == case]
        assert sorted(zip(part.precision, part.path, strict=True)) == sorted(paths)
        assert (part.median_ms > 0).all()
        assert part[part.precision == "float32"].ratio_to_float32.tolist() == [1.0]
    assert (table.rounds == 1).all()


def test_a_step_is_one_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed is the step that cells take."""
    monkeypatch.setattr(benchmark, "BATCH", 4)
    taken = []
    real = training.step
    monkeypatch.setattr(training, "step", lambda *given: taken.append(given) or real(*given))
    precision = PRECISIONS["float16"]
    run = benchmark.lenet5_step(precision, lambda: precision.arithmetic(benchmark.CPU))
    run()
    run()
    (model, optimizer, _, used, images, labels), _ = taken
    assert used is precision
    assert (len(images), len(labels)) == (4, 4)
    assert {p.dtype for p in model.parameters()} == {precision.dtype}
    assert all(state["momentum_buffer"] is not None for state in optimizer.state.values())
