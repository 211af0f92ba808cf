"""Histograms of differences: every minibatch is in one bar, zero and what is not finite in bars of their own."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from nonsmooth import plotting
from nonsmooth.zones.tables import THRESHOLDS, with_words

from .conftest import (
    ALL_PRECISIONS,
    FORMATS,
    ZONE_GROUP,
    assert_readable,
    draw,
    legend,
    load,
    never_finite,
    no_difference,
    of_condition,
    usual_difference,
)

script = load("maxpool/differences")
ROW = ["program", "reference", "batch_size", "noise", "kernels"]
ROWS = {
    "program": ["minimal", "native", "native+relu-1"],
    "noise": [0.0, 0.01],
    "kernels": ["default", "deterministic"],
}


def some_overflow(cell, generator):
    return never_finite(cell, generator) if generator.random() < 0.3 else usual_difference(cell, generator)


CASES = {
    "one precision": {"precision": ["float32"], "number": 4, "seed": [0]},
    "six precisions": {"precision": ALL_PRECISIONS, "program": ["minimal", "native", "native+relu-1"]},
    "many": {"precision": ["float16", "float32", "float64"], "number": 400},
    "no differences": {"precision": ["float32", "float64"], "measure": no_difference},
    "never finite": {"precision": ["float16", "float64"], "measure": never_finite},
    "some overflow": {"precision": ["float16", "bfloat16"], "measure": some_overflow, "batch_size": [64, 128]},
    "all rows": {"precision": ["float16"], **ROWS},
    "norm pooling": {"precision": ["float16"], "program": ["norm-1"], "reference": ["norm-0"]},
}


@pytest.fixture(scope="module", params=CASES)
def drawn(request, measured):
    """The table, and the figure and data of each case."""
    minibatches = measured(**CASES[request.param]).read()[0]
    other = minibatches.assign(architecture="vgg13", difference_published=1e20)
    return minibatches, *draw(script.plot, pd.concat([minibatches, other], ignore_index=True), ZONE_GROUP)


def panels(minibatches: pd.DataFrame, figure):
    """The axes of each pair and precision with its minibatches."""
    precisions = [name for name in THRESHOLDS if name in set(minibatches.precision)]
    axes = iter(figure.axes)
    for row in minibatches[ROW].drop_duplicates().to_dict("records"):
        for precision in precisions:
            yield next(axes), of_condition(minibatches, {**row, "precision": precision}), precision
    assert list(axes) == []


def test_every_minibatch_is_drawn_in_its_bar(drawn) -> None:
    """Each has one bar of its class that reaches over its difference."""
    minibatches, figure, _ = drawn
    colours = {to_hex(colour): name for name, colour in plotting.CLASS_COLOURS.items()}
    for axes, rows, _ in panels(minibatches, figure):
        bars = [
            (bar.get_x(), bar.get_x() + bar.get_width(), bar.get_height(), colours[to_hex(bar.get_facecolor())])
            for container in axes.containers
            for bar in container
            if bar.get_height() > 0
        ]
        assert sum(height for _, _, height, _ in bars) == len(rows)
        counts = Counter()
        low, high = axes.get_xlim()
        for row in rows:
            size = row["difference_published"]
            place = low if size == 0 else high if not math.isfinite(size) else math.log10(size)
            (bar,) = [bar for bar in bars if bar[0] - 1e-9 <= place <= bar[1] + 1e-9 and bar[3] == row["class"]][:1]
            counts[bar] += 1
        assert counts.total() == len(rows)
        assert {bar: bar[2] for bar in bars} == dict(counts)


def test_bars_do_not_cross_the_threshold(drawn) -> None:
    minibatches, figure, _ = drawn
    for axes, _, precision in panels(minibatches, figure):
        (line,) = axes.lines
        threshold = math.log10(THRESHOLDS[precision])
        assert list(line.get_xdata()) == [pytest.approx(threshold)] * 2
        for container in axes.containers:
            for bar in container:
                assert not bar.get_x() + 1e-6 < threshold < bar.get_x() + bar.get_width() - 1e-6


def test_panels_say_what_they_show(drawn) -> None:
    minibatches, figure, data = drawn
    for axes, rows, _ in panels(minibatches, figure):
        texts = [text.get_text() for text in axes.texts]
        zero = sum(row["difference_published"] == 0 for row in rows)
        lost = sum(not math.isfinite(row["difference_published"]) for row in rows)
        assert sorted(texts) == sorted([f"n = {len(rows):,}", *(f"{count:,}" for count in (zero, lost) if count)])
    precisions = [name for name in THRESHOLDS if name in set(minibatches.precision)]
    assert [axes.get_title() for axes in figure.axes[: len(precisions)]] == precisions
    for axes in figure.axes[-len(precisions) :]:
        labels = [label.get_text() for label in axes.get_xticklabels()]
        assert (labels[0], labels[-1]) == ("0", "not\nfinite")
    seeds = minibatches.seed.nunique()
    start = "CIFAR-10, VGG11, without batch norm: "
    assert (
        figure.get_suptitle().replace("\n", " ")
        == f"{start}{seeds} {'draw' if seeds == 1 else 'draws'} of initial weights"
    )
    words = [plotting.CLASS_WORDS[name] for name in plotting.CLASS_COLOURS if name in set(minibatches["class"])]
    assert legend(figure) == [*words, "published threshold"]
    assert_readable(figure)
    assert len(data) == len(minibatches)


def test_rows_are_named_by_what_varies(measured) -> None:
    minibatches = measured(number=3, precision=["float16"], **ROWS).read()[0]
    figure, _ = draw(script.plot, minibatches, ZONE_GROUP)
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert len(set(labels)) == len(labels) == 12
    assert labels[:3] == [
        "minimal\nvs native\ndefault kernels",
        "minimal\nvs native\ndeterministic kernels",
        "minimal\nvs native\nnoise 0.01\ndefault kernels",
    ]
    alone = minibatches[
        (minibatches.program == "native") & (minibatches.noise == 0) & (minibatches.kernels == "default")
    ]
    figure, _ = draw(script.plot, alone, ZONE_GROUP)
    assert [axes.get_ylabel() for axes in figure.axes] == ["native twice (control)"]


def test_a_pair_in_fewer_precisions_leaves_a_panel_empty(measured) -> None:
    minibatches = measured(number=3, precision=["float16", "float32"], program=["minimal", "native"]).read()[0]
    minibatches = minibatches[(minibatches.program == "minimal") | (minibatches.precision == "float16")]
    figure, data = draw(script.plot, minibatches, ZONE_GROUP)
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert texts[3] == ["not measured"]
    assert not any("not measured" in found for found in texts[:3])
    assert figure.axes[3].get_xticklabels()[0].get_text() == "0"
    assert len(data) == len(minibatches)
    assert_readable(figure)


def test_undecided_bars_are_hatched(measured) -> None:
    minibatches = measured(precision=["float16"]).read()[0]
    assert "undecided" in set(minibatches["class"])
    figure, _ = draw(script.plot, minibatches, ZONE_GROUP)
    for container in figure.axes[0].containers:
        for bar in container:
            is_undecided = to_hex(bar.get_facecolor()) == to_hex(plotting.CLASS_COLOURS["undecided"])
            assert (bar.get_hatch() is not None) == is_undecided


@pytest.mark.parametrize("threshold", sorted(set(THRESHOLDS.values())))
@pytest.mark.parametrize("sizes", [[], [0.0], [math.nan, math.inf], [1e-300], [1e-19, 1e30], [5e-324, 1e308]])
def test_edges_increase_and_hold_the_sizes(sizes: list[float], threshold: float) -> None:
    edges = script.bar_edges(pd.Series(sizes, dtype=float), threshold)
    assert (np.diff(edges) > 0).all()
    inside = [math.log10(size) for size in [*sizes, threshold] if math.isfinite(size) and size > 0]
    assert edges[2] < min(inside)
    assert max(inside) < edges[-3]


def test_cells_without_replays_have_one_colour(measured, run_script, tmp_path) -> None:
    """Through the script, where a class is empty."""
    made = measured(number=6, precision=["float32"], seed=[0])
    minibatches = made.read()[0].assign(**{"class": "", "replays": False})
    minibatches.to_csv(tmp_path / "minibatches.csv", index=False)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    run_script(
        "maxpool/differences",
        input={"minibatches": tmp_path / "minibatches.csv"},
        output=output,
        params={"group": ZONE_GROUP},
        log=[str(tmp_path / "job.log")],
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"a.{suffix}" for suffix in FORMATS),
        "minibatches.csv",
        "job.log",
    }
    figure, data = draw(script.plot, minibatches, ZONE_GROUP)
    again = with_words(
        pd.read_csv(output["csv"], keep_default_na=False, na_values=[""]).assign(replay_routed="", real_routed="")
    )
    pd.testing.assert_frame_equal(again[list(data)], data, check_dtype=False, check_exact=True)
    assert legend(figure) == ["cause not looked for", "published threshold"]
