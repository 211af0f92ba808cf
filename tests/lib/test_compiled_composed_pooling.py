"""Compiled composed pooling against the plain composition, bit for bit."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_compiled_pooling import needs_kernels, patterns
from test_pooling import BETAS, DTYPES, SIXTEEN_BITS, assert_same_bits_up_to_nan, fill
from torch import Tensor

from nonsmooth import training
from nonsmooth.cells import TrainingCell
from nonsmooth.images import Images
from nonsmooth.pooling import Hybrid, compiled, max_pool2d
from nonsmooth.pooling.compiled import CompiledComposedMaxPool2d, can_compile
from nonsmooth.pooling.composed import composed_max_pool2d
from nonsmooth.pooling.windows import Geometry
from nonsmooth.precision import PRECISIONS

CPU = torch.device("cpu")
SQUARE = Geometry.of(2, None, 0, 1, False)
thorough = settings(deadline=None, derandomize=True, max_examples=300)


def assert_same_as_plain(input: Tensor, grad: Tensor, beta: float, geometry: Geometry = SQUARE) -> None:
    """Outside a precision's arithmetic and, for 16 bits, inside it. Of what is NaN it is open which one."""
    assert can_compile(input, geometry)
    inside = {p.dtype: p.arithmetic for p in PRECISIONS.values() if p.dtype in SIXTEEN_BITS and p.autocast is None}
    for arithmetic in (nullcontext, inside.get(input.dtype, nullcontext)):
        outputs, results = [], []
        for function in (CompiledComposedMaxPool2d.apply, composed_max_pool2d):
            leaf = input.clone().requires_grad_()
            with arithmetic() if arithmetic is nullcontext else arithmetic(CPU):
                output = function(leaf, geometry, beta)
                output.backward(grad)
            outputs.append(output.detach())
            results.append(leaf.grad)
        assert_same_bits_up_to_nan(*outputs)
        assert_same_bits_up_to_nan(*results)


@needs_kernels
@thorough
@given(
    dtype=st.sampled_from(DTYPES),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    windows=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    planes=st.integers(2, 40),
    kind=st.sampled_from(["ties", "relu", "noise", "special", "bits"]),
    of_gradients=st.sampled_from(["ties", "extreme", "noise", "special", "bits"]),
    beta=st.sampled_from(BETAS) | st.floats(-1e5, 1e5),
    seed=st.integers(0, 1000),
)
def test_small_tensors(dtype, kernel, windows, planes, kind, of_gradients, beta, seed) -> None:
    geometry = Geometry.of(kernel, None, 0, 1, False)

    def drawn(size: tuple[int, ...], what: str, seed: int) -> Tensor:
        return patterns(size, dtype, seed) if what == "bits" else fill(size, what, seed, dtype)

    input = drawn((2, planes, windows[0] * kernel[0], windows[1] * kernel[1]), kind, seed)
    if can_compile(input, geometry):
        assert_same_as_plain(input, drawn((2, planes, *windows), of_gradients, seed + 1), beta, geometry)
    else:
        assert input.shape[-2:].numel() == 1


