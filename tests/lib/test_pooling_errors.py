"""Errors of composed pooling, window by window in exact arithmetic, and what reaches the poolings of a network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import max_pool2d

from nonsmooth import training
from nonsmooth.cells import TrainingCell
from nonsmooth.images import Images
from nonsmooth.pooling_errors import (
    COLUMNS,
    Pooling,
    composed_errors,
    forward_bound,
    layer_errors,
    record_poolings,
    rounded_error,
)
from nonsmooth.precision import PRECISIONS, SIXTEEN_BITS, Precision

MakeCell = Callable[..., TrainingCell]
CPU_PRECISIONS = [name for name, precision in PRECISIONS.items() if "cpu" in precision.devices]


def working_type(precision: Precision) -> torch.dtype:
    """Of what enters a pooling."""
    return precision.autocast or precision.dtype


def combine(beta: float, value: float, dtype: torch.dtype) -> float:
    """fl(fl(beta v) + fl((1 - beta) v)), a number at a time; 16 bits by float32, as PyTorch multiplies and adds."""
    wide = torch.float32 if dtype in SIXTEEN_BITS else dtype

    def number(exact: float) -> torch.Tensor:
        return torch.tensor(exact, dtype=wide)

    products = [(number(factor) * number(value)).to(dtype) for factor in (beta, 1 - beta)]
    return (products[0].to(wide) + products[1].to(wide)).to(dtype).item()


def relative(value: float, true: float) -> float:
    return float(abs(Fraction(value) - Fraction(true)) / abs(Fraction(true))) if math.isfinite(value) else math.inf


def expected(x: torch.Tensor, g: torch.Tensor, beta: float, dtype: torch.dtype) -> dict:
    """The counts and errors, by loops over (N, C, H, W) with windows of 2 x 2."""
    forward, backward, windows = [], [], 0
    for n, c, i, j in np.ndindex(tuple(g.shape)):
        window = x[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten().tolist()
        largest, arriving = max(window), g[n, c, i, j].item()
        windows += 1
        if largest != 0:
            forward.append(relative(combine(beta, largest, dtype), largest))
        if window.count(largest) == 1 and arriving != 0:
            backward.append(relative(combine(beta, arriving, dtype), arriving))
    return {
        "windows": windows, "nonzero": len(forward), "untied": len(backward),
        **{f"{name}_{key}": value for name, errors in (("forward", forward), ("backward", backward))
           for key, value in summary(errors).items()},
    }  # fmt: skip


def summary(errors: list[float]) -> dict:
    finite = [error for error in errors if math.isfinite(error)]
    return {
        "error": sum(finite) / len(finite) if finite else math.nan,
        "error_max": max(finite, default=math.nan),
        "nonfinite": len(errors) - len(finite),
    }


def layer(dtype: torch.dtype, seed: int = 0, scale: float = 1.0) -> Pooling:
    """What follows a ReLU, with ties and zeros, and gradients of which some are zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 8, 6, generator=generator).double().mul(8 * scale).round().div(8).mul(1.2345).relu()
    g = torch.randn(2, 3, 4, 3, generator=generator, dtype=torch.float64)
    g[0, 0] = 0
    return Pooling(nn.MaxPool2d(2), x.to(dtype), g.to(dtype))


@pytest.mark.parametrize("name", CPU_PRECISIONS)
@pytest.mark.parametrize("beta", [0.3, 1, 1.5, 10, 1000, 10000])
def test_errors_recomputed_in_exact_arithmetic(name: str, beta: float) -> None:
    precision = PRECISIONS[name]
    # Some products overflow in float16.
    scale = 3.0 if beta == 10000 else 1.0
    pooling = layer(working_type(precision), scale=scale)
    before = [tensor.clone() for tensor in pooling[1:]]
    found = layer_errors(pooling, beta, precision)
    wanted = expected(pooling.x, pooling.g, beta, working_type(precision))
    assert {key: found[key] for key in wanted} == pytest.approx(wanted, rel=1e-13, nan_ok=True)
    assert 0 < found["nonzero"] < found["windows"]
    assert 0 < found["untied"] < found["windows"]
    assert (found["forward_nonfinite"] > 0) == (beta == 10000 and working_type(precision) == torch.float16)
    if beta >= 1:
        assert (found["forward_error"] == 0) == (beta == 1)
    assert [torch.equal(*pair) for pair in zip(before, pooling[1:], strict=True)] == [True, True]


