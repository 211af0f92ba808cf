"""Bars of proportions: each condition in the panel that varies its factor, with its interval, seeds and what was published."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from nonsmooth import plotting, published
from nonsmooth.cells import ZONE_CONDITION
from nonsmooth.zones import tables as zones

from .conftest import (
    ALL_PRECISIONS,
    FORMATS,
    assert_readable,
    draw,
    legend,
    load,
    never_finite,
    no_difference,
    usual_difference,
    write_zone_cells,
    zone_cells,
)

script = load("maxpool/proportions")
GROUP = {"dataset": "cifar10"}
THREE = ("float16", "float32", "float64")
# The published conditions: each factor around another centre.
PUBLISHED = [
    *zone_cells(precision=THREE, architecture=["vgg11", "vgg13", "vgg16", "vgg19"], seed=range(3)),
    *zone_cells(precision=THREE, architecture=["vgg19"], batch_size=[64, 256, 512, 1024]),
    *zone_cells(precision=THREE, normalization=["batch_norm"], seed=range(3)),
]


def half_finite(cell, generator):
    return never_finite(cell, generator) if generator.random() < 0.5 else usual_difference(cell, generator)


CASES = {
    "one condition": (zone_cells(seed=[0]), 4, usual_difference),
    "published": (PUBLISHED, 12, usual_difference),
    "six precisions": (
        zone_cells(precision=ALL_PRECISIONS, architecture=["vgg11", "vgg13", "vgg16", "vgg19"]),
        12,
        usual_difference,
    ),
    "no differences": (zone_cells(precision=THREE), 4, no_difference),
    "never finite": (zone_cells(precision=THREE), 4, never_finite),
    "half finite": (
        zone_cells(precision=ALL_PRECISIONS, architecture=["resnet18"], normalization=["batch_norm", "none"]),
        12,
        half_finite,
    ),
    "other measurements beside": (
        zone_cells(
            precision=THREE, kernels=["default", "deterministic"], noise=[0.01, 0.0], program=["native", "minimal"]
        ),
        4,
        usual_difference,
    ),
    "nothing varies alone": (
        [*zone_cells(precision=THREE), *zone_cells(precision=THREE, architecture=["vgg13"], batch_size=[64])],
        12,
        usual_difference,
    ),
    "only ReLU": (
        zone_cells(precision=["float32"], program=["native+relu-1"], batch_size=[1024, 64]),
        4,
        usual_difference,
    ),
}
# Title, and the labels of the groups of bars.
TITLES = {
    "published": [
        "by architecture\n(without batch norm, batch size 128)",
        "by batch size\n(VGG19, without batch norm)",
        "by batch norm\n(VGG11, batch size 128)",
    ],
    "six precisions": ["by architecture\n(without batch norm, batch size 128)"],
    "half finite": ["by batch norm\n(ResNet-18, batch size 128)"],
    "only ReLU": ["by batch size\n(VGG11, without batch norm)"],
}
GROUPS = {
    "published": [
        ["VGG11", "VGG13", "VGG16", "VGG19"],
        ["64", "128", "256", "512", "1,024"],
        ["without\nbatch norm", "with\nbatch norm"],
    ],
    "six precisions": [["VGG11", "VGG13", "VGG16", "VGG19"]],
    "half finite": [["without\nbatch norm", "with\nbatch norm"]],
    "nothing varies alone": [["VGG11\nwithout batch norm\nbatch size 128", "VGG13\nwithout batch norm\nbatch size 64"]],
    "only ReLU": [["64", "1,024"]],
}


@pytest.fixture(scope="module", params=CASES)
def drawn(request, tmp_path_factory):
    """Case, proportions per condition and seed, the comparison, and the figure with its data."""
    made, number, measure = CASES[request.param]
    minibatches = write_zone_cells(tmp_path_factory.mktemp("zones"), made, number, measure).read()[0]
    tables = zones.proportions(minibatches), zones.proportions_by_seed(minibatches)
    compared = zones.compare(tables[0], published.zones())
    return request.param, tables, compared, *draw(script.plot, *tables, compared, GROUP)


def test_panels_vary_one_factor(drawn) -> None:
    case, _, _, figure, _ = drawn
    assert [axes.get_title() for axes in figure.axes] == TITLES.get(case, [""])
    labels = [[label.get_text().rsplit("\n", 1)[0] for label in axes.get_xticklabels()] for axes in figure.axes]
    assert labels == GROUPS.get(case, [["VGG11\nwithout batch norm\nbatch size 128"]])


def bars_of(axes) -> list:
    return [bar for bar in axes.containers[0] if not hasattr(bar, "lines")]


def test_bars_have_the_proportions_and_their_intervals(drawn) -> None:
    """Each row of the data is a bar with the colour of its precision; what is not finite stands above it."""
    _, (proportions, _), _, figure, data = drawn
    expected = {tuple(row[name] for name in ZONE_CONDITION): row for row in proportions.to_dict("records")}
    rows = data.drop_duplicates(["panel", *ZONE_CONDITION]).to_dict("records")
    for row in rows:
        same = expected[tuple(row[name] for name in ZONE_CONDITION)]
        assert all(
            row[name] == same[name] for name in ("minibatches", "nonfinite", "above", "proportion", "low", "high")
        )
    found = []
    for axes in figure.axes:
        bars, errors = axes.patches, axes.containers[0].lines[2][0].get_segments()
        main = [bar for bar in bars if bar.get_hatch() is None]
        found += [
            (to_hex(bar.get_facecolor()), bar.get_height(), *segment[:, 1])
            for bar, segment in zip(main, errors, strict=True)
        ]
        hatched = [bar for bar in bars if bar.get_hatch() is not None]
        assert all(bar.get_y() + bar.get_height() <= 100 + 1e-9 for bar in hatched)
        for bar in hatched:
            (below,) = [one for one in main if one.get_x() == pytest.approx(bar.get_x())]
            assert bar.get_y() == below.get_height()
    wanted = [
        (
            plotting.PRECISION_COLOURS[row["precision"]].lower(),
            *(100 * row[name] for name in ("proportion", "low", "high")),
        )
        for row in rows
    ]
    assert len(found) == len(wanted)
    for bar, numbers in zip(sorted(found), sorted(wanted), strict=True):
        assert bar[0] == numbers[0]
        assert bar[1:] == pytest.approx(numbers[1:])
    assert sum(bar.get_height() for axes in figure.axes for bar in axes.patches if bar.get_hatch()) == pytest.approx(
        sum(100 * row["nonfinite"] / row["minibatches"] for row in rows)
    )


def heights(figure, marker: str) -> list[float]:
    lines = [line for axes in figure.axes for line in axes.lines if line.get_marker() == marker]
    return sorted(float(y) for line in lines for y in line.get_ydata())


def test_dots_are_seeds_and_triangles_are_published(drawn) -> None:
    _, (_, by_seed), compared, figure, data = drawn
    seeds, theirs = [], []
    for row in data.drop_duplicates(["panel", *ZONE_CONDITION]).to_dict("records"):
        mine = [one for one in by_seed.to_dict("records") if all(one[name] == row[name] for name in ZONE_CONDITION)]
        seeds += [100 * one["proportion"] for one in mine] if len(mine) > 1 else []
        same = [one for one in compared.to_dict("records") if all(one[name] == row[name] for name in ZONE_CONDITION)]
        theirs += {100 * one["published_proportion"] for one in same}
    assert heights(figure, "o") == pytest.approx(sorted(seeds))
    assert heights(figure, "<") == pytest.approx(sorted(theirs))


def test_the_figure_says_what_it_shows(drawn) -> None:
    case, _, _, figure, data = drawn
    precisions = [name for name in zones.THRESHOLDS if name in set(data.precision)]
    further = {
        "not finite": data.nonfinite.any(),
        "one initialization": (data.seeds > 1).any(),
        "published": data.published_proportion.notna().any(),
    }
    assert legend(figure) == [*precisions, *(name for name, is_there in further.items() if is_there)]
    pair = "native, ReLU'(0) = 1 vs native" if case == "only ReLU" else "minimal vs native"
    assert figure.get_suptitle().replace("\n", " ") == f"CIFAR-10, {pair}, deterministic kernels"
    assert_readable(figure)
    assert all(axes.get_position().height > 0.4 for axes in figure.axes)


def test_n_counts_the_minibatches_of_a_bar(measured) -> None:
    """Which can differ between the precisions of a group."""
    minibatches = measured(number=5, precision=["float16", "float32"]).read()[0]
    minibatches = minibatches[(minibatches.precision == "float16") | (minibatches.minibatch > 1)]
    tables = zones.proportions(minibatches), zones.proportions_by_seed(minibatches)
    figure, _ = draw(script.plot, *tables, zones.compare(tables[0], published.zones()), GROUP)
    (label,) = figure.axes[0].get_xticklabels()
    assert label.get_text().endswith("\nn = 4 to 8")


def test_other_datasets_have_their_own_figure(measured) -> None:
    minibatches = measured(number=4, dataset=["cifar10", "svhn"], architecture=["vgg11", "vgg13"]).read()[0]
    tables = zones.proportions(minibatches), zones.proportions_by_seed(minibatches)
    _, data = draw(script.plot, *tables, zones.compare(tables[0], published.zones()), {"dataset": "svhn"})
    assert set(data.dataset) == {"svhn"}
    assert data.published_proportion.isna().all()


def test_the_script_writes_what_the_function_draws(measured, run_script, tmp_path) -> None:
    minibatches = measured(number=4, precision=["float16", "float32"]).read()[0]
    proportions = zones.proportions(minibatches)
    made = {
        "proportions": proportions,
        "proportions_by_seed": zones.proportions_by_seed(minibatches),
        "published": zones.compare(proportions, published.zones()),
    }
    for name, table in made.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    run_script(
        "maxpool/proportions",
        input={name: tmp_path / f"{name}.csv" for name in made},
        output=output,
        params={"group": GROUP},
        log=[str(tmp_path / "job.log")],
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"a.{suffix}" for suffix in FORMATS), *(f"{name}.csv" for name in made), "job.log"
    }  # fmt: skip
    _, data = draw(script.plot, *made.values(), GROUP)
    again = pd.read_csv(output["csv"], keep_default_na=False, na_values={"published_proportion": [""]})
    pd.testing.assert_frame_equal(again.fillna({"panel": ""}), data, check_dtype=False)
