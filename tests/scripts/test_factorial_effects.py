"""The forest of effects: every effect of the table with its interval, once, in the row that names it."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from nonsmooth import plotting
from nonsmooth.factorial import cells_table, effects_table
from nonsmooth.programs import FACTORS, PROGRAMS

from .conftest import CONDITION, FORMATS, assert_readable, draw, legend, load, of_condition
from .programs import CASES, UNLIMITED, overflow_diverges, rules

script = load("maxpool/factorial_effects")
THREE = ["F", "B", "J", "F:B", "F:J", "B:J", "F:B:J"]


@pytest.fixture(scope="module", params=CASES)
def drawn(request, study):
    """The table of effects of each case, its figure and data."""
    diverges, factors = CASES[request.param]
    table = effects_table(study(diverges, **factors).runs)
    other = table.assign(precision="float64", estimate=9.0)
    return table, *draw(script.plot, pd.concat([other, table], ignore_index=True), CONDITION)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """F, B and J by themselves, and of other designs only what they add."""
    return table[(table.design == "F,B,J") | table.effect.str.contains("R|W")]


def test_points_and_intervals(drawn) -> None:
    table, figure, _ = drawn
    names = list(dict.fromkeys(shown(table).effect))
    panels = list(itertools.product(dict.fromkeys(table.normalization), sorted(set(table.beta))))
    for axes, (normalization, beta) in zip(figure.axes, panels, strict=True):
        found = set()
        for container in axes.containers:
            point, _, (bars,) = container
            (x,), (y,) = point.get_xdata(), point.get_ydata()
            (segment,) = bars.get_segments()
            response = next(name for name, (_, colour, _, _) in script.RESPONSES.items() if colour == point.get_color())
            found.add((names[round(y)], response))
            wanted = {"normalization": normalization, "beta": beta, "effect": names[round(y)], "response": response}
            (row,) = of_condition(shown(table), wanted)
            assert x == pytest.approx(100 * row["estimate"])
            if not np.isnan(row["low"]):
                assert segment[:, 0] == pytest.approx([100 * row["low"], 100 * row["high"]], abs=1e-9)
        assert found == set(itertools.product(names, script.RESPONSES))


def test_rows_are_named_and_the_figure_says_what_it_shows(drawn) -> None:
    table, figure, data = drawn
    names = list(dict.fromkeys(shown(table).effect))
    assert names[:7] == THREE
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"{FACTORS[name]}  {name}" if name in FACTORS else name.replace(":", " × ") for name in names]
    runs = plotting.run_count(table.n)
    what = runs if runs == "1 run" else f"mean and 95\u00a0% interval of {runs} of each program"
    assert figure.get_suptitle().replace("\n", " ") == f"{plotting.condition_title(CONDITION)}: {what}"
    assert legend(figure) == ["test accuracy", "share of runs that diverge"]
    assert len(data) == len(shown(table))
    assert_readable(figure)


def test_the_width_of_the_backward_pass_is_there_where_it_was_varied(study) -> None:
    wide = [f"{name}_wide" for name, found in PROGRAMS.items() if found.backward]
    made = study(
        overflow_diverges, rule=rules([1000], [*PROGRAMS, *UNLIMITED, *wide]), seed=[0, 1], normalization=["none"]
    )
    figure, data = draw(script.plot, effects_table(made.runs), CONDITION)
    assert {"R", "W", "F:J:R", "B:W", "F:B:J:W"} <= set(data.effect)
    assert not data.duplicated(["response", "effect"]).any()
    assert data.effect.nunique() == 7 + 8 + 8
    assert_readable(figure)


def test_the_scripts_write_the_tables_and_the_figure(study, run_script, tmp_path) -> None:
    diverges, factors = CASES["none diverged"]
    made = study(diverges, **factors)
    tables = {"cells": tmp_path / "cells.csv", "effects": tmp_path / "effects.csv"}
    log = [str(tmp_path / "job.log")]
    run_script("maxpool/factorial_tables", input={"runs": made.folder / "runs.csv"}, output=tables, log=log)
    for path, table in zip(tables.values(), (cells_table(made.runs), effects_table(made.runs)), strict=True):
        pd.testing.assert_frame_equal(
            pd.read_csv(path, keep_default_na=False, na_values=[""]), table, check_dtype=False
        )
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    run_script("maxpool/factorial_effects", input={"effects": tables["effects"]}, output=output,
               params={"group": CONDITION}, log=log)  # fmt: skip
    assert all((tmp_path / f"a.{suffix}").stat().st_size for suffix in FORMATS)
    assert len(pd.read_csv(output["csv"])) == 2 * 2 * 2 * 7
