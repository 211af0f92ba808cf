"""Pairs of runs: each is the run that it would be alone, and distances are those of the weights, summed the plain way."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nonsmooth import training
from nonsmooth.cells import WeightsCell
from nonsmooth.images import Images
from nonsmooth.precision import PRECISIONS
from nonsmooth.training import Settings, evaluate, initial_model, train
from nonsmooth.weights import distances, train_pair, weights_l1

thorough = settings(deadline=None, derandomize=True, max_examples=200)
CELL = WeightsCell(dataset="mnist_5k", architecture="lenet5", batch_size=64, epochs=2, learning_rate=0.1)
CLOCKS = ("seconds",)
every_level = pytest.mark.parametrize("precision", ["float16", "bfloat16", "mixed16", "float32", "float64"])


def pair(cell: WeightsCell, train_set: Images, test_set: Images) -> training.Run:
    return train_pair(cell, train_set, test_set, Settings())


def without_clocks(run: training.Run) -> str:
    """As text, so that NaN equals NaN."""
    return repr([{key: value for key, value in row.items() if key not in CLOCKS} for row in run.metrics])


# ---------------------------------------------------------------------------------------------- distances


class Weights(nn.Module):
    """Parameters of given values, and a buffer that does not count."""

    def __init__(self, tensors: list[list[float]], dtype: torch.dtype) -> None:
        super().__init__()
        self.tensors = nn.ParameterList(nn.Parameter(torch.tensor(values, dtype=dtype)) for values in tensors)
        self.register_buffer("statistic", torch.rand(3))


values = st.floats(-1e4, 1e4, width=16)
tensors = st.lists(st.lists(st.tuples(values, values), min_size=1, max_size=9), min_size=1, max_size=4)


@thorough
@given(tensors, st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_distances_are_sums_and_maxima_over_all_parameters(drawn: list, dtype: torch.dtype) -> None:
    models = [Weights([[entry[side] for entry in tensor] for tensor in drawn], dtype) for side in (0, 1)]
    stored = [[weight for tensor in model.parameters() for weight in tensor.tolist()] for model in models]
    differences = [abs(Fraction(w) - Fraction(v)) for w, v in zip(*stored, strict=True)]
    # A difference of two 16-bit numbers is exact in float64, and a sum of n terms is off by less than n roundings.
    l1, linf = distances(*models)
    assert l1 == pytest.approx(float(sum(differences)), rel=len(differences) * 2**-53, abs=0)
    assert linf == max(differences)
    assert distances(*reversed(models)) == (l1, linf)
    assert weights_l1(models[1]) == pytest.approx(sum(map(abs, stored[1])), rel=len(differences) * 2**-52, abs=0)
    assert distances(models[0], models[0]) == (0, 0)


@pytest.mark.parametrize("where", [0, 1])
def test_distances_to_weights_that_are_not_finite(where: int) -> None:
    ones, infinite, missing = (
        Weights([[1.0], [1.0]] if value == 1 else [[1.0], [value]][:: 1 - 2 * where], torch.float16)
        for value in (1.0, math.inf, math.nan)
    )
    assert distances(ones, infinite) == distances(infinite, ones) == (math.inf, math.inf)
    for one, other in ((infinite, infinite), (ones, missing), (missing, infinite)):
        assert all(map(math.isnan, distances(one, other)))


# -------------------------------------------------------------------------------------------------- pairs


@every_level
@pytest.mark.parametrize("normalization", ["none", "batch_norm"])
def test_each_run_is_the_run_that_it_would_be_alone(
    precision: str, normalization: str, train_set: Images, test_set: Images
) -> None:
    cell = replace(CELL, precision=precision, normalization=normalization, program="hybrid-10-exact", seed=3)
    seen: list[dict[str, Any]] = []
    run = train_pair(cell, train_set, test_set, Settings(), on_epoch=seen.append)
    assert seen == run.metrics
    assert [row["epoch"] for row in run.metrics] == [0, 1, 2]
    for side, trained in zip(("program", "reference"), cell.runs(), strict=True):
        alone = train(trained, train_set, test_set)
        assert run.record[side] == {key: alone.record[key] for key in run.record[side]}
        for row, expected in zip(run.metrics[1:], alone.metrics, strict=True):
            assert row[f"{side}_test_accuracy"] == expected["test_accuracy"]
            assert row[f"{side}_train_loss"] == expected["train_loss"]
        initial = evaluate(initial_model(trained), test_set, PRECISIONS[precision].evaluation)
        assert (run.metrics[0][f"{side}_test_accuracy"], run.metrics[0][f"{side}_train_loss"]) == (initial[1], None)
    assert all(0 < row["seconds"] < 600 for row in run.metrics[1:])


def test_runs_are_plain_sgd_at_a_constant_rate(train_set: Images, test_set: Images) -> None:
    """w <- w - rate * gradient, written out for the reference, and the distance to the program's weights after each epoch."""
    program, reference = (initial_model(cell) for cell in CELL.runs())
    expected = [0.0]
    draws = [torch.Generator().manual_seed(CELL.seed) for _ in range(2)]
    for _ in range(CELL.epochs):
        for model, generator in zip((program, reference), draws, strict=True):
            for images, labels in train_set.batches(CELL.batch_size, generator):
                model.zero_grad()
                with PRECISIONS["float32"].arithmetic(torch.device("cpu")):
                    nn.functional.cross_entropy(model(images), labels).backward()
                with torch.no_grad():
                    for weight in model.parameters():
                        weight.add_(weight.grad, alpha=-CELL.learning_rate)
        pairs = zip(program.parameters(), reference.parameters(), strict=True)
        expected.append(sum((w.double() - v.double()).abs().sum().item() for w, v in pairs))
    run = pair(CELL, train_set, test_set)
    assert [row["distance_l1"] for row in run.metrics] == pytest.approx(expected, rel=1e-12)
    assert expected[-1] > 0


