"""The largest pooled values: a line per run until it is not finite, and the value whose product with beta overflows."""

from __future__ import annotations

import itertools
import math
import zlib

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from nonsmooth import plotting
from nonsmooth.programs import PROGRAMS
from nonsmooth.rules import Hybrid

from .conftest import CONDITION, FORMATS, assert_readable, draw, legend, load, of_condition

script = load("maxpool/max_activation")
STEPS = list(range(1, 42, 5))
RED = "#b00020"


def values(name: str, beta: float, seed: int, largest: float) -> list[float]:
    """Growing values, more so with J; with F they end where beta times a value overflows."""
    generator = np.random.default_rng(zlib.crc32(f"{name} {beta} {seed}".encode()))
    program = PROGRAMS[name]
    growth = 0.02 + 0.05 * program.jacobian * math.log10(max(beta, 1))
    series = [2 * math.exp(growth * step) * generator.uniform(0.9, 1.1) for step in STEPS]
    lost = [i for i, value in enumerate(series) if program.forward and beta * value > largest]
    return series[: lost[0]] + [math.nan] * (len(series) - lost[0]) if lost else series


def activations(betas=(10, 1000, 10000), seeds=(0, 1, 2), normalizations=("none", "batch_norm"), names=tuple(PROGRAMS),
                largest: float = 65504.0, precision: str = "float16") -> pd.DataFrame:  # fmt: skip
    rows = []
    for normalization, name, seed in itertools.product(normalizations, names, seeds):
        for beta in [0.0] if name == "native" else betas:
            identity = {**CONDITION, "precision": precision, "normalization": normalization, "seed": seed, "beta": float(beta),
                        "rule": "native" if name == "native" else str(Hybrid(beta, name)),
                        "evaluation": np.nan if name == "native" else name}  # fmt: skip
            rows += [{**identity, "step": step, "max_activation": value}
                     for step, value in zip(STEPS, values(name, beta, seed, largest), strict=True)]  # fmt: skip
    return pd.DataFrame(rows)


CASES = {
    "usual": {},
    "one run, one beta": {"betas": [10000], "seeds": [0], "normalizations": ["batch_norm"]},
    "some programs": {"names": ["native", "forward", "composed"], "betas": [1000]},
}


@pytest.fixture(scope="module", params=CASES)
def drawn(request):
    """The table of each case, beside another precision's, and its figure and data."""
    table = activations(**CASES[request.param])
    other = activations(precision="float32")
    return table, *draw(script.plot, pd.concat([other, table], ignore_index=True), CONDITION)


def panels(table: pd.DataFrame, figure):
    betas = sorted(set(table.beta[table.rule != "native"]))
    return zip(figure.axes, itertools.product(dict.fromkeys(table.normalization), betas), strict=True)


def finite_part(table: pd.DataFrame, normalization: str, beta: float, name: str, seed: int) -> list[float]:
    rule = "native" if name == "native" else str(Hybrid(beta, name))
    rows = of_condition(table, {"normalization": normalization, "rule": rule, "seed": seed})
    return list(itertools.takewhile(math.isfinite, (row["max_activation"] for row in rows)))


def test_lines_end_with_a_cross_where_they_are_lost(drawn) -> None:
    table, figure, _ = drawn
    crossed = 0
    for axes, (normalization, beta) in panels(table, figure):
        lines = [
            (to_hex(line.get_color()), tuple(line.get_ydata())) for line in axes.lines if line.get_linestyle() == "-"
        ]
        crosses = [(to_hex(line.get_color()), line.get_xdata()[0], line.get_ydata()[0])
                   for line in axes.lines if line.get_marker() == "x" and len(line.get_xdata())]  # fmt: skip
        expected, lost = [], []
        for name, seed in itertools.product(PROGRAMS, sorted(set(table.seed))):
            series = finite_part(table, normalization, beta, name, seed)
            colour = plotting.PROGRAM_COLOURS[name].lower()
            expected += [(colour, tuple(series))] if series else []
            lost += [(colour, STEPS[len(series) - 1], series[-1])] if 0 < len(series) < len(STEPS) else []
        assert sorted(lines) == sorted(expected)
        assert sorted(crosses) == sorted(lost)
        crossed += len(lost)
    assert ("not finite from here" in legend(figure)) == (crossed > 0)


