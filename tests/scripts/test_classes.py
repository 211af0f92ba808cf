"""Bars of classes: one per condition, as long as the shares of its classes, in the panel of its precision."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from nonsmooth import plotting
from nonsmooth.cells import ZONE_CONDITION
from nonsmooth.zones import tables as zones

from .conftest import ALL_PRECISIONS, FORMATS, assert_readable, draw, legend, load, never_finite, usual_difference

script = load("maxpool/classes")
GROUP = {"dataset": "cifar10"}
COLOURS = {to_hex(colour): name for name, colour in plotting.CLASS_COLOURS.items()}


def rarely_finite(cell, generator):
    """One overflow in a hundred, which is too narrow for a number."""
    return never_finite(cell, generator) if generator.random() < 0.01 else usual_difference(cell, generator)


CASES = {
    "one condition": {"precision": ["float32"], "number": 4, "seed": [0]},
    "six precisions and four networks": {
        "precision": ALL_PRECISIONS,
        "architecture": ["vgg11", "vgg13", "vgg16", "vgg19"],
    },
    "many": {"precision": ["float16", "float32"], "number": 400, "measure": rarely_finite},
    "never finite": {"precision": ["float16", "float64"], "measure": never_finite},
    "every factor": {
        "precision": ["float64", "float16"],
        "normalization": ["none", "batch_norm"],
        "batch_size": [64, 1024],
        "program": ["minimal", "native+relu-1"],
        "noise": [0.0, 0.01],
        "kernels": ["default", "deterministic"],
        "seed": [0],
    },
}


@pytest.fixture(scope="module", params=CASES)
def drawn(request, measured):
    """The table of classes, and the figure and data of each case."""
    classes = zones.classes(measured(**CASES[request.param]).read()[0])
    other = classes.assign(dataset="svhn")
    return classes, *draw(script.plot, pd.concat([classes, other], ignore_index=True), GROUP)


def conditions(classes: pd.DataFrame, precision: str) -> list[list[dict]]:
    """The rows of each condition of a precision, in order of appearance."""
    rows = classes[classes.precision == precision].to_dict("records")
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in ZONE_CONDITION), []).append(row)
    return list(found.values())


def test_bars_are_shares(drawn) -> None:
    classes, figure, data = drawn
    precisions = [name for name in zones.THRESHOLDS if name in set(classes.precision)]
    assert [axes.get_title(loc="left") for axes in figure.axes] == precisions
    for axes, precision in zip(figure.axes, precisions, strict=True):
        bars = [bar for container in axes.containers for bar in container]
        expected = conditions(classes, precision)
        assert (
            len(axes.get_yticklabels()) == len({label.get_text() for label in axes.get_yticklabels()}) == len(expected)
        )
        for position, rows in enumerate(expected):
            mine = sorted(
                (bar for bar in bars if round(bar.get_y() + bar.get_height() / 2) == position), key=lambda b: b.get_x()
            )
            present = [row for row in rows if row["count"]]
            assert [COLOURS[to_hex(bar.get_facecolor())] for bar in mine] == [row["class"] for row in present]
            assert [bar.get_width() for bar in mine] == pytest.approx([100 * row["share"] for row in present])
            assert mine[-1].get_x() + mine[-1].get_width() == pytest.approx(100)
    assert len(data) == len(classes)


def test_counts_are_inside_or_beside(drawn) -> None:
    classes, figure, _ = drawn
    for axes in figure.axes:
        expected = []
        for rows in conditions(classes, axes.get_title(loc="left")):
            narrow = [row for row in rows if row["count"] and row["share"] < script.NARROW]
            beside = [f"{row['count']} {plotting.CLASS_WORDS[row['class']]}" for row in narrow]
            expected.append(", ".join([f"n = {rows[0]['minibatches']:,}", *beside]))
            expected += [f"{row['count']:,}" for row in rows if row["share"] >= script.NARROW]
        assert sorted(text.get_text() for text in axes.texts) == sorted(expected)


def test_the_figure_says_what_it_shows(drawn) -> None:
    classes, figure, _ = drawn
    present = [name for name in plotting.CLASS_COLOURS if classes["count"][classes["class"] == name].any()]
    assert legend(figure) == [plotting.CLASS_WORDS[name] for name in present]
    assert figure.axes[-1].get_xlabel() == "share of minibatches (%)"
    varying = [name for name in ("architecture", "batch_size", "program") if classes[name].nunique() > 1]
    title = figure.get_suptitle().replace("\n", " ")
    assert title.startswith("CIFAR-10")
    assert ("VGG11" in title) == ("architecture" not in varying)
    assert ("minimal vs native" in title) == ("program" not in varying)
    assert_readable(figure)


def test_noise_alone_is_named_beside_the_programs(measured) -> None:
    classes = zones.classes(measured(number=4, noise=[0.0, 0.01]).read()[0])
    figure, _ = draw(script.plot, classes, GROUP)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["minimal vs native", "minimal vs native, noise 0.01"]


def test_rare_overflows_are_counted(measured) -> None:
    classes = zones.classes(measured(**CASES["many"]).read()[0])
    figure, _ = draw(script.plot, classes, GROUP)
    assert any("not finite" in text.get_text() for axes in figure.axes for text in axes.texts)


def test_without_replays_the_figure_says_so(measured) -> None:
    classes = zones.classes(measured(precision=["float32"]).read()[0].assign(replays=False))
    figure, data = draw(script.plot, classes, GROUP)
    assert data.empty
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["causes were not looked for"]
    assert_readable(figure)


def test_the_script_writes_what_the_function_draws(measured, run_script, tmp_path) -> None:
    classes = zones.classes(measured(precision=["float16", "float32"]).read()[0])
    classes.to_csv(tmp_path / "classes.csv", index=False)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    run_script(
        "maxpool/classes",
        input={"classes": tmp_path / "classes.csv"},
        output=output,
        params={"group": GROUP},
        log=[str(tmp_path / "job.log")],
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"a.{suffix}" for suffix in FORMATS),
        "classes.csv",
        "job.log",
    }
    _, data = draw(script.plot, classes, GROUP)
    pd.testing.assert_frame_equal(pd.read_csv(output["csv"]), data, check_dtype=False)
