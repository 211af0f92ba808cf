"""The figure of cells at once: what was measured, and the ideal that one cell alone sets."""

from __future__ import annotations

import pandas as pd
import pytest

from .conftest import FORMATS, MADE, assert_readable, draw, legend, load

script = load("benchmark/side_by_side_figure")


def measured(cells: list[int], **made) -> pd.DataFrame:
    rates = [1000.0 * count**0.5 for count in cells]
    table = pd.DataFrame({"cells": cells, "images_per_second": rates})
    slowest = [1000.0, *(0.9 * rate / count for rate, count in zip(rates[1:], cells[1:], strict=True))]
    table = table.assign(slowest_cell=slowest, ratio_to_one=table.images_per_second / 1000)
    return table.assign(**{**MADE, "cores": 4, **made})


@pytest.mark.parametrize(
    ("made", "together"),
    [
        ({}, [1000, 2000, 4000, 4000]),
        ({"threads": 2}, [1000, 2000, 2000, 2000]),
        ({"device": "cuda", "cores": 2}, [1000, 2000, 4000, 8000]),
    ],
    ids=["four cores", "two threads per cell", "a GPU"],
)
def test_lines_are_rates_and_the_ideal(made: dict, together: list[float]) -> None:
    """A CPU's cores are shared by more cells than they have room for; of a GPU nobody knows how many these are."""
    cells = [1, 2, 4, 8]
    table = measured(cells, **made)
    figure, data = draw(script.plot, table)
    assert data.ideal_images_per_second.tolist() == together
    assert data.ideal_slowest_cell.tolist() == [rate / count for rate, count in zip(together, cells, strict=True)]
    for axes, name in zip(figure.axes, ("images_per_second", "slowest_cell"), strict=True):
        ideal, rates = axes.lines
        assert rates.get_xdata().tolist() == cells
        assert rates.get_ydata().tolist() == table[name].tolist()
        assert ideal.get_ydata()[[0, -1]] == pytest.approx(data[f"ideal_{name}"].iloc[[0, -1]].tolist())
        assert axes.get_ylim()[0] == 0
    assert len(legend(figure)) == 2
    assert ("cores" in legend(figure)[0]) == (table.device[0] == "cpu")
    assert_readable(figure)


def test_one_count_is_enough_to_draw() -> None:
    figure, _ = draw(script.plot, measured([1]))
    assert_readable(figure)


def test_the_script_writes_what_the_function_draws(run_script, tmp_path) -> None:
    table = measured([1, 2, 4])
    table.to_csv(tmp_path / "side_by_side.csv", index=False)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    run_script(
        "benchmark/side_by_side_figure",
        input={"measured": str(tmp_path / "side_by_side.csv")},
        output=output,
        log=[str(tmp_path / "job.log")],
    )
    pd.testing.assert_frame_equal(pd.read_csv(output["csv"]), draw(script.plot, table)[1])
