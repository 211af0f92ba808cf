"""Compiled max pooling against the plain path, bit for bit, and how the kernels are built, kept and done without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pooling import (
    BETAS,
    DTYPES,
    SIXTEEN_BITS,
    Pooling,
    assert_same_bits,
    assert_same_bits_up_to_nan,
    fill,
    output_size,
    poolings,
    tiling,
)
from torch import Tensor

from nonsmooth import training
from nonsmooth.cells import TrainingCell
from nonsmooth.images import Images
from nonsmooth.pooling import Hybrid, compiled, max_pool2d
from nonsmooth.pooling.compiled import CompiledMaxPool2d, can_compile
from nonsmooth.pooling.exact import ExactMaxPool2d
from nonsmooth.pooling.kernels import kernels
from nonsmooth.pooling.windows import Geometry
from nonsmooth.precision import PRECISIONS

CPU = torch.device("cpu")
GEOMETRIES = {
    "tiling": tiling((2, 2)),
    "wide": tiling((2, 3)),
    "gaps": tiling((2, 2)) | {"stride": (3, 4)},
    "overlapping": tiling((3, 3)) | {"stride": (2, 2), "padding": (1, 1)},
    "everywhere": tiling((3, 3)) | {"stride": (1, 1), "padding": (1, 1)},
    "dilated": tiling((2, 3)) | {"stride": (1, 2), "dilation": (2, 3)},
    "interleaved": tiling((2, 2)) | {"stride": (2, 2), "dilation": (3, 3)},
    "ceil_mode": tiling((3, 3)) | {"stride": (2, 2), "padding": (1, 0), "ceil_mode": True},
    "sixteen positions": tiling((4, 4)) | {"stride": (3, 3), "padding": (2, 2)},
}

needs_kernels = pytest.mark.skipif(kernels() is None, reason="no compiler")
geometries = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
thorough = settings(deadline=None, derandomize=True, max_examples=400)


def patterns(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Any bits: numbers of all sizes, infinities, and NaNs of all kinds."""
    generator = torch.Generator().manual_seed(seed)
    integer = getattr(torch, f"int{8 * dtype.itemsize}")
    limits = torch.iinfo(integer)
    return torch.randint(limits.min, limits.max, shape, dtype=integer, generator=generator).view(dtype)


def assert_same_as_plain(case: Pooling, beta: float) -> None:
    """Outputs have the same bits; of a gradient that is NaN it is open which one."""
    geometry = Geometry.of(*case.geometry.values())
    assert can_compile(case.input, geometry)
    outputs, results = [], []
    for function in (CompiledMaxPool2d, ExactMaxPool2d):
        input = case.differentiable()
        output, _ = function.apply(input, geometry, beta)
        outputs.append(output.detach())
        results += torch.autograd.grad(output, input, case.grad)
    assert_same_bits(*outputs)
    assert_same_bits_up_to_nan(*results)
    assert all(tensor.is_contiguous() for tensor in (*outputs, *results))


def case_of(input: Tensor, geometry: dict, grad: Callable[[tuple[int, ...]], Tensor]) -> Pooling:
    size = output_size(*input.shape[-2:], geometry)
    return Pooling(input, input, grad((*input.shape[:-2], *size)), geometry)


def every_gradient(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """All 65,536 of a 16-bit type, and windows of 2 x 2 for them with one to four maxima."""
    grads = torch.arange(2**16).to(torch.int16).view(dtype).view(1, 256, 256, 1).repeat(1, 1, 1, 4)
    ties = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], dtype=dtype)
    return grads, ties.view(4, 2, 2).movedim(0, 1).reshape(2, 8).repeat(1, 256, 256, 1)


@needs_kernels
@thorough
@given(poolings(grads=("ties", "extreme", "noise", "special")), st.sampled_from(BETAS) | st.floats(-1e4, 1e4))
def test_small_tensors(case: Pooling, beta: float) -> None:
    # A tensor of one channel or pixel is laid out as channels first and last at once, which the plain path takes.
    input, grad = (torch.cat([tensor, tensor], -3).contiguous() for tensor in (case.input, case.grad))
    input, grad = (tensor[None] if tensor.dim() == 3 else tensor for tensor in (input, grad))
    if can_compile(input, Geometry.of(*case.geometry.values())):
        assert_same_as_plain(case._replace(input=input, grad=grad), beta)
    else:
        assert input.numel() == 0 or input.shape[-2:].numel() == 1


