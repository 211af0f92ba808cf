"""What benchmarks share: whose time is taken, in which order, and that the timed step is the one that cells take."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch

from nonsmooth import optimizers, timing, training
from nonsmooth.cells import TrainingCell
from nonsmooth.precision import PRECISIONS

CPU = torch.device("cpu")


@pytest.mark.parametrize(("threads", "expected"), [(1, time.process_time), (2, time.perf_counter)])
def test_the_clock_of_a_cpu(threads: int, expected) -> None:
    """Of several threads the processor's time is more than what passes. In a process of its own, whose threads nothing else sets."""
    code = f"""
import time, torch
from nonsmooth import timing
torch.set_num_threads({threads})
print(timing.clock(torch.device("cpu")) is time.{expected.__name__})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "True\n"


def test_the_clock_of_a_gpu_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    device = torch.device("cuda", 1)
    read = timing.clock(device)
    assert waited == []
    before = time.perf_counter()
    assert before <= read() <= time.perf_counter()
    assert waited == [device]


def test_cases_take_turns() -> None:
    """The first round warms up, and a case whose budget is used is left out."""
    now, calls = [0.0], []
    durations = {"a": iter([50.0, 1.0, 2.0, 3.0]), "b": iter([0.0, 4.0, 6.0]), "c": iter([0.0, 20.0])}

    def case(name: str):
        def run() -> None:
            calls.append(name)
            now[0] += next(durations[name])

        return run

    seconds = timing.in_turn([case(name) for name in durations], rounds=3, budget=10, clock=lambda: now[0])
    assert seconds == [[1, 2, 3], [4, 6], [20]]
    assert "".join(calls) == "abcabcaba"


def cell(**changed) -> TrainingCell:
    return TrainingCell(**{"dataset": "mnist_5k", "architecture": "lenet5", "precision": "float16", "rule": "hybrid-10-composed",
                           "learning_rate": 0.1, "batch_size": 6, **changed})  # fmt: skip


def test_a_step_is_that_of_the_cell() -> None:
    made = cell()
    step = timing.TrainingStep(made, CPU)
    assert step.images.shape == (6, 1, 28, 28)
    images, labels = step.images.clone(), torch.tensor([0, 1, 2, 3, 4, 5])
    step()
    step()

    precision, model = PRECISIONS["float16"], training.initial_model(made)
    optimizer, scaler = optimizers.build_optimizer(made, model), precision.loss_scaler(CPU)
    for _ in range(2):
        with precision.arithmetic(CPU):
            training.step(model, optimizer, scaler, precision, images, labels)
    before = training.initial_model(made)
    for start, expected, found in zip(before.parameters(), model.parameters(), step.model.parameters(), strict=True):
        assert torch.equal(expected, found)
        assert not torch.equal(start, found)


def test_another_arithmetic_is_used_in_its_place() -> None:
    entered = []

    @contextmanager
    def arithmetic():
        entered.append(torch.is_grad_enabled())
        yield

    timing.TrainingStep(cell(precision="float32"), CPU, arithmetic)()
    assert entered == [True]


def test_images_have_the_shape_of_the_dataset() -> None:
    step = timing.TrainingStep(cell(dataset="cifar10", architecture="vgg11", batch_size=2), CPU)
    assert step.images.shape == (2, 3, 32, 32)
