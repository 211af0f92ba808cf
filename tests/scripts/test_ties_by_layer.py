"""Lines of ties: the share of each layer and precision, in the panel that names it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from nonsmooth import plotting
from nonsmooth.zones import tables as zones

from .conftest import (
    ALL_PRECISIONS,
    FORMATS,
    ZONE_GROUP,
    assert_readable,
    draw,
    legend,
    load,
    write_zone_cells,
    zone_cells,
)

script = load("maxpool/ties_by_layer")
COUNTS = {"tied at zero": "tied_at_zero", "tied above zero": "tied_above_zero",
          "tied, and a gradient arrives": "tied_with_gradient"}  # fmt: skip
CASES = {
    "one layer": (zone_cells(precision=["float32"], seed=[0]), 1),
    "six precisions": (zone_cells(precision=ALL_PRECISIONS), 5),
    "without replays": ([dataclasses.replace(cell, replays=False) for cell in zone_cells(precision=["float16", "float64"])], 3),
    "other measurements beside": (
        zone_cells(precision=["float16"], batch_size=[64, 128], program=["native", "minimal"], noise=[0.1, 0.0]), 2,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def drawn(request, tmp_path_factory):
    """The case, its table of layers, and the figure and data."""
    made, layers = CASES[request.param]
    table = write_zone_cells(tmp_path_factory.mktemp("zones"), made, layers=layers).read()[1]
    other = table.assign(architecture="vgg13", tied_at_zero=0)
    return request.param, table, *draw(script.plot, pd.concat([table, other], ignore_index=True), ZONE_GROUP)


def shares(table: pd.DataFrame, title: str, precision: str) -> list[float]:
    """Percent of the windows of each layer, over the seeds."""
    found = []
    for layer in sorted(set(table.layer)):
        rows = [row for row in table.to_dict("records")
                if (row["layer"], row["precision"], row["program"], row["noise"]) == (layer, precision, "minimal", 0)
                and row["batch_size"] == table.batch_size.iloc[0]]  # fmt: skip
        windows = sum(row["windows"] for row in rows)
        if title == "tied by rounding only":
            count = sum(row["tied"] - row["tied_both"] for row in rows)
        else:
            count = sum(row[COUNTS[title]] for row in rows)
        found.append(100 * count / windows)
    return found


def test_lines_are_the_shares(drawn) -> None:
    case, table, figure, _ = drawn
    precisions = [name for name in zones.THRESHOLDS if name in set(table.precision)]
    titles = [*COUNTS, "tied by rounding only"]
    assert [axes.get_title() for axes in figure.axes] == (titles[:2] if case == "without replays" else titles)
    for axes in figure.axes:
        for line, precision in zip(axes.lines, precisions, strict=True):
            assert line.get_color() == plotting.PRECISION_COLOURS[precision]
            assert list(line.get_ydata()) == pytest.approx(shares(table, axes.get_title(), precision))
            assert [round(x) for x in line.get_xdata()] == sorted(set(table.layer))


def test_zero_and_every_share_are_on_the_axes(drawn) -> None:
    _, _, figure, _ = drawn
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert low < 0
        assert all(low < y < high for line in axes.lines for y in line.get_ydata())
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert (labels[0], labels[-1]) == ("0", "100")
    assert len(labels) <= 8


def test_the_figure_says_what_it_shows(drawn) -> None:
    _, table, figure, data = drawn
    precisions = [name for name in zones.THRESHOLDS if name in set(table.precision)]
    assert legend(figure) == precisions
    size = table.batch_size.iloc[0]
    windows = data.windows[data.layer == 1].max()
    assert figure.get_suptitle().replace("\n", " ") == (
        f"CIFAR-10, VGG11, without batch norm, batch size {size}: {windows:,} windows in the first layer"
    )
    assert len(data) == len(precisions) * table.layer.nunique()
    assert_readable(figure)


def test_relus_are_left_out_beside_poolings(measured) -> None:
    table = measured(program=["native+relu-1"], precision=["float32"], layers=4).read()[1]
    table.loc[table.layer.isin([1, 3]), "kind"] = "relu"
    _, data = draw(script.plot, table, ZONE_GROUP)
    assert data.layer.tolist() == [2, 4]
    _, data = draw(script.plot, table[table.kind == "relu"], ZONE_GROUP)
    assert data.layer.tolist() == [1, 3]


def test_no_ties_at_all_are_lines_at_zero(measured) -> None:
    table = measured(precision=["float32"]).read()[1]
    counts = [name for name in table if name.startswith("tied")]
    figure, _ = draw(script.plot, table.assign(**dict.fromkeys(counts, 0)), ZONE_GROUP)
    assert {y for axes in figure.axes for line in axes.lines for y in line.get_ydata()} == {0}
    assert_readable(figure)


@pytest.mark.parametrize("share", [1.0, 0.9, 0.01, 1e-6, 1e-12])
def test_ticks_are_powers_of_ten_from_the_smallest_share(share: float) -> None:
    floor = script.smallest_decade(pd.DataFrame({"a": [0.0, share], "b": [np.nan, 1.0]}))
    assert floor <= 100 * share * (1 + 1e-12) < 10.000001 * floor
    ticks = script.decades(floor)
    assert ticks == sorted(ticks)
    assert ticks[-1] == 100
    assert floor <= ticks[0]
    assert len(ticks) <= 6


def test_the_script_writes_what_the_function_draws(measured, run_script, tmp_path) -> None:
    table = measured(precision=["float16", "float32"]).read()[1]
    table.to_csv(tmp_path / "layers.csv", index=False)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    run_script(
        "maxpool/ties_by_layer",
        input={"layers": tmp_path / "layers.csv"},
        output=output,
        params={"group": ZONE_GROUP},
        log=[str(tmp_path / "job.log")],
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"a.{suffix}" for suffix in FORMATS),
        "layers.csv",
        "job.log",
    }
    _, data = draw(script.plot, table, ZONE_GROUP)
    pd.testing.assert_frame_equal(pd.read_csv(output["csv"]), data.reset_index(drop=True), check_dtype=False)