@needs_kernels
@geometries
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_many_planes(geometry: dict, dtype: torch.dtype, threads: int) -> None:
    """Planes are pooled in blocks, of which the last one is smaller, and by several threads."""
    torch.set_num_threads(threads)
    for number, size in enumerate([(8, 8), (7, 12), (13, 9), (40, 51)]):
        shape = (5, 37, *size)
        for input in (fill(shape, "relu", number, dtype), fill(shape, "special", number, dtype)):
            case = case_of(input, geometry, lambda size: fill(size, "noise", 1, dtype))
            assert_same_as_plain(case, 10.0)


@needs_kernels
@geometries
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_bits(geometry: dict, dtype: torch.dtype) -> None:
    shape = (3, 50, 9, 12)
    for seed in range(20):
        # Every second input from few values, so that windows tie.
        input = patterns(shape, dtype, seed) if seed % 2 else fill(shape, "ties", seed, dtype)
        assert_same_as_plain(case_of(input, geometry, lambda size: patterns(size, dtype, 1)), 1000.1)


@needs_kernels
@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)
@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0, 1000.0, 1e4, 1e-6, -2.5])
def test_every_gradient_of_16_bits(dtype: torch.dtype, beta: float) -> None:
    """All 65,536 at one to four maxima: overflow, subnormal results, and halves between two numbers."""
    grads, windows = every_gradient(dtype)
    assert_same_as_plain(Pooling(windows, windows, grads, tiling((2, 2))), beta)


@needs_kernels
@geometries
def test_an_empty_batch(geometry: dict) -> None:
    input = torch.zeros(0, 3, 8, 8)
    assert_same_as_plain(case_of(input, geometry, torch.zeros), 10.0)


@needs_kernels
def test_an_expanded_gradient() -> None:
    input = fill((2, 3, 8, 8), "ties", 0, torch.float32)
    assert_same_as_plain(case_of(input, tiling((2, 2)), torch.ones(()).expand), 10.0)


def test_what_stays_with_the_plain_path() -> None:
    input = torch.zeros(2, 3, 8, 8)
    tiles = Geometry.of(2, None, 0, 1, False)
    assert not can_compile(input.to("meta"), tiles)
    assert not can_compile(input.to(memory_format=torch.channels_last), tiles)
    assert not can_compile(input[..., ::2], tiles)
    assert not can_compile(input[:, :1], tiles)
    assert not can_compile(input, Geometry.of((3, 6), None, 0, 1, False))


@pytest.mark.parametrize("geometry", [tiling((2, 2)), GEOMETRIES["overlapping"]], ids=["tiling", "overlapping"])
def test_torch_compile_traces_the_plain_path(geometry: dict) -> None:
    def pool(input: Tensor) -> Tensor:
        return max_pool2d(input, **geometry, rule=Hybrid(10))

    input = fill((2, 3, 8, 8), "ties", 0, torch.float32).requires_grad_()
    traced = torch.compile(pool, backend="aot_eager")
    results = [torch.autograd.grad(function(input).square().sum(), input)[0] for function in (traced, pool)]
    assert_same_bits(*results)


# ------------------------------------------------------------------------------------------------- training


def weights_after(cell: TrainingCell, images: Tensor, steps: int, device: torch.device = CPU) -> str:
    training.configure(training.Settings(device=device.type))
    precision, model = PRECISIONS[cell.precision], training.initial_model(cell).to(device)
    optimizer, scaler = training.build_optimizer(cell, model), precision.loss_scaler(device)
    images, labels = images.to(device), torch.arange(len(images), device=device) % 10
    for _ in range(steps):
        with precision.arithmetic(device):
            training.step(model, optimizer, scaler, precision, images, labels)
    return training.weights_hash(model)


