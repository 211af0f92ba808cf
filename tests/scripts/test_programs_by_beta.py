"""Programs against beta: means and ranges, and the number of runs that diverged."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from nonsmooth import plotting
from nonsmooth.programs import PROGRAMS
from nonsmooth.rules import parse_rule

from .conftest import CONDITION, FORMATS, OTHER, Drawn, assert_readable, draw, legend, load, of_condition
from .programs import CASES, overflow_diverges, rules

script = load("maxpool/programs_by_beta")


@pytest.fixture(scope="module", params=CASES)
def drawn(request, study) -> Drawn:
    """The figure of each case; tests only look at it."""
    diverges, factors = CASES[request.param]
    made = study(diverges, **factors)
    return Drawn(made, *draw(script.plot, made.runs, CONDITION))


def betas(runs: pd.DataFrame) -> list[float]:
    return sorted({parse_rule(rule).beta for rule in runs.rule if rule != "native"})


def program_runs(runs: pd.DataFrame, normalization: str, beta: float, program: str) -> list[dict]:
    rule = "native" if program == "native" else rules([beta], [program])[0]
    return of_condition(runs, {**CONDITION, "normalization": normalization, "rule": rule})


def normalizations(drawn: Drawn) -> list[str]:
    return list(dict.fromkeys(drawn.study.runs.normalization))


def test_lines_and_ranges(drawn: Drawn) -> None:
    for axes, normalization in zip(drawn.figure.axes, normalizations(drawn), strict=False):
        by_colour = {container[0].get_color(): container for container in axes.containers}
        assert len(by_colour) == len(PROGRAMS) - 1
        for program in list(PROGRAMS)[1:]:
            line, _, (bars,) = by_colour[plotting.PROGRAM_COLOURS[program]]
            assert [round(x) for x in line.get_xdata()] == list(range(len(betas(drawn.study.runs))))
            for beta, y, bar in zip(betas(drawn.study.runs), line.get_ydata(), bars.get_segments(), strict=True):
                accuracies = [100 * run["test_accuracy"]
                              for run in program_runs(drawn.study.runs, normalization, beta, program)]  # fmt: skip
                assert y == pytest.approx(sum(accuracies) / len(accuracies))
                assert bar[:, 1] == pytest.approx([min(accuracies), max(accuracies)])
        levels = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]
        native = program_runs(drawn.study.runs, normalization, 0, "native")
        assert levels == [pytest.approx(100 * sum(run["test_accuracy"] for run in native) / len(native))]


def test_squares_are_the_shares_that_diverged(drawn: Drawn) -> None:
    columns = len(normalizations(drawn))
    for axes, normalization in zip(drawn.figure.axes[columns:], normalizations(drawn), strict=True):
        texts = {tuple(map(round, text.get_position())): text.get_text() for text in axes.texts}
        shades = {(round(patch.get_x() + 0.46), round(patch.get_y() + 0.44)): patch.get_facecolor()[0]
                  for patch in axes.patches if isinstance(patch, Rectangle)}  # fmt: skip
        by_share = {}
        for row, program in enumerate(PROGRAMS):
            for column, beta in enumerate(betas(drawn.study.runs)):
                runs = program_runs(drawn.study.runs, normalization, beta, program)
                lost = sum(run["diverged"] for run in runs)
                assert texts.pop((column, row), "") == (f"{lost}/{len(runs)}" if lost else "")
                by_share.setdefault(lost / len(runs), set()).add(shades.pop((column, row)))
        assert (texts, shades) == ({}, {})
        # One shade per share, the darker the larger.
        ordered = [by_share[share] for share in sorted(by_share)]
        assert all(len(found) == 1 for found in ordered)
        assert sorted(ordered, key=max, reverse=True) == ordered


def test_the_figure_says_what_it_shows(drawn: Drawn) -> None:
    runs, columns = drawn.study.runs, len(normalizations(drawn))
    count = plotting.run_count(pd.Series([runs.seed.nunique()]))
    what = count if count == "1 run" else f"mean and range of {count}"
    assert drawn.figure.get_suptitle().replace("\n", " ") == f"{plotting.condition_title(CONDITION)}: {what}"
    assert [axes.get_title() for axes in drawn.figure.axes[:columns]] == [
        plotting.word(n) for n in normalizations(drawn)
    ]
    words = list(map(plotting.part_words, PROGRAMS))
    assert legend(drawn.figure) == words
    lower = drawn.figure.axes[columns]
    assert [label.get_text() for label in lower.get_yticklabels()] == words
    assert [label.get_text() for label in lower.get_xticklabels()] == [plotting.place_label(b) for b in betas(runs)]
    assert_readable(drawn.figure)


def test_the_data(drawn: Drawn) -> None:
    runs = drawn.study.runs
    kept = runs[~runs.rule.str.endswith("_unlimited")]
    assert drawn.data.runs.sum() == len(kept)
    assert drawn.data.diverged.sum() == kept.diverged.sum()


def test_other_rules_and_missing_programs(study) -> None:
    """A program that was not run has no place, nor has a rule that is none of them."""
    made = study(overflow_diverges, rule=["native", "minimal", OTHER, *rules([10, 1000], ["forward", "composed"])])
    figure, data = draw(script.plot, made.runs, CONDITION)
    assert legend(figure) == ["native", "F", "F+B+J (published)"]
    assert set(data.program) == {"native", "forward", "composed"}
    assert_readable(figure)


def test_the_script_writes_what_the_function_draws(study, run_script, tmp_path) -> None:
    diverges, factors = CASES["one beta, one run"]
    made = study(diverges, **factors)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    run_script("maxpool/programs_by_beta", input={"runs": made.folder / "runs.csv"}, output=output,
               params={"group": CONDITION}, log=[str(tmp_path / "job.log")])  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {*(f"a.{suffix}" for suffix in FORMATS), "job.log"}
    assert pd.read_csv(output["csv"]).runs.tolist() == [1] * len(PROGRAMS)
