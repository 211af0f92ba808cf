"""The benchmark of rules: ratios on a made-up clock, and its real cases at a small batch."""

from __future__ import annotations

import pytest
import torch

from nonsmooth import timing, training
from nonsmooth.config import training_cells
from nonsmooth.rules import parse_rule

from .conftest import load

benchmark = load("benchmark/rules")
RULES = ["native", "minimal"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_ratios_are_those_of_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    """To native with batch norm; the first round warms up, and a case whose budget is used stops."""
    clock, seconds = [0.0], {
        ("batch_norm", "native"): [99.0, 0.1, 0.3, 0.2],
        ("batch_norm", "minimal"): [99.0, 0.6, 0.5, 0.4],
        ("none", "native"): [99.0, 2 * benchmark.BUDGET],
    }  # fmt: skip

    def training_step(cell, device):
        durations = iter(seconds[cell.normalization, cell.rule])

        def run() -> None:
            clock[0] += next(durations)

        return run

    monkeypatch.setattr(timing, "TrainingStep", training_step)
    monkeypatch.setattr(timing, "clock", lambda _: lambda: clock[0])
    table = benchmark.measure("lenet5", "float32", RULES, training.Settings(), rounds=3)
    assert list(zip(table.normalization, table.rule, strict=True)) == list(seconds)
    assert table.seconds.tolist() == pytest.approx([0.2, 0.5, 2 * benchmark.BUDGET])
    assert table.ratio.tolist() == pytest.approx([1, 2.5, 10 * benchmark.BUDGET])


def test_real_steps_at_a_small_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "BATCH", 4)
    taken = []
    real = training.step
    monkeypatch.setattr(training, "step", lambda *given: taken.append(given) or real(*given))
    rules = benchmark.NETWORKS["lenet5"]
    table = benchmark.measure("lenet5", "float16", rules, training.Settings(), rounds=1)
    assert (table.ratio > 0).all()
    assert len(taken) == 2 * (len(rules) + 1)
    models = [given[0] for given in taken[: len(rules) + 1]]
    normalized = [any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()) for model in models]
    assert normalized == [True] * len(rules) + [False]
    pooled = [f"'{rule}'" in repr(model) or rule in repr(model) for rule, model in zip(rules, models, strict=False)]
    assert sum(pooled) >= len(rules) - 2  # an average and a convolution are modules of their own
    assert all(given[4].shape == (4, 1, 28, 28) for given in taken)


def test_every_rule_of_a_preset_has_a_ratio_with_lenet5() -> None:
    """Or else it would be planned as the dearest one."""
    from nonsmooth import costs
    from nonsmooth.config import read

    known = {costs.kind(rule) for rule in benchmark.NETWORKS["lenet5"]}
    for preset in ("config.yaml", "presets/paper.yaml"):
        cells = training_cells(read(costs.SHIPPED.parents[1] / "config" / preset))
        assert {costs.kind(cell.rule) for cell in cells} <= known
    assert all(parse_rule(rule) for rule in benchmark.NETWORKS["lenet5"])