@needs_kernels
@pytest.mark.parametrize("precision", ["float16", "bfloat16", "mixed16", "float32", "float64"])
@pytest.mark.parametrize("architecture", ["lenet5", "vgg11"])
@pytest.mark.parametrize("rule", ["native", "minimal", "hybrid-10000-exact"])
def test_training_gives_the_same_weights(
    architecture: str, precision: str, rule: str, make_cell, train_set: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 steps of LeNet-5, 2 of VGG11, whose later poolings see 2 x 2 pixels; at the large beta some diverge."""
    if architecture == "lenet5":
        images, steps = train_set.batch(torch.arange(0, 200, 12))[0], 100
    else:
        images, steps = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), 2
    dataset = "mnist_5k" if architecture == "lenet5" else "cifar10"
    cell = make_cell(dataset=dataset, architecture=architecture, precision=precision, rule=rule)
    made = weights_after(cell, images, steps)
    monkeypatch.setattr(compiled, "kernels", lambda: None)
    assert made == weights_after(cell, images, steps)


# ------------------------------------------------------------------------------------------------- building

POOL = """
import torch
from nonsmooth.pooling import Hybrid, max_pool2d
from nonsmooth.pooling.kernels import kernels
from nonsmooth.precision import PRECISIONS
input = (torch.arange(2.0 * 3 * 8 * 8) * 7 % 5).view(2, 3, 8, 8).half().requires_grad_()
with PRECISIONS["float16"].arithmetic(torch.device("cpu")):  # which watches operations, also while kernels are loaded
    for _ in range(2):
        output = max_pool2d(input, 2, rule=Hybrid(10))
        result, = torch.autograd.grad(output, input, output)
print(kernels() is not None, result.flatten().tolist())
"""


def start(cache: Path, **environment: str) -> subprocess.Popen:
    """A process that pools, with a cache of its own, and says whether by compiled kernels, and its result."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)} | environment
    command = [sys.executable, "-c", POOL]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def outcome(process: subprocess.Popen) -> tuple[bool, str, str]:
    """Whether it was compiled, the result, and what the process complained about."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    was_compiled, result = output.split(maxsplit=1)
    return was_compiled == "True", result, errors


@pytest.fixture(scope="module")
def plain_result(tmp_path_factory: pytest.TempPathFactory) -> str:
    was_compiled, result, errors = outcome(start(tmp_path_factory.mktemp("cache"), NONSMOOTH_COMPILED="0"))
    assert (was_compiled, errors) == (False, "")
    return result


def libraries(cache: Path) -> list[Path]:
    return list((cache / "nonsmooth").iterdir())


@needs_kernels
def test_processes_that_build_at_once_and_a_broken_file(plain_result: str, tmp_path: Path) -> None:
    outcomes = [outcome(process) for process in [start(tmp_path), start(tmp_path)]]
    (library,) = libraries(tmp_path)
    content = library.read_bytes()
    library.write_bytes(content[: len(content) // 2])
    outcomes.append(outcome(start(tmp_path)))
    assert len(library.read_bytes()) == len(content)
    built = library.stat().st_mtime_ns
    outcomes.append(outcome(start(tmp_path)))
    assert library.stat().st_mtime_ns == built  # only loaded
    assert outcomes == [(True, plain_result, "")] * 4


@needs_kernels
def test_a_process_that_is_killed_while_it_builds(tmp_path: Path) -> None:
    process = start(tmp_path)
    while process.poll() is None and not (tmp_path / "nonsmooth").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not any(path.name.startswith("pooling") for path in libraries(tmp_path))
    assert outcome(start(tmp_path))[0]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PATH": "/nowhere", "CXX": ""}, "no C++ compiler"),
        ({"CXX": "/nowhere/c++"}, "/nowhere/c++"),
        ({"CXX": f"{sys.executable} -c 1/0 #"}, "ZeroDivisionError"),
        ({"XDG_CACHE_HOME": "/dev/null"}, "/dev/null"),
    ],
    ids=["none", "missing", "failing", "no cache"],
)
def test_without_kernels_the_plain_path_is_taken_and_it_is_said_once(
    environment: dict[str, str], message: str, plain_result: str, tmp_path: Path
) -> None:
    was_compiled, result, errors = outcome(start(tmp_path, **environment))
    assert (was_compiled, result) == (False, plain_result)
    (line,) = [line for line in errors.splitlines() if "uncompiled" in line]
    assert message in errors
    assert line.startswith("max pooling runs uncompiled, with the same bits but several times slower")
