"""The overview: means and ranges of every condition, each in the panel that names it."""

from __future__ import annotations

import pandas as pd
import pytest

from nonsmooth import plotting

from .conftest import CASES, FORMATS, GROUP, Drawn, assert_readable, draw, legend, load, no_cell_diverges, of_condition

overview = load("maxpool/accuracy_by_beta")
LABELS = {"exact": "exact (true maximum, hybrid Jacobian)", "composed": "composed (as published)"}


def conditions(runs: pd.DataFrame) -> list[dict[str, str]]:
    """Conditions of panels, in order of appearance."""
    return [dict(zip(GROUP, values, strict=True)) for values in runs[list(GROUP)].drop_duplicates().to_numpy()]


def families(runs: pd.DataFrame) -> list[str]:
    return [name for name in ("exact", "composed") if name in set(runs.evaluation)] or ["native"]


def points(rows: list[dict], family: str) -> dict[float, tuple[float, float, float, int]]:
    """By beta: mean, smallest, largest accuracy in percent and the number of diverged runs of a line."""
    found = {}
    for beta in sorted({row["beta"] for row in rows if (row["evaluation"] or family) == family}):
        runs = [row for row in rows if row["beta"] == beta and (row["evaluation"] or family) == family]
        accuracies = [100 * row["test_accuracy"] for row in runs]
        mean = sum(accuracies) / len(accuracies)
        found[beta] = (mean, min(accuracies), max(accuracies), sum(row["diverged"] for row in runs))
    return found


def panels(figure, runs: pd.DataFrame):
    """The axes of each condition and normalization with its rows; up to four conditions are side by side."""
    columns = conditions(runs)
    for row, normalization in enumerate(runs.normalization.unique()):
        for column, condition in enumerate(columns):
            rows = of_condition(runs, {**condition, "normalization": normalization})
            yield figure.axes[row * len(columns) + column], rows, row, column


@pytest.fixture(scope="module", params=CASES)
def drawn(request: pytest.FixtureRequest, study) -> Drawn:
    """The figure of each case; tests only look at it."""
    diverges, factors = CASES[request.param]
    made = study(diverges, **factors)
    return Drawn(made, *draw(overview.plot, made.runs))


def test_the_data_are_means_and_ranges(drawn: Drawn) -> None:
    keys = [*GROUP, "normalization", "rule", "beta"]
    assert len(drawn.data) == len(drawn.study.runs[keys].drop_duplicates())
    for row in drawn.data.to_dict("records"):
        runs = of_condition(drawn.study.runs, {key: row[key] for key in keys})
        accuracies = [run["test_accuracy"] for run in runs]
        assert row["mean"] == pytest.approx(sum(accuracies) / len(accuracies), rel=1e-15 * len(accuracies))
        assert (row["min"], row["max"]) == (min(accuracies), max(accuracies))
        assert (row["runs"], row["diverged"]) == (len(runs), sum(run["diverged"] for run in runs))


def test_lines_ranges_and_crosses(drawn: Drawn) -> None:
    order = plotting.beta_axis(drawn.study.runs.beta)
    names = families(drawn.study.runs)
    for axes, rows, _, _ in panels(drawn.figure, drawn.study.runs):
        assert len(axes.containers) == len(names)
        crosses = []
        for container, family in zip(axes.containers, names, strict=True):
            line, _, (bars,) = container
            assert line.get_color() == plotting.COLOURS[family]
            expected = points(rows, family)
            assert [round(x) for x in line.get_xdata()] == [order[beta] for beta in expected]
            for y, bar, (mean, low, high, lost) in zip(
                line.get_ydata(), bars.get_segments(), expected.values(), strict=True
            ):
                assert y == pytest.approx(mean)
                assert bar[:, 1] == pytest.approx([low, high])
                crosses += [pytest.approx(mean)] if lost else []
        heights = [y for line in axes.lines if line.get_marker() == "x" for y in line.get_ydata()]
        assert sorted(heights) == sorted(crosses, key=lambda value: value.expected)


