"""The figure of the cost of zones: bars as high as the ratios to a plain pass, in the panel of their network."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from nonsmooth import plotting

from .conftest import ALL_PRECISIONS, FORMATS, MADE, assert_readable, draw, legend, load

script = load("benchmark/zones_figure")
NETWORKS = [("lenet5", "none"), ("lenet5", "batch_norm"), ("vgg11", "none")]


def measured(networks, precisions) -> pd.DataFrame:
    rows = []
    for number, ((architecture, normalization), precision) in enumerate(itertools.product(networks, precisions)):
        row = {"architecture": architecture, "normalization": normalization, "precision": precision, "plain_s": 0.5}
        rows.append({**row, "pair": 2 + number / 10, "with_replays": 20.0 - number, "peak_memory_mib": 900.0, **MADE})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("networks", "precisions"), [(NETWORKS, ALL_PRECISIONS), (NETWORKS[:1], ("float32",))], ids=["all", "one"]
)
def test_bars_are_ratios(networks, precisions) -> None:
    table = measured(networks, precisions)
    figure, data = draw(script.plot, table)
    pd.testing.assert_frame_equal(data, table[list(data)])
    for axes, (network, rows) in zip(
        figure.axes, table.groupby(["architecture", "normalization"], sort=False), strict=True
    ):
        assert axes.get_title() == ", ".join(map(plotting.word, network))
        for bars, name in zip(axes.containers, ("pair", "with_replays"), strict=True):
            assert [bar.get_height() for bar in bars] == pytest.approx(rows[name].tolist())
        heights = [f"{height:.1f}" for name in ("pair", "with_replays") for height in rows[name]]
        assert [text.get_text() for text in axes.texts] == heights
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == list(precisions)
    assert legend(figure) == ["pair of programs", "with all replays", "plain pass"]
    assert_readable(figure)


def test_the_script_writes_what_the_function_draws(run_script, tmp_path) -> None:
    table = measured(NETWORKS, ["float16", "float64"])
    table.to_csv(tmp_path / "zones.csv", index=False)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    run_script(
        "benchmark/zones_figure",
        input={"measured": str(tmp_path / "zones.csv")},
        output=output,
        log=[str(tmp_path / "job.log")],
    )
    pd.testing.assert_frame_equal(pd.read_csv(output["csv"]), draw(script.plot, table)[1])