@needs_kernels
@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)
@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0, 1000.0, 1e4, 1e-6, -2.5])
def test_every_value_and_gradient_of_16_bits(dtype: torch.dtype, beta: float) -> None:
    """All 65,536 as a maximum, and as a gradient at one to four maxima."""
    every = torch.arange(2**16).to(torch.int16).view(dtype).view(2, 128, 256)
    pairs = every.repeat_interleave(2, -1).repeat_interleave(2, -2)[None]
    assert_same_as_plain(pairs.contiguous(), torch.ones(1, 2, 128, 256, dtype=dtype), beta)
    ties = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], dtype=dtype)
    windows = ties.view(4, 2, 2).movedim(0, 1).reshape(2, 8)
    grads = every.reshape(1, 256, 256, 1).repeat(1, 1, 1, 4)
    assert_same_as_plain(windows.repeat(1, 256, 256, 1), grads, beta)


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_many_planes(dtype: torch.dtype, threads: int) -> None:
    torch.set_num_threads(threads)
    for size in [(8, 8), (6, 12), (2, 2), (40, 50)]:
        input = fill((5, 37, *size), "relu", 0, dtype)
        assert_same_as_plain(input, fill((5, 37, size[0] // 2, size[1] // 2), "noise", 1, dtype), 10.0)


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zeros_of_both_signs(dtype: torch.dtype) -> None:
    """Of them the two poolings choose by themselves; in 64 planes all ways to put them into a window, many times."""
    signs = torch.randint(0, 2, (4, 64, 16, 16), generator=torch.Generator().manual_seed(0))
    input = torch.where(signs.bool(), -0.0, 0.0).to(dtype)
    assert_same_as_plain(input, fill((4, 64, 8, 8), "noise", 0, dtype), 10.0)


@needs_kernels
def test_second_derivatives_are_those_of_the_plain_path() -> None:
    input = fill((2, 3, 4, 4), "ties", 0, torch.float64)
    found = []
    for pool in (CompiledComposedMaxPool2d.apply, composed_max_pool2d):
        leaf = input.clone().requires_grad_()
        output = pool(leaf, SQUARE, 10.0)
        (first,) = torch.autograd.grad((output**3).sum(), leaf, create_graph=True)
        found.append(torch.autograd.grad((first**2).sum(), leaf)[0])
    assert torch.equal(*found)
    assert found[0].abs().max() > 0


def test_transforms_are_those_of_the_plain_path() -> None:
    input, tangent = (fill((2, 3, 4, 4), kind, 0, torch.float64) for kind in ("ties", "noise"))
    rule = Hybrid(10.0, "composed")

    def loss(pool, values: Tensor) -> Tensor:
        return (pool(values) ** 2).sum()

    def ours(values: Tensor) -> Tensor:
        return max_pool2d(values, 2, rule=rule)

    def plain(values: Tensor) -> Tensor:
        return composed_max_pool2d(values, SQUARE, 10.0)

    for transform in (
        lambda pool: torch.func.jvp(pool, (input,), (tangent,))[1],
        lambda pool: torch.func.grad(lambda values: loss(pool, values))(input),
        lambda pool: torch.func.vmap(pool)(torch.stack([input, tangent])),
        lambda pool: torch.func.vmap(torch.func.grad(lambda values: loss(pool, values)))(torch.stack([input, tangent])),
    ):
        assert torch.equal(transform(ours), transform(plain))


@needs_kernels
def test_an_empty_batch_and_other_layouts() -> None:
    for input in (torch.zeros(0, 3, 8, 8), torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)):
        leaf = input.clone().requires_grad_()
        output = max_pool2d(leaf, 2, rule=Hybrid(10.0, "composed"))
        output.sum().backward()
        again = input.clone().requires_grad_()
        composed_max_pool2d(again, SQUARE, 10.0).sum().backward()
        assert torch.equal(leaf.grad, again.grad)


@needs_kernels
@pytest.mark.parametrize("precision", ["float16", "bfloat16", "mixed16", "float32", "float64"])
@pytest.mark.parametrize("beta", [10, 1000])
def test_a_hundred_training_steps(precision: str, beta: int, train_set: Images, test_set: Images, monkeypatch) -> None:
    cell = TrainingCell(
        dataset="mnist_5k", architecture="lenet5", normalization="batch_norm", precision=precision,
        rule=f"hybrid-{beta}-composed", learning_rate=0.01, batch_size=20, epochs=10,
    )  # fmt: skip
    calls: list[int] = []
    real = compiled.composed_with_codes
    monkeypatch.setattr(compiled, "composed_with_codes", lambda *given: calls.append(1) or real(*given))
    fast = training.train(cell, train_set, test_set)
    assert len(calls) >= 2 * fast.record["steps"]
    monkeypatch.setenv("NONSMOOTH_COMPILED", "0")
    compiled.kernels.cache_clear()
    try:
        plain = training.train(cell, train_set, test_set)
    finally:
        monkeypatch.undo()
        compiled.kernels.cache_clear()
    # At 1,000 the run diverges in float16, within the first epoch.
    assert fast.record["steps"] == plain.record["steps"] == (10 if (beta, precision) == (1000, "float16") else 100)
    assert fast.record["weights_sha256"] == plain.record["weights_sha256"]
