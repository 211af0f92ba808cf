"""What is recorded of poolings in training: recomputed window by window, and without a bit of the training changed."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from nonsmooth import training
from nonsmooth.cells import ACTIVATIONS, LAYERS
from nonsmooth.pooling import MaxPool2d, max_pool2d
from nonsmooth.precision import PRECISIONS
from nonsmooth.rules import EVALUATIONS, Hybrid, Minimal, Native, Norm, Rule, rule_beta
from nonsmooth.traces import ACTIVATION_ROWS, PoolingTrace, pooling_errors

CPU = torch.device("cpu")
RULES = [Native(), Minimal(), *(Hybrid(beta, name) for beta in (10, 1000) for name in EVALUATIONS)]


def plainly(input: Tensor, grad: Tensor, rule: Rule, name: str) -> dict[str, float]:
    """The row of a 2 x 2 pooling, in Python's floats."""
    leaf = input.detach().requires_grad_()
    with PRECISIONS[name].arithmetic(CPU):
        output = max_pool2d(leaf, 2, rule=rule)
        (gradient,) = torch.autograd.grad(output, leaf, grad)
    numbers = defaultdict(list)
    nonfinite = dict.fromkeys(("forward", "backward"), 0)
    for index in np.ndindex(*output.shape):
        *lead, row, column = index
        places = [(*lead, 2 * row + i, 2 * column + j) for i in range(2) for j in range(2)]
        window = [input[place].item() for place in places]
        largest = max(window)
        maxima = [place for place, value in zip(places, window, strict=True) if value == largest]
        pairs = [("forward", output[index].item(), largest)]
        if len(maxima) == 1:
            pairs.append(("backward", gradient[maxima[0]].item(), grad[index].item()))
        elif largest > 0:
            c = rule_beta(rule)
            if isinstance(rule, Hybrid) and not EVALUATIONS[rule.evaluation].jacobian:
                c = 0.0
            row_of_jacobian = [(1 - c) + c / len(maxima)] + [c / len(maxima)] * (len(maxima) - 1)
            numbers["norms"].append(math.hypot(*row_of_jacobian))
        for kind, computed, true in pairs:
            if not math.isfinite(computed):
                nonfinite[kind] += 1
            elif true != 0:
                numbers[kind].append(abs(computed - true) / abs(true))
        numbers["maxima"].append(largest)
    mean = {kind: np.mean(values) for kind, values in numbers.items()}
    return {
        "windows": output.numel(),
        "tied_above_zero": len(numbers["norms"]),
        "jacobian_norm": mean.get("norms", math.nan),
        "forward_error": mean["forward"],
        "forward_error_max": max(numbers["forward"]),
        "forward_nonfinite": nonfinite["forward"],
        "backward_error": mean["backward"],
        "backward_error_max": max(numbers["backward"]),
        "backward_nonfinite": nonfinite["backward"],
        "max_activation": max(numbers["maxima"]),
    }


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rows_are_recomputed_window_by_window(rule: Rule, name: str) -> None:
    draws = torch.Generator().manual_seed(0)
    dtype = PRECISIONS[name].dtype
    # Coarse values tie; some overflow when they are multiplied by 1,000.
    input = (torch.randn(3, 2, 6, 6, generator=draws).relu() * 8).round().div(8)
    input[0] *= 60
    input, grad = input.to(dtype), torch.randn(3, 2, 3, 3, generator=draws).to(dtype)
    found = pooling_errors(input, grad, MaxPool2d(2, rule=rule), PRECISIONS[name])
    expected = plainly(input, grad, rule, name)
    assert list(found) == [column for column in LAYERS if column in expected]
    assert found == pytest.approx(expected, rel=1e-13, abs=0, nan_ok=True)


@pytest.mark.parametrize("beta", [10.0, 100.0, 1000.0])
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_the_composed_output_keeps_its_bound(name: str, beta: float) -> None:
    """|output - maximum| <= u (|beta| + |1 - beta|) |maximum|; among thousands of windows some come near it."""
    draws = torch.Generator().manual_seed(1)
    dtype, u = PRECISIONS[name].dtype, float(torch.finfo(PRECISIONS[name].dtype).eps) / 2
    input, grad = (
        torch.rand(4, 4, 32, 32, generator=draws, dtype=torch.float64).to(dtype),
        torch.ones(4, 4, 16, 16, dtype=dtype),
    )
    found = pooling_errors(input, grad, MaxPool2d(2, rule=Hybrid(beta, "composed")), PRECISIONS[name])
    bound = u * (abs(beta) + abs(1 - beta))
    assert found["forward_nonfinite"] == 0
    assert 0.2 * bound < found["forward_error_max"] <= bound


