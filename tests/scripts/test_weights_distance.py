"""Distances of weights: every run is a line as long as its distance is finite, and the control is seen at 0."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from nonsmooth import plotting
from nonsmooth.cells import WeightsCell

from .conftest import FORMATS, assert_readable, draw, legend, load

script = load("maxpool/weights_distance")
PAIRS = [
    ("minimal", "native"),
    ("native", "native"),
    ("hybrid-1000-composed", "native"),
    ("hybrid-10000-composed", "native"),
    ("native+relu-1", "native"),
]
ONE = {"normalization": ["none"], "precision": ["float16", "float32"]}
CASES = {
    "usual": ONE,
    "one of each": {"normalization": ["none"], "precision": ["float32"], "pair": PAIRS[:2], "seed": [0]},
    "only the control": {**ONE, "pair": PAIRS[1:2]},
    "two networks": {"precision": ["float16", "float32", "float64"]},
    "norms": {**ONE, "pair": [("norm-1", "norm-0"), ("norm-0", "norm-0"), ("minimal", "minimal")]},
}


def table(
    dataset=("mnist_5k",),
    normalization=("none", "batch_norm"),
    precision=("float16",),
    pair=PAIRS,
    seed=(0, 1),
    epochs=3,
) -> pd.DataFrame:
    """A made-up table: controls are 0, distances grow over decades, and beta = 10,000 is lost in 16 bits at epoch 2."""
    rows = []
    for name, norm, level, (program, reference), number in product(dataset, normalization, precision, pair, seed):
        cell = WeightsCell(dataset=name, architecture="lenet5", normalization=norm, precision=level, program=program,
                           reference=reference, seed=number)  # fmt: skip
        size = {"float16": 1e-1, "float32": 1e-5, "float64": 1e-13}[level] * (1 + number + len(program))
        is_lost = level == "float16" and program == "hybrid-10000-composed"
        for epoch in range(epochs + 1):
            lost = is_lost and epoch >= 2
            distance = math.nan if lost else 0.0 if program == reference else size * epoch**3
            rows.append(
                {**cell.factors, "epoch": epoch, "distance_l1": distance, "distance_linf": distance, "weights_l1": 1000.0,
                 "program_test_accuracy": 0.1 if lost else 0.1 + 0.2 * epoch - 0.01 * number,
                 "reference_test_accuracy": 0.1 + 0.21 * epoch - 0.01 * number,
                 "program_train_loss": math.nan if lost or epoch == 0 else 1.0, "reference_train_loss": 1.0,
                 "seconds": 1.0, "program_diverged": is_lost, "reference_diverged": False}
            )  # fmt: skip
    return pd.DataFrame(rows)


def rows_of(weights: pd.DataFrame, **wanted) -> list[dict]:
    return [row for row in weights.to_dict("records") if all(row[key] == value for key, value in wanted.items())]


@pytest.fixture(scope="module", params=CASES)
def drawn(request: pytest.FixtureRequest):
    weights = table(**CASES[request.param])
    return weights, *draw(script.plot, weights)


def panels(weights: pd.DataFrame, figure):
    """Pairs of axes with the network and the precision that they show."""
    networks = list(dict.fromkeys(zip(weights.dataset, weights.normalization, strict=True)))
    precisions = list(weights.precision.unique())
    axes = np.array(figure.axes).reshape(2 * len(networks), len(precisions))
    for (row, (dataset, normalization)), (column, precision) in product(enumerate(networks), enumerate(precisions)):
        wanted = {"dataset": dataset, "normalization": normalization, "precision": precision}
        yield axes[2 * row, column], axes[2 * row + 1, column], wanted


def test_every_run_is_a_line_until_its_distance_is_lost(drawn) -> None:
    weights, figure, data = drawn
    pd.testing.assert_frame_equal(data, weights)
    for distance, accuracy, wanted in panels(weights, figure):
        runs = dict.fromkeys((row["program"], row["reference"], row["seed"]) for row in rows_of(weights, **wanted))
        lines, crosses = set(), set()
        for program, reference, seed in runs:
            rows = rows_of(weights, **wanted, program=program, reference=reference, seed=seed)
            values = [(row["epoch"], row["distance_l1"]) for row in rows if math.isfinite(row["distance_l1"])]
            lines.add(tuple(values))
            crosses |= {values[-1]} if len(values) < len(rows) else set()
        # The grey line that marks where the scale is linear is not of a run.
        of_runs = [line for line in distance.lines if len(line.get_xdata()) > 2 or line.get_marker() == "None"][:-1]
        drawn_lines = [line for line in of_runs if line.get_marker() == "None"]
        assert len(drawn_lines) == len(runs)
        assert {tuple(zip(*line.get_data(), strict=True)) for line in drawn_lines} == lines
        marks = [line for line in distance.lines if line.get_marker() == "x"]
        assert {(line.get_xdata()[0], line.get_ydata()[0]) for line in marks} == crosses
        assert not [line for line in accuracy.lines if line.get_marker() == "x"]
        shown = {tuple(np.round(line.get_ydata(), 9)) for line in accuracy.lines}
        for side in ("program", "reference"):
            for program, reference, seed in runs:
                rows = rows_of(weights, **wanted, program=program, reference=reference, seed=seed)
                assert tuple(round(100 * row[f"{side}_test_accuracy"], 9) for row in rows) in shown


def test_every_distance_is_inside_the_axes_and_0_has_a_label(drawn) -> None:
    weights, figure, _ = drawn
    largest = max([row["distance_l1"] for row in weights.to_dict("records") if math.isfinite(row["distance_l1"])])
    for distance, _, _ in panels(weights, figure):
        low, high = distance.get_ylim()
        assert low < 0 <= largest < high
        assert distance.get_yscale() == "symlog"
        assert 0 in distance.get_yticks()
        # A positive distance is never drawn as if it were none: it is on the logarithmic part.
        positive = [value for value in weights.distance_l1 if value > 0]
        assert distance.yaxis.get_transform().linthresh <= min(positive, default=math.inf)


def test_the_control_is_black_and_below_the_others(drawn) -> None:
    weights = drawn[0]
    pairs = list(dict.fromkeys(zip(weights.program, weights.reference, strict=True)))
    looks = script.pair_looks(pairs)
    assert set(looks) == set(pairs)
    widths = [look["linewidth"] for look in looks.values()]
    assert widths == sorted(widths, reverse=True)
    controls = [pair for pair in looks if pair[0] == pair[1]]
    assert list(looks)[: len(controls)] == controls
    for pair, look in looks.items():
        assert (to_hex(look["color"]) == "#000000") == (pair[0] == pair[1])
    styles = [(look["color"], look["linestyle"]) for look in looks.values()]
    assert len(set(styles)) == len(styles)


@pytest.mark.parametrize(
    ("pair", "colour"),
    [
        (("minimal", "native"), "minimal"),
        (("hybrid-10-exact", "native"), "exact"),
        (("hybrid-10-composed+relu-1", "native"), "composed"),
        (("native+relu-1", "native"), "accent"),
        (("norm-1", "norm-0"), "other"),
        (("minimal", "minimal"), "native"),
    ],
)
def test_colours_are_those_of_the_rules(pair: tuple[str, str], colour: str) -> None:
    assert script.pair_looks([pair])[pair]["color"] == plotting.COLOURS[colour]


def test_the_figure_says_what_it_shows(drawn) -> None:
    weights, figure, _ = drawn
    runs = "1 run" if weights.seed.nunique() == 1 else "2 runs"
    title = figure.get_suptitle()
    assert title.endswith(f"{runs} of each pair")
    networks = weights.normalization.unique()
    assert ("LeNet-5 on MNIST-5k, without batch norm: " in title) == (len(networks) == 1)
    names = {script.pair_label(*pair) for pair in zip(weights.program, weights.reference, strict=True)}
    lost = {"last epoch with finite weights"} if weights.distance_l1.isna().any() else set()
    assert set(legend(figure)) == names | {"accuracy of the reference"} | lost
    for distance, _, wanted in panels(weights, figure):
        assert distance.get_title().endswith(wanted["precision"])
        assert (plotting.word(wanted["normalization"]) in distance.get_title()) == (len(networks) > 1)
    assert_readable(figure)


def test_a_precision_that_a_network_does_not_have_leaves_no_axes() -> None:
    both = table(precision=["float16", "float32"])
    weights = both[(both.normalization == "none") | (both.precision == "float16")]
    figure, _ = draw(script.plot, weights)
    assert [axis.get_visible() for axis in figure.axes] == [True] * 4 + [True, False] * 2
    assert_readable(figure)


def test_the_script_writes_what_the_function_draws(run_script, tmp_path: Path) -> None:
    weights = table(**ONE)
    weights.to_csv(tmp_path / "weights.csv", index=False)
    output = {suffix: str(tmp_path / "out" / f"a.{suffix}") for suffix in FORMATS}
    run_script("maxpool/weights_distance", input={"weights": tmp_path / "weights.csv"}, output=output,
               log=[str(tmp_path / "job.log")])  # fmt: skip
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"a.{suffix}" for suffix in FORMATS}
    pd.testing.assert_frame_equal(pd.read_csv(output["csv"]), pd.read_csv(tmp_path / "weights.csv"))
