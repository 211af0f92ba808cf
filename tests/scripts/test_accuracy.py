"""Box plots of one condition: every run is a point at its beta, what diverged is said where it diverged, and what was
published is behind ours."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import FillBetweenPolyCollection, PathCollection
from matplotlib.colors import to_hex

from nonsmooth import plotting, published

from .conftest import (
    CASES,
    CONDITION,
    FORMATS,
    HYBRIDS,
    OTHER,
    Drawn,
    as_if_published,
    assert_readable,
    draw,
    legend,
    load,
    of_condition,
    only_float16_diverges,
)

accuracy = load("maxpool/accuracy")
PUBLISHED = {name: f"test_accuracy_{name}" for name in ("mean", "std")} | {name: name for name in ("runs", "epochs")}
GREY = plotting.COLOURS["published"].lower()


def family(row: dict) -> str:
    return row["evaluation"] or ("other" if row["rule"] == OTHER else row["rule"])


def place(row: dict) -> float | str:
    return row["rule"] if math.isnan(row["beta"]) else row["beta"]


def positions(rows: list[dict]) -> dict[float | str, int]:
    places = {place(row) for row in rows}
    betas = sorted(value for value in places if not isinstance(value, str))
    return {value: number for number, value in enumerate([*betas, *sorted(places - set(betas))])}


def panels(figure, rows: list[dict]):
    """The axes of each normalization with its rows."""
    names = list(dict.fromkeys(row["normalization"] for row in rows))
    for axes, name in zip(figure.axes, names, strict=True):
        assert axes.get_title() == plotting.word(name)
        yield axes, [row for row in rows if row["normalization"] == name]


def theirs(drawn: Drawn) -> dict[tuple[str, float], dict]:
    """What was published of the conditions shown, by normalization and beta."""
    if drawn.study.published.empty:
        return {}
    ours = {(row["normalization"], row["beta"]) for row in of_condition(drawn.study.runs)}
    rows = of_condition(
        published.training(), {"dataset": "mnist", "architecture": "lenet5", "optimizer": "sgd", "precision": "float16"}
    )
    found = {(row["normalization"], float(row["beta"])): row for row in rows}
    return {key: row for key, row in found.items() if key in ours}


@pytest.fixture(scope="module", params=[case for case in CASES if case not in ("none diverged", "two ReLUs")])
def drawn(request: pytest.FixtureRequest, study) -> Drawn:
    """The figure of each case; tests only look at it."""
    diverges, factors = CASES[request.param]
    made = study(diverges, **factors)
    return Drawn(made, *draw(accuracy.plot, made.runs, made.published, CONDITION))


def test_the_data_are_the_runs_of_the_condition(drawn: Drawn) -> None:
    """And what was published beside each, if anything was."""
    rows, known = of_condition(drawn.study.runs), theirs(drawn)
    assert len(drawn.data) == len(rows)
    for found, row in zip(drawn.data.to_dict("records"), rows, strict=True):
        assert found.pop("accuracy_percent") == pytest.approx(100 * row["test_accuracy"], rel=1e-15)
        assert found.pop("family") == family(row)
        beside = {name: found.pop(f"published_{name}", math.nan) for name in PUBLISHED}
        wanted = known.get((row["normalization"], row["beta"]), dict.fromkeys(PUBLISHED.values(), math.nan))
        assert beside == pytest.approx({name: wanted[column] for name, column in PUBLISHED.items()}, nan_ok=True)
        assert math.isnan(found["beta"]) == math.isnan(row["beta"])
        assert {**found, "beta": 0} == {name: row[name] for name in accuracy.COLUMNS} | {"beta": 0}
        assert found["beta"] == row["beta"] or math.isnan(row["beta"])


def test_every_run_is_a_point_at_its_beta_in_its_colour(drawn: Drawn) -> None:
    rows = of_condition(drawn.study.runs)
    order = positions(rows)
    for axes, shown in panels(drawn.figure, rows):
        shown_points = []
        low, high = axes.get_ylim()
        for points in axes.collections:
            if not isinstance(points, PathCollection):
                continue
            colours = np.broadcast_to(points.get_facecolors(), (len(points.get_offsets()), 4))
            shown_points += [
                (round(float(x)), float(y), to_hex(colour))
                for (x, y), colour in zip(points.get_offsets(), colours, strict=True)
            ]
        expected = [
            (order[place(row)], 100 * row["test_accuracy"], plotting.COLOURS[family(row)].lower()) for row in shown
        ]
        assert sorted(shown_points) == sorted(expected)
        assert all(low <= y <= high for _, y, _ in shown_points)
        assert [label.get_text() for label in axes.get_xticklabels()] == list(map(plotting.place_label, order))


def published_values(axes) -> list[tuple[int, float]]:
    """Position and height of every published mean that can be seen."""
    low, high = axes.get_ylim()
    lines = [line for line in axes.lines if to_hex(line.get_color()) == GREY]
    found = []
    for line in lines:
        (y,) = set(line.get_ydata())
        left, right = line.get_xdata()
        assert axes.get_xlim()[0] <= left < right <= axes.get_xlim()[1]
        found += [((left + right) / 2, y)] if low <= y <= high else []
    return found


def test_what_was_published_is_behind_ours(drawn: Drawn) -> None:
    rows, known = of_condition(drawn.study.runs), theirs(drawn)
    order = positions(rows)
    for axes, shown in panels(drawn.figure, rows):
        here = {beta: row for (name, beta), row in known.items() if name == shown[0]["normalization"]}
        expected = [(order[beta], 100 * row["test_accuracy_mean"]) for beta, row in here.items()]
        assert sorted(published_values(axes)) == [pytest.approx(value) for value in sorted(expected)]
        areas = [found for found in axes.collections if isinstance(found, FillBetweenPolyCollection)]
        spans = sorted(tuple(np.round(area.get_datalim(axes.transData).intervaly, 9)) for area in areas)
        spreads = [(100 * row["test_accuracy_mean"], 100 * row["test_accuracy_std"]) for row in here.values()]
        assert spans == [pytest.approx(span) for span in sorted((mean - std, mean + std) for mean, std in spreads)]
        ours = [found.get_zorder() for found in axes.collections if isinstance(found, PathCollection)]
        behind = [artist for artist in [*areas, *axes.lines] if to_hex(colour_of(artist)) == GREY]
        assert all(artist.get_zorder() < min(ours) for artist in behind)


def colour_of(artist) -> str:
    return artist.get_facecolor()[0] if isinstance(artist, FillBetweenPolyCollection) else artist.get_color()


def test_a_single_published_run_that_failed_is_seen(study) -> None:
    """All of ours learn, so that the axis need not begin at 0."""
    made = study(rule=["native", "hybrid-1000-composed"], precision=["mixed16"], seed=[0])
    runs = made.runs.assign(test_accuracy=0.98)
    figure, _ = draw(accuracy.plot, runs, as_if_published(runs), {**CONDITION, "precision": "mixed16"})
    for axes, wanted in zip(figure.axes, ([99.3, 9.8], [99.31, 9.8]), strict=True):
        assert published_values(axes) == [(0, pytest.approx(wanted[0])), (1, pytest.approx(wanted[1]))]


def test_runs_that_all_learn_are_not_pressed_together(study) -> None:
    made = study(rule=["native", "minimal"], is_published=True)
    runs = made.runs.assign(test_accuracy=made.runs.test_accuracy.clip(lower=0.97))
    figure, _ = draw(accuracy.plot, runs, as_if_published(runs), CONDITION)
    low, high = figure.axes[0].get_ylim()
    assert 90 <= low < 97
    assert 100 <= high < 102
    assert_readable(figure)


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
                expected.add((order[place(runs[0])], f"{lost}/{len(runs)}", colour))
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
    names = [name for name in ("native", "minimal", "exact", "composed", "other") if name in map(family, rows)]
    lost = ["diverged run"] if any(row["diverged"] for row in rows) else []
    known = theirs(drawn).values()
    counts = sorted({row["runs"] for row in known})
    assert counts in ([], [10])
    said = ["published, mean ± std (10 runs, 100 epochs)"] if known else []
    assert legend(drawn.figure) == [*names, *lost, *said]


def test_its_texts_can_be_read(drawn: Drawn) -> None:
    assert_readable(drawn.figure)


def test_different_numbers_of_runs_are_a_range(study) -> None:
    made = study(rule=["native", "minimal"])
    runs = made.runs[(made.runs.rule == "native") | (made.runs.seed > 0)]
    figure, _ = draw(accuracy.plot, runs, made.published, CONDITION)
    assert "2 to 3 runs per box" in figure.get_suptitle()


def test_different_numbers_of_published_runs_are_a_range(study) -> None:
    made = study(rule=["native", "minimal"], is_published=True)
    table = made.published.assign(published_runs=[1, 10, 5, 5], published_epochs=[80, 100, 100, 80])
    figure, _ = draw(accuracy.plot, made.runs, table, CONDITION)
    assert "published, mean ± std (1 to 10 runs, 80 to 100 epochs)" in legend(figure)


@pytest.mark.parametrize("normalizations", [["none", "batch_norm"], ["none"]], ids=len)
def test_ten_runs_and_six_betas_are_readable(normalizations: list[str], study) -> None:
    """As published, where every rule loses some."""
    rules = ["native", "minimal", "hybrid-100-exact", "hybrid-100-composed", *HYBRIDS]
    made = study(rule=rules, seed=range(10), is_published=True)
    runs = made.runs[made.runs.normalization.isin(normalizations)].assign(diverged=True)
    table = made.published[made.published.normalization.isin(normalizations)]
    figure, _ = draw(accuracy.plot, runs, table, CONDITION)
    counts = sum(text.get_text() == "10/10" for axes in figure.axes for text in axes.texts)
    assert counts == len(normalizations) * len(rules)
    assert_readable(figure)


def test_only_the_runs_of_the_condition_are_drawn(study) -> None:
    """Those of another ReLU'(0) or dataset have figures of their own."""
    made = study(
        only_float16_diverges, relu_derivative=[0.0, 1.0], dataset=["mnist_5k", "fashion_mnist"], precision=["float32", "float16"],
        seed=[0], rule=["native", "hybrid-1000-composed"], is_published=True,
    )  # fmt: skip
    for relu in (0.0, 1.0):
        figure, data = draw(accuracy.plot, made.runs, made.published, {**CONDITION, "relu_derivative": relu})
        assert len(data) == 2 * 2
        assert ("ReLU'(0) = 1" in figure.get_suptitle()) == (relu == 1)
        assert ("published_mean" in data) == (relu == 0)
        assert_readable(figure)


@pytest.mark.parametrize("case", ["a rule without a beta", "only such a rule"])
def test_the_script_writes_what_the_function_draws(case: str, study, run_script, tmp_path) -> None:
    diverges, factors = CASES[case]
    made = study(diverges, **factors)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    _, data = draw(accuracy.plot, made.runs, made.published, CONDITION)
    run_script(
        "maxpool/accuracy",
        input={"runs": made.folder / "runs.csv", "published": made.folder / "published.csv"},
        output=output,
        params={"group": CONDITION},
        log=[str(tmp_path / "job.log")],
    )
    assert {path.name for path in tmp_path.iterdir()} == {*(f"a.{suffix}" for suffix in FORMATS), "job.log"}
    again = pd.read_csv(output["csv"], keep_default_na=False, na_values=[""]).fillna({"evaluation": ""})
    pd.testing.assert_frame_equal(again, data.reset_index(drop=True), check_dtype=False, check_exact=True)