@every_level
@pytest.mark.parametrize("program", ["native", "minimal", "hybrid-10-composed", "native+relu-1", "norm-1"])
def test_the_control_is_exactly_zero_on_a_cpu(
    precision: str, program: str, train_set: Images, test_set: Images
) -> None:
    run = pair(replace(CELL, precision=precision, program=program, reference=program), train_set, test_set)
    assert [(row["distance_l1"], row["distance_linf"]) for row in run.metrics] == [(0, 0)] * 3
    assert run.record["program"] == run.record["reference"]
    assert run.record["program"]["steps"] == 8  # it was trained


def test_different_programs_part_after_the_same_start(train_set: Images, test_set: Images) -> None:
    for program in ("minimal", "hybrid-1000-composed"):
        first, *others = pair(replace(CELL, program=program, precision="float16"), train_set, test_set).metrics
        assert (first["distance_l1"], first["distance_linf"]) == (0, 0)
        assert all(row["distance_l1"] > row["distance_linf"] > 0 for row in others)


def test_the_same_seed_gives_the_same_and_another_another(train_set: Images, test_set: Images) -> None:
    first = without_clocks(pair(CELL, train_set, test_set))
    torch.rand(7)  # the state of the global generator is no matter
    assert without_clocks(pair(CELL, train_set, test_set)) == first
    assert without_clocks(pair(replace(CELL, seed=1), train_set, test_set)) != first


@pytest.mark.parametrize("lost", ["program", "reference"])
def test_a_run_that_is_lost_stops_and_the_other_goes_on(
    lost: str, train_set: Images, test_set: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight becomes infinite in the second of four epochs."""
    build = training.build_optimizer
    kept = "reference" if lost == "program" else "program"
    cell = replace(CELL, epochs=4)
    rule = dict(zip(("program", "reference"), cell.runs(), strict=True))[lost].rule

    def build_poking(trained, model: nn.Module) -> torch.optim.Optimizer:
        optimizer, steps = build(trained, model), iter(range(1, 99))

        def poke(*_) -> None:
            if next(steps) == 5 and trained.rule == rule:
                model.linear5.bias.detach()[3].fill_(math.inf)

        optimizer.register_step_post_hook(poke)
        return optimizer

    monkeypatch.setattr(training, "build_optimizer", build_poking)
    run = pair(cell, train_set, test_set)
    assert (run.record[lost]["epochs_run"], run.record[kept]["epochs_run"]) == (2, 4)
    assert (run.record[lost]["diverged"], run.record[kept]["diverged"]) == (True, False)
    assert [row["epoch"] for row in run.metrics] == [0, 1, 2, 3, 4]
    assert [math.isfinite(row["distance_l1"]) for row in run.metrics] == [True, True, False, False, False]
    assert [math.isfinite(row["weights_l1"]) for row in run.metrics[2:]] == [lost == "program"] * 3
    # Non-finite outputs predict class 0, which a tenth of the digits are.
    assert [row[f"{lost}_test_accuracy"] for row in run.metrics[2:]] == [0.1] * 3
    assert all(math.isnan(row[f"{lost}_train_loss"]) for row in run.metrics[2:])
    assert all(math.isfinite(row[f"{kept}_train_loss"]) for row in run.metrics[1:])


def test_both_runs_can_be_lost(train_set: Images, test_set: Images) -> None:
    run = pair(replace(CELL, learning_rate=1e6, precision="float16", epochs=3), train_set, test_set)
    assert run.record["program"]["diverged"]
    assert run.record["reference"]["diverged"]
    assert len(run.metrics) == 4
    assert all(math.isnan(row["distance_l1"]) for row in run.metrics[1:])
    assert run.metrics[-1]["seconds"] == 0


def test_the_record_says_what_a_training_cells_does(train_set: Images, test_set: Images) -> None:
    record = pair(CELL, train_set, test_set).record
    alone = train(CELL.runs()[0], train_set, test_set).record
    assert record.keys() == (alone.keys() - record["program"].keys()) | {"program", "reference"}
    assert record["program"].keys() == record["reference"].keys() < alone.keys()
    assert WeightsCell.from_dict(json.loads(json.dumps(record))["cell"]) == CELL
    hashes = {pair(replace(CELL, epochs=1, seed=seed), train_set, test_set).record["config_hash"] for seed in (0, 1)}
    assert len(hashes | {record["config_hash"]}) == 3


def test_an_arithmetic_that_the_device_lacks_is_refused(train_set: Images, test_set: Images) -> None:
    with pytest.raises(ValueError, match="precision tf32 needs a device of type"):
        pair(replace(CELL, precision="tf32"), train_set, test_set)


def test_too_little_memory_names_the_cell(train_set: Images, test_set: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_) -> None:
        raise MemoryError

    monkeypatch.setattr(training, "step", fail)
    with pytest.raises(MemoryError, match=rf"^{CELL}: not enough memory for batch_size 64"):
        pair(CELL, train_set, test_set)
