"""Compiled native pooling against PyTorch's own, bit for bit."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_compiled_pooling import needs_kernels, patterns
from test_pooling import DTYPES, SIXTEEN_BITS, assert_same_bits, assert_same_bits_up_to_nan, fill
from torch import Tensor
from torch.nn.functional import max_pool2d as pytorchs_max_pool2d

from nonsmooth.pooling import Native, max_pool2d
from nonsmooth.pooling.compiled import can_compile
from nonsmooth.pooling.windows import Geometry
from nonsmooth.precision import PRECISIONS

CPU = torch.device("cpu")
thorough = settings(deadline=None, derandomize=True, max_examples=300)


def ours(input: Tensor, *geometry) -> Tensor:
    return max_pool2d(input, *geometry, rule=Native())


def is_compiled(output: Tensor) -> bool:
    return type(output.grad_fn).__name__ == "CompiledNativeMaxPool2dBackward"


def assert_same_as_pytorch(input: Tensor, grad: Tensor, kernel: tuple[int, int] = (2, 2)) -> None:
    """Outside a precision's arithmetic and, for 16 bits, inside it. Of a gradient that is NaN it is open which one."""
    inside = {p.dtype: p.arithmetic for p in PRECISIONS.values() if p.dtype in SIXTEEN_BITS and p.autocast is None}
    for arithmetic in (nullcontext, inside.get(input.dtype, nullcontext)):
        outputs, results = [], []
        for pool in (ours, pytorchs_max_pool2d):
            leaf = input.clone().requires_grad_()
            with arithmetic() if arithmetic is nullcontext else arithmetic(CPU):
                output = pool(leaf, kernel)
                output.backward(grad)
            assert is_compiled(output) == (pool is ours)
            outputs.append(output.detach())
            results.append(leaf.grad)
        assert_same_bits(*outputs)
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
    seed=st.integers(0, 1000),
)
def test_small_tensors(dtype, kernel, windows, planes, kind, of_gradients, seed) -> None:
    def drawn(size: tuple[int, ...], what: str, seed: int) -> Tensor:
        return patterns(size, dtype, seed) if what == "bits" else fill(size, what, seed, dtype)

    input = drawn((2, planes, windows[0] * kernel[0], windows[1] * kernel[1]), kind, seed)
    if can_compile(input, Geometry.of(kernel, None, 0, 1, False)):
        assert_same_as_pytorch(input, drawn((2, planes, *windows), of_gradients, seed + 1), kernel)
    else:
        assert input.shape[-2:].numel() == 1


@needs_kernels
@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)
def test_every_value_and_gradient_of_16_bits(dtype: torch.dtype) -> None:
    """All 65,536 as a maximum beside their neighbours, and as a gradient at one to four maxima."""
    every = torch.arange(2**16).to(torch.int16).view(dtype)
    assert_same_as_pytorch(every.view(1, 4, 128, 128), torch.ones(1, 4, 64, 64, dtype=dtype))
    ties = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], dtype=dtype)
    windows = ties.view(4, 2, 2).movedim(0, 1).reshape(2, 8)
    grads = every.view(1, 256, 256, 1).repeat(1, 1, 1, 4)
    assert_same_as_pytorch(windows.repeat(1, 256, 256, 1), grads)


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_many_planes(dtype: torch.dtype, threads: int) -> None:
    torch.set_num_threads(threads)
    for size in [(8, 8), (6, 12), (2, 2), (40, 50)]:
        input = fill((5, 37, *size), "relu", 0, dtype)
        assert_same_as_pytorch(input, fill((5, 37, size[0] // 2, size[1] // 2), "noise", 1, dtype))


@needs_kernels
def test_second_derivatives_are_pytorchs() -> None:
    input = fill((2, 3, 4, 4), "ties", 0, torch.float64)
    found = []
    for pool in (ours, pytorchs_max_pool2d):
        leaf = input.clone().requires_grad_()
        (first,) = torch.autograd.grad((pool(leaf, 2) ** 3).sum(), leaf, create_graph=True)
        found.append(torch.autograd.grad((first**2).sum(), leaf)[0])
    assert torch.equal(*found)
    assert found[0].abs().max() > 0


def test_transforms_are_pytorchs() -> None:
    input, tangent = (fill((2, 3, 4, 4), kind, 0, torch.float64) for kind in ("ties", "noise"))
    for transform in (
        lambda pool: torch.func.jvp(lambda values: pool(values, 2), (input,), (tangent,))[1],
        lambda pool: torch.func.grad(lambda values: (pool(values, 2) ** 2).sum())(input),
        lambda pool: torch.func.vmap(lambda values: pool(values, 2))(torch.stack([input, tangent])),
    ):
        assert torch.equal(transform(ours), transform(pytorchs_max_pool2d))


@needs_kernels
def test_what_pytorch_pools_itself() -> None:
    """Windows that overlap, whose gradients it adds in the working type, or leave something out; other layouts and types."""
    input = fill((2, 3, 8, 8), "ties", 0, torch.float32)
    assert is_compiled(ours(input.requires_grad_(), 2))
    for other, geometry in (
        (input, (3, 2, 1)),
        (input, (2, 1)),
        (input, (2, 3)),
        (input, (3,)),
        (input.detach().to(memory_format=torch.channels_last), (2,)),
    ):
        output, expected = (pool(other.requires_grad_(), *geometry) for pool in (ours, pytorchs_max_pool2d))
        assert not is_compiled(output)
        assert_same_bits(output.detach(), expected.detach())
    integers = torch.arange(32).view(1, 2, 4, 4)
    assert torch.equal(ours(integers, 2), pytorchs_max_pool2d(integers, 2))


@pytest.mark.parametrize("shape", [(), (4,), (4, 4), (1, 1, 1, 4, 4)])
def test_wrong_shapes_have_pytorchs_message(shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError) as pytorchs:
        pytorchs_max_pool2d(torch.zeros(shape), 2)
    with pytest.raises(RuntimeError) as raised:
        ours(torch.zeros(shape), 2)
    assert str(raised.value) == str(pytorchs.value)


def test_zeros_without_memory() -> None:
    assert torch.equal(ours(torch._efficientzerotensor((1, 3, 4, 4)), 2), torch.zeros(1, 3, 2, 2))