def test_a_rule_that_is_no_max_pooling_has_activations_only() -> None:
    found = pooling_errors(
        torch.rand(1, 1, 4, 4), torch.ones(1, 1, 2, 2), MaxPool2d(2, rule=Norm(0.0)), PRECISIONS["float32"]
    )
    assert math.isnan(found["forward_error"])
    assert math.isnan(found["backward_nonfinite"])
    assert 0 < found["max_activation"] < 1


def test_nothing_passes_through_no_images() -> None:
    found = pooling_errors(
        torch.rand(0, 1, 4, 4), torch.ones(0, 1, 2, 2), MaxPool2d(2, rule=Native()), PRECISIONS["float32"]
    )
    assert (found["windows"], found["forward_nonfinite"]) == (0, 0)
    assert math.isnan(found["max_activation"])


@pytest.mark.parametrize("rule", ["native", "hybrid-1000-composed", "hybrid-1000-forward_jacobian", "norm-0"])
@pytest.mark.parametrize("precision", ["float16", "mixed16", "float32"])
def test_watching_changes_no_bit(rule: str, precision: str, make_cell, train_set, test_set) -> None:
    cell = make_cell(rule=rule, precision=precision, normalization="batch_norm", epochs=2)
    training.configure(training.Settings())
    hashes = []
    for traced in (False, True):
        trainer = training.Trainer(cell, train_set, test_set, PRECISIONS[precision], CPU, traced)
        assert [row["epoch"] for row in trainer.epochs()] == [1, 2]
        hashes.append(training.weights_hash(trainer.model))
        assert (trainer.trace is None) != traced
    assert hashes[0] == hashes[1]


def test_a_run_has_a_row_per_epoch_and_layer_and_one_per_step(make_cell, train_set, test_set) -> None:
    run = training.train(make_cell(rule="hybrid-10-composed", epochs=3), train_set, test_set)
    layers, activations = pd.DataFrame(run.layers), pd.DataFrame(run.activations)
    assert (tuple(layers), tuple(activations)) == (LAYERS, ACTIVATIONS)
    assert sorted(zip(layers.epoch, layers.step, layers.layer, strict=True)) == [
        (epoch, 4 * epoch - 3, f"pool{number}") for epoch in (1, 2, 3) for number in (1, 2)
    ]
    assert sorted(zip(activations.step, activations.layer, strict=True)) == [
        (step, f"pool{number}") for step in range(1, 13) for number in (1, 2)
    ]
    # The first minibatch of an epoch is in both tables.
    both = layers.merge(activations, on=["step", "layer"], suffixes=("", "_of_step"))
    assert len(both) == 6
    assert both.max_activation.tolist() == both.max_activation_of_step.tolist()


def test_what_a_step_passes_is_that_of_the_network_before_its_update(make_cell, train_set, test_set) -> None:
    cell = make_cell(precision="float16")
    run = training.train(cell, train_set, test_set)
    model = training.initial_model(cell)
    draws = torch.Generator().manual_seed(cell.seed)
    images, _ = next(iter(train_set.batches(cell.batch_size, draws, cell.augmentation)))
    entered = []
    model.pool1.register_forward_hook(lambda module, inputs, output: entered.append(inputs[0].max().item()))
    with PRECISIONS["float16"].arithmetic(CPU), torch.no_grad():
        model(images.half())
    assert next(row["max_activation"] for row in run.activations if row["layer"] == "pool1") == entered[0]


def test_many_steps_share_a_row() -> None:
    model = nn.Sequential(MaxPool2d(2, rule=Native()))
    trace = PoolingTrace(model, PRECISIONS["float32"], CPU, steps=2 * ACTIVATION_ROWS + 1)
    values = [1.0, 5.0, 2.0, 0.5, 7.0, math.nan, 3.0]
    for value in values:
        trace.begin_step()
        model(torch.full((1, 1, 2, 2), value))
        trace.end_step(epoch=1)
    with torch.no_grad():  # a test pass
        model(torch.full((1, 1, 2, 2), 1e9))
    trace.end_epoch()
    rows = [(row["step"], row["max_activation"]) for row in trace.activations]
    assert rows[:1] == [(3, 5.0)]
    assert rows[1][0] == 6
    assert math.isnan(rows[1][1])
    assert rows[2] == (7, 3.0)
    assert not trace.layers


def test_a_network_without_a_pooling_has_no_rows(make_cell, train_set, test_set, monkeypatch) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    monkeypatch.setattr(training, "initial_model", lambda cell: model)
    run = training.train(replace(make_cell(), epochs=1), train_set, test_set)
    assert (run.layers, run.activations) == ([], [])
