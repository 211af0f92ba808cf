"""The figure of pooling: every program of every input and type at its ratio, with bars between its quartiles."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from nonsmooth.pooling.kernels import TYPES

from .conftest import FORMATS, MADE, assert_readable, draw, legend, load

script = load("benchmark/pooling_figure")
INPUTS = {"128x6x24x24": 2, "128x64x32x32": 3, "128x256x8x8": 2, "128x512x4x4": 2}
# Milliseconds: native, and multiples of it.
NATIVE = {"float16": 2.0, "bfloat16": 40.0, "float32": 123.4, "float64": 0.5}
RATIOS = {"native": 1.0, "composed": 4.0, "exact": 2.5, "composed compiled": 0.9, "exact compiled": 0.3}


def measured(inputs: list[str], types: list[str], programs: list[str]) -> pd.DataFrame:
    rows = []
    for shape, dtype, program in itertools.product(inputs, types, programs):
        median = NATIVE[dtype] * RATIOS[program]
        row = {"shape": shape, "kernel": INPUTS[shape], "stride": 2, "padding": 0, "dtype": dtype, "program": program}
        times = {"median_ms": median, "quartile1_ms": 0.9 * median, "quartile3_ms": 1.2 * median}
        rows.append({**row, **times, "ratio_to_native": RATIOS[program], "ratio_to_copy": 1.5, "rounds": 30, **MADE})
    return pd.DataFrame(rows)


CASES = {
    "all": (list(INPUTS), list(TYPES.values()), list(RATIOS)),
    "without a compiler": (list(INPUTS)[:3], list(TYPES.values()), ["native", "composed", "exact"]),
    "one input": (list(INPUTS)[:1], ["float32"], ["native", "exact compiled"]),
}


@pytest.mark.parametrize("case", CASES)
def test_points_are_ratios(case: str) -> None:
    inputs, types, programs = CASES[case]
    figure, data = draw(script.plot, measured(inputs, types, programs))
    shown = [axes for axes in figure.axes if axes.axison]
    assert len(shown) == len(inputs)
    drawn = [name for name in script.STYLES if name in programs]
    for axes, shape in zip(shown, inputs, strict=True):
        assert axes.get_title().startswith(shape.replace("x", " × "))
        assert [label.get_text() for label in axes.get_xticklabels()] == [
            f"{name}\n{NATIVE[name]:.3g} ms" for name in types
        ]
        for container, program in zip(axes.containers, drawn, strict=True):
            points, _, (bars,) = container
            assert points.get_ydata() == pytest.approx([RATIOS[program]] * len(types))
            assert [round(x) for x in points.get_xdata()] == list(range(len(types)))
            for (_, low), (_, high) in bars.get_segments():
                assert (low, high) == pytest.approx((0.9 * RATIOS[program], 1.2 * RATIOS[program]))
        low, high = axes.get_ylim()
        assert low < 0.9 * min(RATIOS[name] for name in drawn)
        assert high > 1.2 * max(RATIOS[name] for name in drawn)
        assert low < 1 < high
    assert legend(figure) == [*drawn, "PyTorch's own"]
    assert len(data) == len(inputs) * len(types) * len(drawn)
    assert_readable(figure)


def test_quartiles_are_over_the_median_of_native() -> None:
    """Of the same input and type."""
    found = script.with_ratios(measured(["128x6x24x24"], ["float16", "float64"], ["native", "exact"]))
    assert found.native_ms.tolist() == [2.0, 0.5]
    assert found.ratio_quartile1.tolist() == pytest.approx([2.25, 2.25])
    assert found.ratio_quartile3.tolist() == pytest.approx([3.0, 3.0])


def test_the_script_writes_what_the_function_draws(run_script, tmp_path) -> None:
    table = measured(*CASES["all"])
    table.to_csv(tmp_path / "pooling.csv", index=False)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    run_script(
        "benchmark/pooling_figure",
        input={"measured": str(tmp_path / "pooling.csv")},
        output=output,
        log=[str(tmp_path / "job.log")],
    )
    _, data = draw(script.plot, table)
    pd.testing.assert_frame_equal(pd.read_csv(output["csv"]), data.reset_index(drop=True))
    assert all((tmp_path / f"a.{suffix}").stat().st_size for suffix in FORMATS)