def test_the_value_that_overflows_is_marked_where_it_is_on_the_axes(drawn) -> None:
    table, figure, _ = drawn
    for axes, (_, beta) in panels(table, figure):
        low, high = axes.get_ylim()
        marked = [line.get_ydata()[0] for line in axes.lines if to_hex(line.get_color()) == RED]
        texts = [text.get_text() for text in axes.texts]
        if low < 65504 / beta < high:
            assert marked == [65504 / beta]
            assert texts == [f"65504 / β = {65504 / beta:.3g}"]
        else:
            assert (marked, texts) == ([], [])
        assert axes.get_yscale() == "log"


def test_every_value_is_on_the_axes_and_the_figure_says_what_it_shows(drawn) -> None:
    table, figure, data = drawn
    finite = table.max_activation[np.isfinite(table.max_activation)]
    low, high = figure.axes[0].get_ylim()
    assert low < finite.min() < finite.max() < high
    assert len(data) <= len(table) + (table.rule == "native").sum() * 2
    count = plotting.run_count(pd.Series([table.seed.nunique()]))
    title = f"{plotting.condition_title(CONDITION)}: {count} of each program, a line each"
    assert figure.get_suptitle().replace("\n", " ") == title
    shown = [plotting.part_words(name) for name in PROGRAMS if name in {*table.evaluation, "native"}]
    assert legend(figure)[: len(shown)] == shown
    assert_readable(figure)


def test_an_infinite_value_and_a_run_that_stops_are_lost_too() -> None:
    table = activations(seeds=[0], betas=[10], normalizations=["none"])
    forward, backward = table.evaluation == "forward", table.evaluation == "backward"
    table.loc[forward & (table.step == STEPS[4]), "max_activation"] = math.inf
    table = table[~(backward & (table.step > STEPS[2]))]
    _, data = draw(script.plot, table, CONDITION)
    ends = {row.program: row.step for row in data[data.is_end].itertuples()}
    assert ends == {"forward": STEPS[3], "backward": STEPS[2]}
    # What is finite again after that is another network's.
    assert data.step[data.program == "forward"].max() == STEPS[3]


@pytest.mark.parametrize(("precision", "largest"), [("float16", 65504), ("mixed16", 65504), ("bfloat16", 3.3895e38),
                                                    ("float32", 3.4028e38), ("float64", 1.79769e308)])  # fmt: skip
def test_the_largest_number_of_what_a_pooling_computes_in(precision: str, largest: float) -> None:
    assert script.largest_number(precision) == pytest.approx(largest, rel=1e-4)


def test_without_overflow_in_reach_there_is_no_line() -> None:
    table = activations(precision="float32", largest=3.4e38)
    figure, _ = draw(script.plot, table, {**CONDITION, "precision": "float32"})
    assert not any(to_hex(line.get_color()) == RED for axes in figure.axes for line in axes.lines)
    assert "F overflows above" not in legend(figure)
    assert_readable(figure)


def test_the_script_writes_what_the_function_draws(run_script, tmp_path) -> None:
    table = activations(**CASES["one run, one beta"])
    table.to_csv(tmp_path / "activations.csv", index=False)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    run_script("maxpool/max_activation", input={"activations": tmp_path / "activations.csv"}, output=output,
               params={"group": CONDITION}, log=[str(tmp_path / "job.log")])  # fmt: skip
    _, data = draw(script.plot, table, CONDITION)
    pd.testing.assert_frame_equal(pd.read_csv(output["csv"]), data.reset_index(drop=True), check_dtype=False)
