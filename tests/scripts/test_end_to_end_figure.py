"""The figure of an epoch: two bars per rule and precision, as high as their rates, and their ratio above the second."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from .conftest import FORMATS, MADE, assert_readable, draw, legend, load

script = load("benchmark/end_to_end_figure")
PRECISIONS = ["float16", "bfloat16", "float32", "float64"]


def measured(rules, precisions) -> pd.DataFrame:
    rows = []
    for number, (rule, precision) in enumerate(itertools.product(rules, precisions), 1):
        for program, rate in (("plain", 1000.0), ("project", 1234.0 * number)):
            row = {"rule": rule, "precision": precision, "program": program, "images_per_second": rate}
            row |= {
                "quartile1": 0.8 * rate,
                "quartile3": 1.1 * rate,
                "rounds": 5,
                "ratio_to_plain": rate / 1000,
                **MADE,
            }
            rows.append(row)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("rules", "precisions"),
    [(["native", "hybrid-10-composed"], PRECISIONS), (["native"], ["float32"])],
    ids=["all", "one"],
)
def test_bars_are_rates(rules, precisions) -> None:
    table = measured(rules, precisions)
    figure, data = draw(script.plot, table)
    pd.testing.assert_frame_equal(data, table[list(data)])
    for axes, (rule, rows) in zip(figure.axes, table.groupby("rule", sort=False), strict=True):
        assert axes.get_title() == f"rule {rule}"
        assert [label.get_text() for label in axes.get_xticklabels()] == precisions
        bars = [container for container in axes.containers if hasattr(container, "patches")]
        for container, program in zip(bars, ("plain", "project"), strict=True):
            rates = rows[rows.program == program].images_per_second.tolist()
            assert [bar.get_height() for bar in container] == pytest.approx(rates)
            (lines,) = container.errorbar.lines[2]
            for ((_, low), (_, high)), rate in zip(lines.get_segments(), rates, strict=True):
                assert (low, high) == pytest.approx((0.8 * rate, 1.1 * rate))
        ratios = rows[rows.program == "project"].ratio_to_plain
        assert [text.get_text() for text in axes.texts] == [f"{ratio:.1f} ×" for ratio in ratios]
    assert [words.split()[0] for words in legend(figure)] == ["plain", "project"]
    assert_readable(figure)


def test_the_script_writes_what_the_function_draws(run_script, tmp_path) -> None:
    table = measured(["native"], PRECISIONS)
    table.to_csv(tmp_path / "end_to_end.csv", index=False)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    run_script(
        "benchmark/end_to_end_figure",
        input={"measured": str(tmp_path / "end_to_end.csv")},
        output=output,
        log=[str(tmp_path / "job.log")],
    )
    pd.testing.assert_frame_equal(pd.read_csv(output["csv"]), draw(script.plot, table)[1])
