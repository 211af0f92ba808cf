"""The benchmark of a step: its statistics on a made-up clock, and its real cases at a small batch."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
import torch

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
        ("step", "float32", "products"): [9.0, 0.001, 0.001, 0.001, 0.001, 0.001],
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
    wholes = dict(zip(cases, table.ratio_to_whole, strict=True))
    part, whole = ("step", "float32", "products"), ("step", "float32", "project")
    assert wholes[part] == pytest.approx(medians[part] / medians[whole], abs=5e-4)
    assert wholes[whole] == 1


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
    monkeypatch.delitem(benchmark.STEPS, "vgg11 step")  # for the time it takes
    table = benchmark.measure(1)
    on_cpu = {name: precision for name, precision in PRECISIONS.items() if "cpu" in precision.devices}
    sixteen_bits = [name for name, precision in on_cpu.items() if precision.dtype in SIXTEEN_BITS]
    for case in (*benchmark.STEPS, "vgg11 layer"):
        part = table[table.case == case]
        paths = [(name, "project") for name in on_cpu]
        if case in benchmark.STEPS:
            paths += [(name, path) for name in on_cpu for path in ("products", "poolings", "update")]
        if case in ("lenet5 step", "vgg11 layer"):
            paths += [(name, "pytorch") for name in sixteen_bits]
        assert sorted(zip(part.precision, part.path, strict=True)) == sorted(paths)
        assert (part.median_ms > 0).all()
        assert part[(part.precision == "float32") & (part.path == "project")].ratio_to_float32.tolist() == [1.0]
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


def test_parts_are_the_operations_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions and products, and poolings; the former in float32, which is what computes them."""
    monkeypatch.setattr(benchmark, "BATCH", 4)
    parts = benchmark.lenet5_step(
        PRECISIONS["float16"], partial(PRECISIONS["float16"].arithmetic, benchmark.CPU)
    ).parts()
    called = {}
    for path in ("products", "poolings"):
        with benchmark.Recorder() as recorder:
            parts[path]()
        called[path] = recorder.calls
    names = Counter(name for name, _ in called["products"])
    assert names == {"convolution": 2, "convolution_backward": 2, "addmm": 3, "mm": 6}
    tensors = [value for _, call in called["products"] for value in call.args if isinstance(value, torch.Tensor)]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert len(called["poolings"]) == 4
