"""Max pooling on a GPU: the kernels in Triton's interpreter, what they are compiled to, and, where there is a GPU, their bits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_compiled_pooling import GEOMETRIES, case_of, every_gradient, patterns, weights_after
from test_pooling import DTYPES, SIXTEEN_BITS, Pooling, assert_same_bits_up_to_nan, fill, tiling
from torch._subclasses import FakeTensorMode

from nonsmooth.images import Images
from nonsmooth.pooling import Hybrid, Rule, compiled, max_pool2d
from nonsmooth.pooling.compiled import can_compile_on_gpu, gpu_kernels
from nonsmooth.pooling.windows import Geometry

triton = pytest.importorskip("triton", reason="Triton is not installed")

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
geometries = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)


def test_in_the_interpreter() -> None:
    """`interpreted_triton.py`: Triton reads whether to interpret when it is imported."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", str(Path(__file__).with_name("interpreted_triton.py"))]
    run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]


# ------------------------------------------------------------------------------------------------- what is compiled


def assembly(name: str, dtype: torch.dtype, geometry: dict, capability: int, **options: bool) -> str:
    """What Triton makes of a kernel for a GPU, which need not be here; that it can be assembled, too."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernels = gpu_kernels()
    kernel = getattr(kernels, f"{name}_kernel")
    input = torch.empty(2, 3, 16, 16, dtype=dtype, device="meta")
    output = torch.nn.functional.max_pool2d(input, **geometry)
    constants = kernels.constants(input, output, Geometry.of(*geometry.values()))
    bits = f"*i{8 * dtype.itemsize}"
    types = {"codes": "*i16", "beta": "*fp64", "windows": "i32", "values": "i32"}
    types |= dict.fromkeys(("input", "output", "grad", "result"), bits) | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, {argument: types[argument] for argument in kernel.arg_names}, constants)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=kernels.OPTIONS | options)
    assert made.asm["cubin"]
    return made.asm["ptx"]


# Contracted, flushing subnormal numbers, approximate.
LOOSE = re.compile(r"^.*\b(?:fma|mad\.f|\w+\.ftz|\w+\.approx|div\.full).*$", re.MULTILINE)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["forward", "backward", "composed_backward"])
def test_every_operation_rounds_as_ieee_says(
    name: str, dtype: torch.dtype, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for geometry in (tiling((2, 2)), GEOMETRIES["overlapping"])[: 1 if name == "composed_backward" else 2]:
        made = assembly(name, dtype, geometry, capability)
        assert not LOOSE.findall(made)
        if name != "forward":
            wide = "f64" if name == "backward" or dtype == torch.float64 else "f32"
            assert {f"mul.rn.{wide}", f"div.rn.{wide}", f"add.rn.{wide}"} <= set(re.findall(r"[\w.]+", made))


def test_what_is_asked_of_the_compiler_makes_the_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert LOOSE.findall(assembly("backward", torch.float32, tiling((2, 2)), 90, enable_fp_fusion=True))


# ------------------------------------------------------------------------------------------------- which path

POOL_ON_CPU = """
import sys, torch
from nonsmooth.pooling import Hybrid, max_pool2d
input = torch.zeros(2, 3, 8, 8, requires_grad=True)
max_pool2d(input, 2, rule=Hybrid(10)).sum().backward()
assert "triton" not in sys.modules
"""


def test_a_cpu_does_without_triton() -> None:
    subprocess.run([sys.executable, "-c", POOL_ON_CPU], check=True)


@without_gpu
def test_a_gpu_that_fails_takes_the_plain_path_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """The tensors are pretended; the kernels' check is real, and fails."""
    gpu_kernels().are_right.cache_clear()
    with FakeTensorMode():
        input = torch.empty(2, 3, 10, 10, device="cuda")
        for _ in range(2):
            assert not can_compile_on_gpu(input, Geometry.of(2, None, 0, 1, False))
        assert max_pool2d(input, 2, rule=Hybrid(10)).shape == (2, 3, 5, 5)
    (line,) = caplog.messages
    assert line.startswith("exact max pooling of torch.float32, (10, 10) on cuda")


def test_it_is_switched_off_like_that_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_kernels.cache_clear()
    monkeypatch.setenv("NONSMOOTH_COMPILED", "0")
    try:
        assert gpu_kernels() is None
    finally:
        gpu_kernels.cache_clear()


# ------------------------------------------------------------------------------------------------- on a GPU


def pool(case: Pooling, rule: Rule) -> tuple[torch.Tensor, torch.Tensor]:
    input = case.differentiable()
    output = max_pool2d(input, **case.geometry, rule=rule)
    return output.detach(), torch.autograd.grad(output, input, case.grad)[0]


def assert_same_as_plain(case: Pooling, rule: Hybrid) -> None:
    """The same as the plain path on the GPU, and exact as on the CPU; of what is NaN it is open which one."""
    on_gpu, is_composed = Pooling(*(tensor.cuda() for tensor in case[:3]), case.geometry), rule.evaluation == "composed"
    assert can_compile_on_gpu(on_gpu.input, Geometry.of(*case.geometry.values()), is_composed)
    found, expected = pool(on_gpu, rule), [] if is_composed else [pool(case, rule)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "gpu_kernels", lambda: None)
        expected.append(pool(on_gpu, rule))
    for other in expected:
        for ours, theirs in zip(found, other, strict=True):
            assert_same_bits_up_to_nan(ours.cpu(), theirs.cpu())


@needs_gpu
@geometries
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_bits(geometry: dict, dtype: torch.dtype) -> None:
    shape = (5, 37, 40, 48)
    for seed, kind in enumerate(["ties", "special", "relu", "noise"]):
        noise = case_of(fill(shape, kind, seed, dtype), geometry, lambda size: fill(size, "noise", 1, dtype))
        any_bits = case_of(patterns(shape, dtype, seed), geometry, lambda size: patterns(size, dtype, 1))
        for case in (noise, any_bits):
            assert_same_as_plain(case, Hybrid(1000.1))
            if geometry in (GEOMETRIES["tiling"], GEOMETRIES["wide"]):
                assert_same_as_plain(case, Hybrid(1000.1, "composed"))


@needs_gpu
@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)
@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0, 1000.0, 1e4, 1e-6, -2.5])
@pytest.mark.parametrize("evaluation", ["exact", "composed"])
def test_every_gradient_of_16_bits(dtype: torch.dtype, beta: float, evaluation: str) -> None:
    grads, windows = every_gradient(dtype)
    assert_same_as_plain(Pooling(windows, windows, grads, tiling((2, 2))), Hybrid(beta, evaluation))


@needs_gpu
@pytest.mark.parametrize("precision", ["float16", "bfloat16", "mixed16", "tf32", "float32", "float64"])
@pytest.mark.parametrize("rule", ["minimal", "hybrid-10000-exact", "hybrid-10-composed"])
def test_training_gives_the_same_weights(
    precision: str, rule: str, make_cell, train_set: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 steps of LeNet-5."""
    images = train_set.batch(torch.arange(0, 200, 12))[0]
    cell = make_cell(precision=precision, rule=rule)
    made = weights_after(cell, images, 100, torch.device("cuda"))
    monkeypatch.setattr(compiled, "gpu_kernels", lambda: None)
    assert made == weights_after(cell, images, 100, torch.device("cuda"))