def test_what_was_not_finite_before_is_not_counted() -> None:
    pooling = layer(torch.float16)
    pooling.x[0, 0, 0, 0] = math.inf
    pooling.x[0, 1, 0, 0] = math.nan
    pooling.g[1, 1, 0, 0] = math.nan
    pooling.g[1, 2, 0, 0] = math.inf
    found = layer_errors(pooling, 10, PRECISIONS["float16"])
    assert (found["forward_nonfinite"], found["backward_nonfinite"]) == (0, 0)
    assert math.isfinite(found["forward_error_max"])
    assert math.isfinite(found["backward_error_max"])


def test_nothing_to_measure_is_nan() -> None:
    pooling = Pooling(nn.MaxPool2d(2), torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 2, 2))
    found = layer_errors(pooling, 10, PRECISIONS["float32"])
    assert (found["windows"], found["nonzero"], found["untied"]) == (4, 0, 0)
    for name in ("forward_error", "forward_error_max", "above_bound", "backward_error", "rounded_error"):
        assert math.isnan(found[name])


def test_windows_that_do_not_tile_the_input() -> None:
    pooling = Pooling(nn.MaxPool2d(3, 2), torch.ones(1, 1, 7, 7), torch.ones(1, 1, 3, 3))
    with pytest.raises(ValueError, match="windows that tile the input"):
        layer_errors(pooling, 10, PRECISIONS["float32"])


# Eighths, of which both beta and 1 - beta are float32 numbers.
BETAS = st.integers(-80_000, 80_000).map(lambda eighths: eighths / 8)


@given(BETAS, st.integers(2**10, 2**11 - 1), st.integers(-4, 2))
@settings(deadline=None, max_examples=300)
def test_the_bound_holds(beta: float, digits: int, exponent: int) -> None:
    """In float16, for any maximum of 11 bits whose products neither over- nor underflow."""
    value = digits * 2.0 ** (exponent - 11)
    if max(abs(beta), abs(1 - beta)) * value >= 65504:
        return
    # PyTorch's product is rounded to float32 first.
    bound = forward_bound(beta, 2.0**-11) * (1 + 2.0**-12)
    assert relative(combine(beta, value, torch.float16), value) <= bound


@pytest.mark.parametrize("beta", [10, 1000])
def test_the_bound_is_nearly_reached(beta: float) -> None:
    errors = [relative(combine(beta, digits / 2**11, torch.float16), digits / 2**11) for digits in range(2**10, 2**11)]
    assert 0.5 < max(errors) / forward_bound(beta, 2.0**-11) <= 1


def test_the_bound_in_words() -> None:
    u = 2.0**-11
    assert [forward_bound(beta, u) / u for beta in (0, 1, 2, 10, 1000, -1, -10)] == [1, 1, 3, 19, 1999, 3, 21]
    assert forward_bound(1.5, u) == pytest.approx(2 * u + u, rel=2 * u)
    assert forward_bound(-0.5, u) == pytest.approx(2 * u + u, rel=2 * u)


