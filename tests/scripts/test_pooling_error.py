"""Errors of composed pooling against beta: means over windows, the largest, the bound, and how many are not finite."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from nonsmooth import plotting
from nonsmooth.pooling_errors import COLUMNS, forward_bound
from nonsmooth.precision import PRECISIONS

from .conftest import FORMATS, assert_readable, draw, legend, load

script = load("maxpool/pooling_error")
LAYERS = {"pool1": 9000, "pool2": 1000}


def errors(precisions=("float16", "bfloat16", "mixed16", "float32", "float64"), betas=(1, 10, 100, 1000, 10000), seeds=(0, 1),
           lost=("float16", "mixed16")) -> pd.DataFrame:  # fmt: skip
    """Errors of a third of the bound, another in every layer; in `lost` precisions some are not finite at 10,000."""
    rows = []
    for seed, precision, beta, (layer, windows) in itertools.product(seeds, precisions, betas, LAYERS.items()):
        bound = forward_bound(beta, PRECISIONS[precision].unit_roundoff)
        size = 0.0 if beta == 1 else bound * (0.3 if layer == "pool1" else 0.4)
        is_lost = precision in lost and beta == 10000
        row = {"dataset": "mnist_5k", "architecture": "lenet5", "normalization": "none", "precision": precision, "beta": beta,
               "layer": layer, "seed": seed, "windows": windows, "nonzero": windows // 2, "untied": windows // 4,
               "forward_error": size, "forward_error_max": 0.9 * size / 0.4, "above_bound": 0.0,
               "forward_nonfinite": 200 * (layer == "pool1") if is_lost else 0, "backward_error": 0.8 * size,
               "backward_error_max": size, "backward_nonfinite": 30 if is_lost else 0,
               "rounded_error": math.nan if precision == "float64" else size / 2, "bound": bound}  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


CASES = {
    "five precisions": {},
    "nothing is lost": {"lost": ()},
    "one precision, one seed": {"precisions": ["float64"], "seeds": [0], "betas": [10, 1000]},
    "lost altogether": {"precisions": ["float16"]},
}


@pytest.fixture(scope="module", params=CASES)
def drawn(request):
    table = errors(**CASES[request.param])
    if request.param == "lost altogether":
        largest = table.beta == 10000
        table.loc[largest, "forward_nonfinite"] = table.nonzero[largest]
        table.loc[largest, ["forward_error", "forward_error_max"]] = math.nan
    return table, *draw(script.plot, table)


def pooled(table: pd.DataFrame, name: str, precision: str, beta: float) -> dict[str, float]:
    """Sums over windows, row by row."""
    counted = {"forward": "nonzero", "backward": "untied"}[name]
    rows = [row for row in table.to_dict("records") if (row["precision"], row["beta"]) == (precision, beta)]
    finite = [row[counted] - row[f"{name}_nonfinite"] for row in rows]
    total = sum(row[f"{name}_error"] * count for row, count in zip(rows, finite, strict=True) if count)
    return {
        "mean": total / sum(finite) if sum(finite) else math.nan,
        "largest": max(row[f"{name}_error_max"] for row in rows),
        "bound": rows[0]["bound"],
        "nonfinite": sum(row[f"{name}_nonfinite"] for row in rows),
        "counted": sum(row[counted] for row in rows),
    }


def test_the_data_are_pooled_over_windows(drawn) -> None:
    table, _, data = drawn
    assert len(data) == 2 * len(table[["precision", "beta"]].drop_duplicates())
    for row in data.to_dict("records"):
        expected = pooled(table, row["pass"], row["precision"], row["beta"])
        assert {name: row[name] for name in expected} == pytest.approx(expected, nan_ok=True)
        assert math.isnan(row["rounded_error"]) == (row["precision"] == "float64" or row["pass"] == "backward")


def test_what_is_drawn(drawn) -> None:
    table, figure, _ = drawn
    for axes, name in zip(figure.axes, script.PASSES, strict=True):
        found = {(to_hex(line.get_color()), line.get_marker(), line.get_linestyle()): line for line in axes.lines}
        for precision in dict.fromkeys(table.precision):
            colour = plotting.PRECISION_COLOURS[precision].lower()
            for key, mark in (("mean", ("o", "-")), ("largest", ("v", "None")), ("bound", ("None", "--"))):
                values = [pooled(table, name, precision, beta)[key] for beta in sorted(set(table.beta))]
                # Zero has no logarithm.
                values = [value if value > 0 else math.nan for value in values]
                assert list(found[colour, *mark].get_ydata()) == pytest.approx(values, nan_ok=True)
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_shares_that_are_not_finite_are_above_their_beta(drawn) -> None:
    table, figure, _ = drawn
    for axes, name in zip(figure.axes, script.PASSES, strict=True):
        expected = []
        for precision in plotting.PRECISION_COLOURS:
            for beta in sorted(set(table.beta)) if precision in set(table.precision) else []:
                found = pooled(table, name, precision, beta)
                if found["nonfinite"]:
                    expected.append((beta, f"{100 * found['nonfinite'] / found['counted']:.2g} %"))
        shares = [(text.get_position()[0], text.get_text()) for text in axes.texts if text.get_text() != "not finite"]
        assert shares == expected


def test_the_figure_says_what_it_shows(drawn) -> None:
    table, figure, _ = drawn
    networks = "1 network" if table.seed.nunique() == 1 else "2 networks"
    assert figure.get_suptitle() == f"LeNet-5, MNIST-5k, without batch norm: first minibatch of {networks}"
    names = [name for name in plotting.PRECISION_COLOURS if name in set(table.precision)]
    assert legend(figure)[: len(names)] == names
    assert ("mean, rounded to p − log₂ 2β bits" in legend(figure)) == table.rounded_error.notna().any()
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks == [plotting.place_label(beta) for beta in sorted(set(table.beta))]
    assert_readable(figure)


def test_the_script_writes_what_the_function_draws(run_script, tmp_path) -> None:
    table = errors()
    table.to_csv(tmp_path / "errors.csv", index=False)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    run_script("maxpool/pooling_error", input={"errors": tmp_path / "errors.csv"}, output=output,
               log=[str(tmp_path / "job.log")])  # fmt: skip
    _, data = draw(script.plot, table)
    pd.testing.assert_frame_equal(pd.read_csv(output["csv"]), data, check_dtype=False)
    assert np.isfinite(data["mean"]).all()
