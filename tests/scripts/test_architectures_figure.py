"""The figure of architectures: a point per network and precision, in milliseconds, in the row of its network."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from nonsmooth import plotting
from nonsmooth.architectures import ARCHITECTURES

from .conftest import ALL_PRECISIONS, FORMATS, MADE, assert_readable, draw, legend, load

script = load("benchmark/architectures_figure")


def measured(architectures, precisions) -> pd.DataFrame:
    rows = []
    for number, (architecture, precision) in enumerate(itertools.product(architectures, precisions), 1):
        seconds = 0.001 * number**2
        row = {
            "architecture": architecture,
            "precision": precision,
            "parameters": 10,
            "steps": 20,
            "peak_memory_mib": 700,
        }
        times = {"seconds": seconds, "quartile1": 0.9 * seconds, "quartile3": 1.3 * seconds}
        rows.append({**row, **times, "peak_gpu_memory_mib": None, "batch_size": 128, **MADE})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("architectures", "precisions"),
    [(list(ARCHITECTURES), ALL_PRECISIONS), (["vgg11", "lenet5"], ("float64", "float16")), (["lenet5"], ("float32",))],
    ids=["all", "two", "one"],
)
def test_points_are_milliseconds(architectures, precisions) -> None:
    table = measured(architectures, precisions)
    figure, data = draw(script.plot, table)
    (axes,) = figure.axes
    drawn = [name for name in plotting.PRECISION_COLOURS if name in precisions]
    assert legend(figure) == drawn
    assert [label.get_text() for label in axes.get_yticklabels()] == [plotting.word(name) for name in architectures]
    for container, precision in zip(axes.containers, drawn, strict=True):
        points, _, (bars,) = container
        expected = [1000 * row.seconds for row in table.itertuples() if row.precision == precision]
        assert points.get_xdata() == pytest.approx(expected)
        assert [round(y) for y in points.get_ydata()] == list(range(len(architectures)))
        assert points.get_color() == plotting.PRECISION_COLOURS[precision]
        for ((low, _), (high, _)), median in zip(bars.get_segments(), expected, strict=True):
            assert (low, high) == pytest.approx((0.9 * median, 1.3 * median))
    assert data.ms.tolist() == pytest.approx((1000 * table.seconds).tolist())
    assert "128 images" in figure.get_suptitle()
    assert_readable(figure)


def test_the_script_writes_what_the_function_draws(run_script, tmp_path) -> None:
    table = measured(["lenet5", "vgg11"], ["float32"])
    table.to_csv(tmp_path / "architectures.csv", index=False)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    run_script(
        "benchmark/architectures_figure",
        input={"measured": str(tmp_path / "architectures.csv")},
        output=output,
        log=[str(tmp_path / "job.log")],
    )
    pd.testing.assert_frame_equal(pd.read_csv(output["csv"]), draw(script.plot, table)[1])
