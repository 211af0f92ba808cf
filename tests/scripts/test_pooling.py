"""The benchmark of pooling: its statistics on a made-up clock, and its real programs on small tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nonsmooth.pooling.kernels import TYPES, kernels

from .conftest import load

benchmark = load("benchmark/pooling")
SIZE = (2, 3, 8, 8)


def test_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every two runs the second counts."""
    seconds = {
        "native": iter([9, 0.002, 9, 0.001, 9, 0.004, 9, 0.002, 9, 0.003]),
        "compiled": iter([7, 0.001, 7, 0.001, 7, 0.001, 7, 0.005, 7, 0.0]),
    }
    now = 0.0

    def program(name: str):
        def pool(input: Tensor) -> Tensor:
            nonlocal now
            now += next(seconds[name])
            return torch.nn.functional.max_pool2d(input, 2)

        return pool

    monkeypatch.setattr(benchmark.timing, "clock", lambda device: lambda: now)
    monkeypatch.setattr(benchmark, "programs", lambda *_: {name: program(name) for name in seconds})
    table = benchmark.measure(SIZE, benchmark.TILING, torch.float16, rounds=5, bandwidth=1e6).set_index("program")
    assert table.median_ms.round(9).to_dict() == {"native": 2.0, "compiled": 1.0}
    assert table.quartile1_ms.round(9).to_dict() == {"native": 2.0, "compiled": 1.0}
    assert table.quartile3_ms.round(9).to_dict() == {"native": 3.0, "compiled": 1.0}
    assert table.ratio_to_native.round(9).to_dict() == {"native": 1.0, "compiled": 0.5}
    # 384 values, 96 windows with their codes, forward and backward: 2304 bytes in 2.304 ms.
    assert table.ratio_to_copy.round(9).to_dict() == {"native": round(2 / 2.304, 9), "compiled": round(1 / 2.304, 9)}
    case = table.iloc[0][["shape", "kernel", "stride", "padding", "dtype", "rounds"]]
    assert case.tolist() == ["2x3x8x8", 2, 2, 0, "float16", 5]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_programs(dtype: torch.dtype) -> None:
    """All compute a maximum; composed, at this beta, with an error."""
    unit = torch.finfo(dtype).eps / 2
    for geometry in (benchmark.TILING, benchmark.OVERLAPPING):
        programs = benchmark.programs(geometry)
        poolings = {"exact", "composed"} if geometry == benchmark.TILING else {"exact"}
        compiled = poolings | ({"native"} if geometry == benchmark.TILING else set())
        expected = {"native"} | poolings | ({f"{name} compiled" for name in compiled} if kernels() else set())
        assert programs.keys() == expected
        input = torch.randn(SIZE, generator=torch.Generator().manual_seed(0)).relu().to(dtype)
        outputs = {name: pool(input).double() for name, pool in programs.items()}
        for name, output in outputs.items():
            bound = 21 * unit * output.abs() if name.startswith("composed") else torch.zeros_like(output)
            assert ((output - outputs["native"]).abs() <= bound).all(), name
        table = benchmark.measure(SIZE, geometry, dtype, rounds=2, bandwidth=benchmark.copy_bandwidth(benchmark.CPU, 2))
        assert set(table.program) == programs.keys()
        assert (table.median_ms > 0).all()
