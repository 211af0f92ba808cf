"""The overview: means and ranges of every condition, each in the panel that names it, and what was published."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from nonsmooth import plotting, published
from nonsmooth.cells import GROUP

from .conftest import (
    CASES,
    CONDITION,
    FORMATS,
    OTHER,
    Drawn,
    assert_readable,
    draw,
    legend,
    load,
    no_cell_diverges,
    of_condition,
)

overview = load("maxpool/accuracy_by_beta")
LABELS = {"exact": "exact (true maximum, hybrid Jacobian)", "composed": "composed (as published)"}
GREY = plotting.COLOURS["published"].lower()


def conditions(runs: pd.DataFrame) -> list[dict[str, str]]:
    """Conditions of panels, in order of appearance."""
    return [dict(zip(GROUP, values, strict=True)) for values in runs[list(GROUP)].drop_duplicates().to_numpy()]


def families(runs: pd.DataFrame) -> list[str]:
    return [name for name in ("exact", "composed") if name in set(runs.evaluation)] or ["native"]


def place(row: dict) -> float | str:
    return row["rule"] if math.isnan(row["beta"]) else row["beta"]


def points(rows: list[dict], family: str) -> dict[float | str, tuple[float, float, float, int]]:
    """By place: mean, smallest, largest accuracy in percent and the number of diverged runs of a line."""
    belong = [row for row in rows if (row["rule"] == OTHER) == (family == "other")]
    belong = [row for row in belong if (row["evaluation"] or family) == family]
    found = {}
    for key in sorted({place(row) for row in belong}):
        runs = [row for row in belong if place(row) == key]
        accuracies = [100 * row["test_accuracy"] for row in runs]
        mean = sum(accuracies) / len(accuracies)
        found[key] = (mean, min(accuracies), max(accuracies), sum(row["diverged"] for row in runs))
    return found


def lines_of(axes) -> dict[str, tuple]:
    """Line and bars by family, without empty ones."""
    found = {}
    for container in axes.containers:
        line, _, (bars,) = container
        if len(line.get_xdata()):
            (name,) = [name for name, colour in plotting.COLOURS.items() if colour == line.get_color()]
            assert name not in found
            found[name] = (line, bars)
    return found


def panels(figure, runs: pd.DataFrame):
    """The axes of each condition and normalization with its rows; up to four conditions are side by side."""
    columns = conditions(runs)
    for row, normalization in enumerate(runs.normalization.unique()):
        for column, condition in enumerate(columns):
            rows = of_condition(runs, {**condition, "normalization": normalization})
            yield figure.axes[row * len(columns) + column], rows, row, column


@pytest.fixture(scope="module", params=[case for case in CASES if case not in ("none diverged", "one normalization")])
def drawn(request: pytest.FixtureRequest, study) -> Drawn:
    """The figure of each case; tests only look at it."""
    diverges, factors = CASES[request.param]
    made = study(diverges, **factors)
    return Drawn(made, *draw(overview.plot, made.runs, made.published))


def test_the_data_are_means_and_ranges(drawn: Drawn) -> None:
    keys = [*GROUP, "normalization", "rule"]
    assert len(drawn.data) == len(drawn.study.runs[keys].drop_duplicates())
    for row in drawn.data.to_dict("records"):
        runs = of_condition(drawn.study.runs, {key: row[key] for key in keys})
        accuracies = [run["test_accuracy"] for run in runs]
        assert row["mean"] == pytest.approx(sum(accuracies) / len(accuracies), rel=1e-15 * len(accuracies))
        assert (row["min"], row["max"]) == (min(accuracies), max(accuracies))
        assert (row["runs"], row["diverged"]) == (len(runs), sum(run["diverged"] for run in runs))


def test_lines_ranges_and_crosses(drawn: Drawn) -> None:
    order = plotting.place_axis(plotting.places(drawn.study.runs))
    for axes, rows, _, _ in panels(drawn.figure, drawn.study.runs):
        expected = {name: points(rows, name) for name in [*families(drawn.study.runs), "other"]}
        expected = {name: found for name, found in expected.items() if found}
        drawn_lines = lines_of(axes)
        assert list(drawn_lines) == list(expected)
        crosses = []
        for name, found in expected.items():
            line, bars = drawn_lines[name]
            assert [round(x) for x in line.get_xdata()] == [order[key] for key in found]
            for y, bar, (mean, low, high, lost) in zip(
                line.get_ydata(), bars.get_segments(), found.values(), strict=True
            ):
                assert y == pytest.approx(mean)
                assert bar[:, 1] == pytest.approx([low, high])
                crosses += [pytest.approx(mean)] if lost else []
        heights = [y for line in axes.lines if line.get_marker() == "x" for y in line.get_ydata()]
        assert sorted(heights) == sorted(crosses, key=lambda value: value.expected)


def published_bars(axes) -> list[tuple[float, float]]:
    lines = [line for line in axes.lines if to_hex(line.get_color()) == GREY]
    return sorted((x, y) for line in lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True))


def test_what_was_published_is_in_its_panel(drawn: Drawn) -> None:
    """Once per beta, behind both evaluations; and nothing where nothing was published."""
    order = plotting.place_axis(plotting.places(drawn.study.runs))
    table = published.training().query("dataset == 'mnist'").to_dict("records")
    for axes, rows, _, _ in panels(drawn.figure, drawn.study.runs):
        expected = set()
        for row in rows if len(drawn.study.published) else []:
            for theirs in table:
                names = ("architecture", "normalization", "optimizer", "precision", "beta")
                if row["relu_derivative"] == 0 and all(row[name] == theirs[name] for name in names):
                    expected.add((order[row["beta"]], 100 * theirs["test_accuracy_mean"]))
        assert published_bars(axes) == [pytest.approx(bar) for bar in sorted(expected)]


def test_the_data_have_what_was_published(study) -> None:
    made = study(*CASES["published"][:1], **CASES["published"][1])
    _, data = draw(overview.plot, made.runs, made.published)
    theirs = {(row["normalization"], row["beta"]): row["published_mean"] for row in made.published.to_dict("records")}
    for row in data.to_dict("records"):
        assert row["published_mean"] == theirs[row["normalization"], row["beta"]]


def test_panels_and_axes_are_named(drawn: Drawn) -> None:
    found = conditions(drawn.study.runs)
    several = len({(condition["dataset"], condition["architecture"]) for condition in found}) > 1
    normalizations = list(drawn.study.runs.normalization.unique())
    for axes, _, row, column in panels(drawn.figure, drawn.study.runs):
        words = [plotting.word(found[column][name]) for name in ("precision", "optimizer")]
        arithmetic = ", ".join(words + plotting.relu_words(found[column]["relu_derivative"]))
        where = ", ".join(plotting.word(found[column][name]) for name in ("architecture", "dataset"))
        if row == 0:
            assert axes.get_title() == (f"{where}\n{arithmetic}" if several else arithmetic)
        if column == 0:
            assert axes.get_ylabel() == f"{plotting.word(normalizations[row])}\ntest accuracy (%)"
        if row == len(normalizations) - 1:
            assert axes.get_xlabel() == "β"
            labels = [label.get_text() for label in axes.get_xticklabels()]
            order = plotting.place_axis(plotting.places(drawn.study.runs))
            assert labels == [plotting.place_label(key) for key in order]
    runs = drawn.study.runs.seed.nunique()
    what = "1 run" if runs == 1 else f"mean and range of {runs} runs"
    assert drawn.figure.get_suptitle() == (
        what.capitalize() if several else f"LeNet-5 on {plotting.word('mnist_5k')}: {what}"
    )


def test_its_texts_can_be_read(drawn: Drawn) -> None:
    assert_readable(drawn.figure)


def test_the_legend_has_what_is_drawn(drawn: Drawn) -> None:
    lines = [LABELS.get(name, "native and minimal") for name in families(drawn.study.runs)]
    lines += ["other rules"] if OTHER in set(drawn.study.runs.rule) else []
    lines += ["some runs diverged"] if drawn.study.runs.diverged.any() else []
    assert legend(drawn.figure) == lines + (["published"] if len(drawn.study.published) else [])


@pytest.mark.parametrize("accuracy", [0.1, 0.7, 1.0])
def test_runs_of_equal_accuracy(accuracy: float, study) -> None:
    """Three diverged runs score 0.1 each, and their mean is an ulp above 0.1."""
    made = study()
    figure, _ = draw(overview.plot, made.runs.assign(test_accuracy=accuracy), made.published)
    for axes in figure.axes:
        for _, bars in lines_of(axes).values():
            assert all(bar[:, 1] == pytest.approx(100 * accuracy) for bar in bars.get_segments())


def test_many_conditions_stay_readable(study) -> None:
    """They continue below, and each is there once."""
    made = study(
        no_cell_diverges,
        dataset=["mnist_5k", "fashion_mnist"],
        optimizer=["sgd", "adam"],
        precision=["float16", "mixed16", "float32"],
        seed=[0],
        rule=["native", "hybrid-10000-exact", "hybrid-1000-exact"],
        is_published=True,
    )
    runs = made.runs
    figure, _ = draw(overview.plot, runs, made.published)
    assert figure.get_size_inches()[0] < 12
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible() and axes.get_title()]
    assert len(set(titles)) == len(titles) == len(conditions(runs)) == 12
    drawn = sorted(tuple(line.get_ydata()) for axes in figure.axes for line, _ in lines_of(axes).values())
    expected = sorted(
        tuple(mean for mean, *_ in points(of_condition(runs, {**condition, "normalization": name}), "exact").values())
        for condition in conditions(runs)
        for name in ("none", "batch_norm")
    )
    assert drawn == [pytest.approx(line) for line in expected]
    assert_readable(figure)


def test_a_condition_without_one_of_the_normalizations(study) -> None:
    made = study(dataset=["mnist_5k", "fashion_mnist"], seed=[0])
    runs = made.runs[(made.runs.dataset == "mnist_5k") | (made.runs.normalization == "none")]
    figure, _ = draw(overview.plot, runs, made.published)
    drawn = [sum(len(line.get_xdata()) for line, _ in lines_of(axes).values()) for axes in figure.axes]
    assert drawn == [10, 10, 10, 0]


def test_a_panel_of_nothing_is_not_seen(study) -> None:
    made = study(dataset=["mnist_5k", "fashion_mnist"], seed=[0])
    runs = made.runs[(made.runs.dataset == "mnist_5k") | (made.runs.normalization == "none")]
    figure, _ = draw(overview.plot, runs, made.published)
    assert [axes.get_visible() for axes in figure.axes] == [True, True, True, False]


def test_a_condition_without_hybrid_rules_beside_one_with_them(study) -> None:
    """As in the preset gpu, where ReLU'(0) = 1 has the native rule only."""
    made = study(relu_derivative=[0.0, 1.0], normalization=["none"], seed=[0])
    runs = made.runs[(made.runs.relu_derivative == 0) | (made.runs.rule == "native")]
    figure, _ = draw(overview.plot, runs, made.published)
    (expected,) = of_condition(runs, {**CONDITION, "relu_derivative": 1.0})
    (heights,) = (list(line.get_ydata()) for line, _ in lines_of(figure.axes[1]).values())
    assert heights == [pytest.approx(100 * expected["test_accuracy"])]
    assert "native and minimal" in legend(figure)


@pytest.mark.parametrize("case", ["published", "only such a rule"])
def test_the_script_writes_what_the_function_draws(case: str, study, run_script, tmp_path) -> None:
    diverges, factors = CASES[case]
    made = study(diverges, **factors)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    tables = {name: made.folder / f"{name}.csv" for name in ("runs", "published")}
    run_script("maxpool/accuracy_by_beta", input=tables, output=output, log=[str(tmp_path / "job.log")])
    assert {path.name for path in tmp_path.iterdir()} == {*(f"a.{suffix}" for suffix in FORMATS), "job.log"}
    assert pd.read_csv(output["csv"]).runs.sum() == len(made.runs)