def test_what_is_above_the_bound_is_counted() -> None:
    """Only underflow gets there: of the products of a subnormal number."""
    x = torch.tensor([[1.0, 0.0, 3 * 2.0**-24, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float16)[None, None]
    pooling = Pooling(nn.MaxPool2d(2), x, torch.ones(1, 1, 1, 2, dtype=torch.float16))
    assert layer_errors(pooling, 0.5, PRECISIONS["float16"])["above_bound"] == 0.5
    assert layer_errors(pooling, 10, PRECISIONS["float16"])["above_bound"] == 0


@given(st.floats(2.0**-20, 2.0**20), st.floats(1, 10_000))
@settings(deadline=None)
def test_a_maximum_rounded_to_what_is_left_of_its_bits(value: float, beta: float) -> None:
    """To the nearest multiple of 2^(floor(log2 v) + 1 - q), with q = 11 - log2(2 beta), up to the rounding of float64."""
    exponent = next(e for e in itertools.count(-21) if 2.0 ** (e + 1) > value)
    spacing = 2.0 ** (exponent + 1 - 11) * 2 * beta
    found = rounded_error(np.array([value]), beta, PRECISIONS["float16"])
    distances = [
        abs(k * spacing - value) / value for k in (math.floor(value / spacing), math.floor(value / spacing) + 1)
    ]
    assert found == pytest.approx(min(distances), rel=1e-9, abs=2.0**-40)


def test_rounding_to_no_bit_leaves_nothing() -> None:
    """At beta = 10,000 11 bits lose 14.3: every value is below half of a unit of its last place."""
    values = np.array([1.0, 1.3, 1.99])
    assert rounded_error(values, 10_000, PRECISIONS["float16"]) == 1
    assert rounded_error(values, 1, PRECISIONS["float16"]) < 2.0**-10
    assert math.isnan(rounded_error(values, 0.5, PRECISIONS["float16"]))
    assert math.isnan(rounded_error(values, 10, PRECISIONS["float64"]))


def first_batch(images: Images) -> tuple[torch.Tensor, torch.Tensor]:
    return images.batch(slice(0, 16))


@pytest.mark.parametrize("normalization", ["none", "batch_norm"])
def test_recorded_values_and_gradients_are_those_of_the_network(
    normalization: str, test_set: Images, make_cell: MakeCell
) -> None:
    """They reproduce the gradients of the convolutions before the poolings."""
    cell = make_cell(precision="float64", normalization=normalization, seed=3)
    images, labels = first_batch(test_set)
    recorded = record_poolings(cell, images, labels)
    model = training.initial_model(cell).train()
    training.mean_loss(model(images.double()), labels, PRECISIONS["float64"]).backward()
    first, second = [module for module in model.modules() if isinstance(module, nn.Conv2d)]

    again = first.weight.detach().clone().requires_grad_()
    x = torch.nn.functional.conv2d(images.double(), again, first.bias.detach()).relu()
    (_, pooling), (_, last) = recorded
    assert torch.equal(x, pooling.x)
    pooled = max_pool2d(x, 2)
    pooled.backward(pooling.g)
    torch.testing.assert_close(again.grad, first.weight.grad, rtol=1e-12, atol=1e-15)
    assert last.x.shape[1] == second.out_channels
    assert [tuple(pooling.g.shape[-2:]) for _, pooling in recorded] == [(12, 12), (4, 4)]
    assert [name for name, module in model.named_modules() if isinstance(module, nn.MaxPool2d)] == [
        name for name, _ in recorded
    ]


@pytest.mark.parametrize("name", CPU_PRECISIONS)
def test_types_of_what_is_recorded(name: str, test_set: Images, make_cell: MakeCell) -> None:
    """With autocast, poolings are in 16 bits, and the loss is scaled as in the first step."""
    precision = PRECISIONS[name]
    recorded = record_poolings(make_cell(precision=name), *first_batch(test_set))
    plain = record_poolings(make_cell(precision="float64"), *first_batch(test_set))
    scale = 2.0**16 if precision.uses_loss_scaler else 1.0
    for (_, pooling), (_, true) in zip(recorded, plain, strict=True):
        assert pooling.x.dtype == pooling.g.dtype == working_type(precision)
        # A forward and a backward pass of a few layers, each with an error of some u.
        torch.testing.assert_close(pooling.x.double(), true.x, rtol=0, atol=50 * precision.unit_roundoff)
        ratio = (pooling.g.double() / scale - true.g).norm() / true.g.norm()
        assert ratio < 0.2 if precision.unit_roundoff > 1e-6 else ratio < 0.01


def test_the_table(test_set: Images, make_cell: MakeCell) -> None:
    cell = make_cell(precision="float16", seed=2)
    table = composed_errors(cell, *first_batch(test_set), [10, 1000.0])
    assert tuple(table.columns) == COLUMNS
    recorded = dict(record_poolings(cell, *first_batch(test_set)))
    assert list(zip(table.beta, table.layer, strict=True)) == list(itertools.product([10, 1000.0], recorded))
    for row in table.to_dict("records"):
        wanted = layer_errors(recorded[row["layer"]], row["beta"], PRECISIONS["float16"])
        assert {key: row[key] for key in wanted} == wanted
        assert (row["dataset"], row["architecture"], row["normalization"]) == ("mnist_5k", "lenet5", "none")
        assert (row["precision"], row["seed"]) == ("float16", 2)
    assert table.above_bound.max() == 0
    large = table[table.beta == 1000]
    # As noise of ReLUs: about 20 %.
    assert large.forward_error.between(0.1, 0.4).all()
