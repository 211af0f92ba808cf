"""The Triton kernels in Triton's interpreter, which runs them on a CPU, against the plain path.

To be run in a process of its own, with `TRITON_INTERPRET=1`, which `test_triton_pooling.py` does.
"""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_compiled_pooling import GEOMETRIES, case_of, every_gradient, patterns
from test_pooling import (
    BETAS,
    DTYPES,
    SIXTEEN_BITS,
    Pooling,
    assert_same_bits,
    assert_same_bits_up_to_nan,
    fill,
    poolings,
    tiling,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nonsmooth.pooling import triton_kernels
from nonsmooth.pooling.composed import composed_max_pool2d
from nonsmooth.pooling.exact import ExactMaxPool2d
from nonsmooth.pooling.windows import Geometry

CPU = torch.device("cpu")
geometries = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
thorough = settings(deadline=None, derandomize=True, max_examples=300)


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch: pytest.MonkeyPatch):
    """The interpreter takes as long for a small block as for a large one; and NumPy warns of what overflows and is NaN."""
    monkeypatch.setattr(triton_kernels, "BLOCK", 2**14)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
    triton_kernels.are_right.cache_clear()


def assert_same_as_plain(case: Pooling, beta: float) -> None:
    """Of what is NaN it is open which one: PyTorch's 16-bit pooling on a CPU returns another one than it found."""
    geometry = Geometry.of(*case.geometry.values())
    input = case.differentiable()
    plain, _ = ExactMaxPool2d.apply(input, geometry, beta)
    (expected,) = torch.autograd.grad(plain, input, case.grad)
    output, codes = torch.empty_like(plain), torch.empty_like(plain, dtype=torch.int16)
    triton_kernels.forward(case.input, output, codes, geometry)
    result = torch.full_like(case.input, 7)
    triton_kernels.backward(case.grad, codes, result, geometry, beta)
    same_output = assert_same_bits_up_to_nan if case.dtype in SIXTEEN_BITS else assert_same_bits
    same_output(output, plain.detach())
    assert_same_bits_up_to_nan(result, expected)


@thorough
@given(poolings(grads=("ties", "extreme", "noise", "special")), st.sampled_from(BETAS) | st.floats(-1e4, 1e4))
def test_small_tensors(case: Pooling, beta: float) -> None:
    assert_same_as_plain(case._replace(input=case.input.contiguous(), grad=case.grad.contiguous()), beta)


@geometries
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_bits(geometry: dict, dtype: torch.dtype) -> None:
    """In tensors of more than one block."""
    shape = (3, 50, 9, 13)
    for seed in range(2):
        input = patterns(shape, dtype, seed) if seed else fill(shape, "special", seed, dtype)
        assert_same_as_plain(case_of(input, geometry, lambda size: patterns(size, dtype, 1)), 1000.1)


@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)
@pytest.mark.parametrize("beta", [0.5, 1.0, 1000.0, 1e-6, -2.5])
def test_every_gradient_of_16_bits(dtype: torch.dtype, beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 65,536 at one to four maxima: overflow, subnormal results, and halves between two numbers."""
    monkeypatch.setattr(triton_kernels, "BLOCK", 2**16)
    grads, windows = every_gradient(dtype)
    assert_same_as_plain(Pooling(windows, windows, grads, tiling((2, 2))), beta)


# ---------------------------------------------------------------------------------------------------- composed


def assert_same_as_composition(input: Tensor, grad: Tensor, geometry: Geometry, beta: float) -> None:
    leaf = input.clone().requires_grad_()
    (expected,) = torch.autograd.grad(composed_max_pool2d(leaf, geometry, beta), leaf, grad)
    output, codes = torch.empty_like(grad), torch.empty_like(grad, dtype=torch.int16)
    triton_kernels.forward(input, output, codes, geometry)
    result = torch.full_like(input, 7)
    triton_kernels.composed_backward(grad, codes.masked_fill_(output.isnan(), 0), result, geometry, beta)
    assert_same_bits_up_to_nan(result, expected)


@thorough
@given(
    dtype=st.sampled_from(DTYPES),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    windows=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kind=st.sampled_from(["ties", "relu", "noise", "special", "bits"]),
    of_gradients=st.sampled_from(["ties", "extreme", "noise", "special", "bits"]),
    beta=st.sampled_from(BETAS) | st.floats(-1e5, 1e5),
    seed=st.integers(0, 1000),
)
def test_composed_gradients(dtype, kernel, windows, kind, of_gradients, beta, seed) -> None:
    def drawn(size: tuple[int, ...], what: str, seed: int) -> Tensor:
        return patterns(size, dtype, seed) if what == "bits" else fill(size, what, seed, dtype)

    input = drawn((2, 10, windows[0] * kernel[0], windows[1] * kernel[1]), kind, seed)
    grad = drawn((2, 10, *windows), of_gradients, seed + 1)
    assert_same_as_composition(input, grad, Geometry.of(kernel, None, 0, 1, False), beta)


@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)
@pytest.mark.parametrize("beta", [0.5, 1.0, 1000.0, 1e-6, -2.5])
def test_every_composed_gradient_of_16_bits(dtype: torch.dtype, beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernels, "BLOCK", 2**16)
    grads, windows = every_gradient(dtype)
    assert_same_as_composition(windows, grads, Geometry.of(2, None, 0, 1, False), beta)


# ---------------------------------------------------------------------------------------------------- self-check

OVERLAPPING = Geometry.of(3, 2, 1, 1, False)


TILING = Geometry.of(2, None, 0, 1, False)
PROGRAMS = {"overlapping": (OVERLAPPING, False), "tiling": (TILING, False), "composed": (TILING, True)}


def is_right(dtype: torch.dtype, geometry: Geometry = OVERLAPPING, is_composed: bool = False) -> bool:
    return triton_kernels.are_right(CPU, dtype, (6, 8), geometry, is_composed)


class Watcher(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} was seen")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_the_kernels_are_found_right_and_nobody_sees_it(program: tuple[Geometry, bool], dtype: torch.dtype) -> None:
    with Watcher():
        assert is_right(dtype, *program)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("name", "program"), [("forward", "tiling"), ("backward", "overlapping"), ("composed_backward", "composed")]
)
def test_one_wrong_bit_is_found_and_said_once(name: str, program: str, dtype: torch.dtype, monkeypatch, caplog) -> None:
    real = getattr(triton_kernels, name)

    def wrong(*given) -> None:
        real(*given)
        written: Tensor = given[1 if name == "forward" else 2]
        bits = written.flatten().view(triton_kernels.INTEGERS[dtype.itemsize])
        bits[written.flatten().isfinite().nonzero()[-1]] ^= 1

    monkeypatch.setattr(triton_kernels, name, wrong)
    with caplog.at_level(logging.WARNING):
        assert not is_right(dtype, *PROGRAMS[program])
        assert not is_right(dtype, *PROGRAMS[program])
    (line,) = caplog.messages
    assert line.startswith(f"{'composed' if program == 'composed' else 'exact'} max pooling of {dtype}, (6, 8) on cpu")
    assert line.endswith("another result on this machine")


def test_what_does_not_compile_is_said_once(monkeypatch, caplog) -> None:
    monkeypatch.setattr(triton_kernels, "forward_kernel", {})
    with caplog.at_level(logging.WARNING):
        assert not is_right(torch.float16)
        assert not is_right(torch.float16)
    (line,) = caplog.messages
    assert "KeyError" in line