def test_panels_and_axes_are_named(drawn: Drawn) -> None:
    found = conditions(drawn.study.runs)
    several = len({(condition["dataset"], condition["architecture"]) for condition in found}) > 1
    normalizations = list(drawn.study.runs.normalization.unique())
    for axes, _, row, column in panels(drawn.figure, drawn.study.runs):
        arithmetic = ", ".join(plotting.word(found[column][name]) for name in ("precision", "optimizer"))
        where = ", ".join(plotting.word(found[column][name]) for name in ("architecture", "dataset"))
        if row == 0:
            assert axes.get_title() == (f"{where}\n{arithmetic}" if several else arithmetic)
        if column == 0:
            assert axes.get_ylabel() == f"{plotting.word(normalizations[row])}\ntest accuracy (%)"
        if row == len(normalizations) - 1:
            assert axes.get_xlabel() == "β"
            labels = [label.get_text() for label in axes.get_xticklabels()]
            assert labels == [plotting.beta_label(beta) for beta in sorted(set(drawn.study.runs.beta))]
    runs = drawn.study.runs.seed.nunique()
    what = "1 run" if runs == 1 else f"mean and range of {runs} runs"
    assert drawn.figure.get_suptitle() == (
        what.capitalize() if several else f"LeNet-5 on {plotting.word('mnist_5k')}: {what}"
    )
    assert_readable(drawn.figure)


def test_the_legend_has_what_is_drawn(drawn: Drawn) -> None:
    lines = [LABELS.get(name, "native and minimal") for name in families(drawn.study.runs)]
    assert legend(drawn.figure) == lines + (["some runs diverged"] if drawn.study.runs.diverged.any() else [])


@pytest.mark.parametrize("accuracy", [0.1, 0.7, 1.0])
def test_runs_of_equal_accuracy(accuracy: float, study) -> None:
    """Three diverged runs score 0.1 each, and their mean is an ulp above 0.1."""
    runs = study().runs.assign(test_accuracy=accuracy)
    figure, _ = draw(overview.plot, runs)
    for axes in figure.axes:
        for _, _, (bars,) in axes.containers:
            assert all(bar[:, 1] == pytest.approx(100 * accuracy) for bar in bars.get_segments())


def test_many_conditions_stay_readable(study) -> None:
    """They continue below, and each is there once."""
    runs = study(
        no_cell_diverges,
        dataset=["mnist_5k", "fashion_mnist"],
        optimizer=["sgd", "adam"],
        precision=["float16", "mixed16", "float32"],
        seed=[0],
        rule=["native", "hybrid-10000-exact", "hybrid-1000-exact"],
    ).runs
    figure, _ = draw(overview.plot, runs)
    assert figure.get_size_inches()[0] < 12
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible() and axes.get_title()]
    assert len(set(titles)) == len(titles) == len(conditions(runs)) == 12
    drawn = sorted(tuple(axes.containers[0][0].get_ydata()) for axes in figure.axes if axes.containers)
    expected = sorted(
        tuple(mean for mean, *_ in points(of_condition(runs, {**condition, "normalization": name}), "exact").values())
        for condition in conditions(runs)
        for name in ("none", "batch_norm")
    )
    assert drawn == [pytest.approx(line) for line in expected]
    assert_readable(figure)


def test_a_condition_without_one_of_the_normalizations(study) -> None:
    runs = study(dataset=["mnist_5k", "fashion_mnist"], seed=[0]).runs
    runs = runs[(runs.dataset == "mnist_5k") | (runs.normalization == "none")]
    figure, _ = draw(overview.plot, runs)
    drawn = [sum(len(container[0].get_xdata()) for container in axes.containers) for axes in figure.axes]
    assert drawn == [10, 10, 10, 0]


def test_the_script_writes_what_the_function_draws(study, run_script, tmp_path) -> None:
    made = study()
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    log = [str(tmp_path / "job.log")]
    run_script("maxpool/accuracy_by_beta", input={"runs": made.folder / "runs.csv"}, output=output, log=log)
    assert {path.name for path in tmp_path.iterdir()} == {*(f"a.{suffix}" for suffix in FORMATS), "job.log"}
    assert pd.read_csv(output["csv"]).runs.sum() == len(made.runs)
