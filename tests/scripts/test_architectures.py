"""The benchmark of architectures: one row per network and precision, its statistics on a made-up clock, and a real
process per case."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from nonsmooth import timing, training
from nonsmooth.architectures import ARCHITECTURES
from nonsmooth.pooling import MaxPool2d
from nonsmooth.precision import PRECISIONS

from .conftest import load, script_path

benchmark = load("benchmark/architectures")
COLUMNS = ["architecture", "precision", "parameters", "seconds", "quartile1", "quartile3", "steps", "images_per_second",
           "test_seconds", "start_seconds", "poolings", "peak_memory_mib", "memory_before_mib", "peak_gpu_memory_mib"]  # fmt: skip
ON_CPU = [name for name, precision in PRECISIONS.items() if "cpu" in precision.devices]


@pytest.fixture(autouse=True)
def torch_state():
    """What `training.configure` changes is undone."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def measure(monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> dict:
    """LeNet-5 in float32, whose steps take these seconds, the first of which warms up."""
    clock, durations = [0.0], iter(seconds)

    def step(*_) -> None:
        clock[0] += next(durations)

    monkeypatch.setattr(timing, "time", SimpleNamespace(process_time=lambda: clock[0], perf_counter=None))
    monkeypatch.setattr(training, "step", step)
    return benchmark.measure("lenet5", "float32", training.Settings())


def test_statistics_are_of_the_steps_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "STEPS", 5)
    seconds = [0.3, 0.1, 0.5, 0.2, 0.4]
    row = measure(monkeypatch, [9.0, *seconds, 99.0])
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    assert (row["quartile1"], row["seconds"], row["quartile3"]) == pytest.approx((low, median, high))
    assert row["steps"] == 5
    assert row["images_per_second"] == pytest.approx(128 / median, abs=0.05)
    assert list(row) == COLUMNS


def test_a_slow_network_is_measured_until_the_budget_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = benchmark.BUDGET
    row = measure(monkeypatch, [100 * limit, 2 * limit, 1.0])
    assert row["steps"] == 1
    assert row["quartile1"] == row["seconds"] == row["quartile3"] == 2 * limit
    assert measure(monkeypatch, [0.0, limit * 0.9, limit * 0.2, 1.0])["steps"] == 2


def test_quartiles_lie_among_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "STEPS", 2)
    row = measure(monkeypatch, [9.0, 1.0, 2.0])
    assert 1 <= row["quartile1"] <= row["seconds"] <= row["quartile3"] <= 2


@pytest.mark.parametrize(("architecture", "shape"), [("lenet5", (1, 28, 28)), ("resnet50", (3, 32, 32))])
def test_a_step_is_the_one_that_cells_take(architecture: str, shape: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network with batch norm, on images that it takes."""
    monkeypatch.setattr(benchmark, "STEPS", 1)
    monkeypatch.setattr(benchmark, "BATCH", 2)
    taken = []
    real = training.step
    monkeypatch.setattr(training, "step", lambda *given: taken.append(given) or real(*given))
    row = benchmark.measure(architecture, "float32", training.Settings())
    assert len(taken) == 2
    model, optimizer, _, precision, images, labels = taken[0]
    assert tuple(images.shape) == (2, *shape)
    assert len(labels) == 2
    assert precision is PRECISIONS["float32"]
    assert isinstance(optimizer, torch.optim.SGD)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    assert row["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert row["seconds"] > 0
    assert row["peak_memory_mib"] >= row["memory_before_mib"] > 0
    assert row["peak_gpu_memory_mib"] is None
    assert row["test_seconds"] > 0
    assert row["start_seconds"] > 0
    assert row["poolings"] == sum(isinstance(module, MaxPool2d) for module in model.modules())


class InThisProcess:
    """Takes the place of a pool of one process."""

    made = 0

    def __init__(self, workers: int, mp_context) -> None:
        assert workers == 1
        assert mp_context.get_start_method() == "spawn"
        type(self).made += 1

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_) -> None:
        pass

    def submit(self, function, *arguments) -> SimpleNamespace:
        return SimpleNamespace(result=lambda: function(*arguments))


def test_every_network_is_measured_in_every_arithmetic_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(
        benchmark, "measure", lambda network, precision, settings: {"architecture": network, "precision": precision}
    )
    table = benchmark.measure_all(training.Settings())
    pairs = list(zip(table.architecture, table.precision, strict=True))
    assert pairs == [(network, precision) for network in ARCHITECTURES for precision in ON_CPU]
    assert InThisProcess.made == len(pairs)
    assert "tf32" not in set(table.precision)


SMALL = {"BATCH": "4", "BUDGET, STEPS": "5.0, 2"}
PRELUDE = """
from types import SimpleNamespace
from nonsmooth import architectures, precision

for table, kept in ((architectures.ARCHITECTURES, ["lenet5"]), (precision.PRECISIONS, ["float32"])):
    for name in set(table) - set(kept):
        del table[name]
snakemake = SimpleNamespace(
    log=["job.log"], output=["table.csv"], params=SimpleNamespace(
        settings={"device": "auto", "threads": 1, "deterministic": True}),
    resources=SimpleNamespace(gpu_slots=0), config={"jobs_per_gpu": 1})
"""


def test_the_script_measures_in_real_processes(tmp_path) -> None:
    """As a file that is run, which each process imports again."""
    source = script_path("benchmark/architectures").read_text()
    source, changes = re.subn(
        r"^(BATCH|BUDGET, STEPS) = .*$", lambda found: f"{found[1]} = {SMALL[found[1]]}", source, flags=re.M
    )
    assert changes == 2
    program = tmp_path / "script.py"
    program.write_text(PRELUDE + source)
    command = [sys.executable, str(program)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(table) == [*COLUMNS, "batch_size", "device", "machine", "threads", "torch", "date"]
    assert table.architecture.tolist() == ["lenet5"]
    assert table.precision.tolist() == ["float32"]
    assert (table.seconds > 0).all()
    assert set(table.batch_size) == {4}
    assert set(table.torch) == {version("torch")}
