"""Box plots of one condition: every run is a point at its beta, and what diverged is said where it diverged."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from nonsmooth import plotting

from .conftest import CASES, CONDITION, FORMATS, HYBRIDS, Drawn, assert_readable, draw, legend, load, of_condition

accuracy = load("maxpool/accuracy")


def family(row: dict) -> str:
    return row["evaluation"] or row["rule"]


def positions(rows: list[dict]) -> dict[float, int]:
    return {beta: number for number, beta in enumerate(sorted({row["beta"] for row in rows}))}


def panels(figure, rows: list[dict]):
    """The axes of each normalization with its rows."""
    names = list(dict.fromkeys(row["normalization"] for row in rows))
    for axes, name in zip(figure.axes, names, strict=True):
        assert axes.get_title() == plotting.word(name)
        yield axes, [row for row in rows if row["normalization"] == name]


@pytest.fixture(scope="module", params=CASES)
def drawn(request: pytest.FixtureRequest, study) -> Drawn:
    """The figure of each case; tests only look at it."""
    diverges, factors = CASES[request.param]
    made = study(diverges, **factors)
    return Drawn(made, *draw(accuracy.plot, made.runs, CONDITION))


def test_the_data_are_the_runs_of_the_condition(drawn: Drawn) -> None:
    rows = of_condition(drawn.study.runs)
    assert len(drawn.data) == len(rows)
    for found, row in zip(drawn.data.to_dict("records"), rows, strict=True):
        assert found.pop("accuracy_percent") == pytest.approx(100 * row["test_accuracy"], rel=1e-15)
        assert found.pop("family") == family(row)
        assert found == {name: row[name] for name in accuracy.COLUMNS}


def test_every_run_is_a_point_at_its_beta_in_its_colour(drawn: Drawn) -> None:
    rows = of_condition(drawn.study.runs)
    order = positions(rows)
    for axes, shown in panels(drawn.figure, rows):
        shown_points = []
        for points in axes.collections:
            colours = np.broadcast_to(points.get_facecolors(), (len(points.get_offsets()), 4))
            shown_points += [
                (round(float(x)), float(y), to_hex(colour))
                for (x, y), colour in zip(points.get_offsets(), colours, strict=True)
            ]
        expected = [
            (order[row["beta"]], 100 * row["test_accuracy"], plotting.COLOURS[family(row)].lower()) for row in shown
        ]
        assert sorted(shown_points) == sorted(expected)
        assert [label.get_text() for label in axes.get_xticklabels()] == list(map(plotting.beta_label, order))


def test_diverged_runs_are_counted_per_rule_and_only_there(drawn: Drawn) -> None:
    rows = of_condition(drawn.study.runs)
    order = positions(rows)
    for axes, shown in panels(drawn.figure, rows):
        expected = set()
        for rule in {row["rule"] for row in shown}:
            runs = [row for row in shown if row["rule"] == rule]
            lost = sum(row["diverged"] for row in runs)
            if lost:
                colour = plotting.COLOURS[family(runs[0])]
                expected.add((order[runs[0]["beta"]], f"{lost}/{len(runs)}", colour))
        counts = [text for text in axes.texts if "/" in text.get_text()]
        assert {(text.get_position()[0], text.get_text(), text.get_color()) for text in counts} == expected
        assert len(counts) == len(expected)
    any_lost = any(row["diverged"] for row in rows)
    assert ("diverged run" in legend(drawn.figure)) == any_lost
    assert any("NaN" in text.get_text() for axes in drawn.figure.axes for text in axes.texts) == any_lost


def test_the_figure_says_what_it_shows(drawn: Drawn) -> None:
    rows = of_condition(drawn.study.runs)
    runs = len({row["seed"] for row in rows})
    title = f"{plotting.condition_title(CONDITION)}: {runs} {'run' if runs == 1 else 'runs'} per box"
    assert drawn.figure.get_suptitle() == title
    assert drawn.figure.axes[0].get_ylabel() == "test accuracy, last epoch (%)"
    assert all(re.match("β", axes.get_xlabel()) for axes in drawn.figure.axes)
    names = [name for name in ("native", "minimal", "exact", "composed") if name in map(family, rows)]
    assert [name for name in legend(drawn.figure) if name != "diverged run"] == names
    assert_readable(drawn.figure)


def test_different_numbers_of_runs_are_a_range(study) -> None:
    runs = study().runs
    figure, _ = draw(accuracy.plot, runs[(runs.rule == "native") | (runs.seed > 0)], CONDITION)
    assert "2 to 3 runs per box" in figure.get_suptitle()


def test_ten_runs_and_six_betas_are_readable(study) -> None:
    """As published, where every rule loses some."""
    rules = ["native", "minimal", "hybrid-100-exact", "hybrid-100-composed", *HYBRIDS]
    runs = study(rule=rules, seed=range(10)).runs
    figure, _ = draw(accuracy.plot, runs.assign(diverged=True), CONDITION)
    assert_readable(figure)
    assert sum(text.get_text() == "10/10" for axes in figure.axes for text in axes.texts) == 2 * len(rules)


def test_the_script_writes_what_the_function_draws(study, run_script, tmp_path) -> None:
    made = study()
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    _, data = draw(accuracy.plot, made.runs, CONDITION)
    run_script(
        "maxpool/accuracy",
        input={"runs": made.folder / "runs.csv"},
        output=output,
        wildcards=CONDITION | {"run": "tiny"},
        log=[str(tmp_path / "job.log")],
    )
    assert {path.name for path in tmp_path.iterdir()} == {*(f"a.{suffix}" for suffix in FORMATS), "job.log"}
    again = pd.read_csv(output["csv"], keep_default_na=False)
    pd.testing.assert_frame_equal(again, data.reset_index(drop=True), check_dtype=False, check_exact=True)
