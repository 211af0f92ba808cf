"""The factorial figure: every run is in the panel of its beta and normalization, above the dots of its parts."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from nonsmooth import plotting
from nonsmooth.programs import PARTS, PROGRAMS, levels
from nonsmooth.rules import parse_rule

from .conftest import CONDITION, FORMATS, Drawn, assert_readable, draw, legend, load, of_condition
from .programs import CASES, UNLIMITED, overflow_diverges, rules

script = load("maxpool/factorial")


@pytest.fixture(scope="module", params=CASES)
def drawn(request, study) -> Drawn:
    """The figure of each case; tests only look at it."""
    diverges, factors = CASES[request.param]
    made = study(diverges, **factors)
    return Drawn(made, *draw(script.plot, made.runs, CONDITION))


def betas(runs: pd.DataFrame) -> list[float]:
    return sorted({beta for beta, rule in zip(runs.beta, runs.rule, strict=True) if rule != "native"})


def program_runs(runs: pd.DataFrame, normalization: str, beta: float, program: str) -> list[dict]:
    rule = "native" if program == "native" else rules([beta], [program])[0]
    return of_condition(runs, {**CONDITION, "normalization": normalization, "rule": rule})


def panels(drawn: Drawn):
    """The axes of each normalization and beta."""
    columns = betas(drawn.study.runs)
    for row, normalization in enumerate(dict.fromkeys(drawn.study.runs.normalization)):
        for column, beta in enumerate(columns):
            yield drawn.figure.axes[row * len(columns) + column], normalization, beta


def test_every_run_is_a_point_at_its_program(drawn: Drawn) -> None:
    runs = drawn.study.runs
    has_unlimited = runs.rule.str.endswith("_unlimited").any()
    for axes, normalization, beta in panels(drawn):
        found, expected = [], []
        for line in axes.lines:
            if line.get_marker() in ("o", "D", "x"):
                found += [(round(x), line.get_marker(), to_hex(line.get_color()), pytest.approx(y))
                          for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]  # fmt: skip
        for position, program in enumerate(PROGRAMS):
            for name, mark in ((program, "o"), (f"{program}_unlimited", "D")):
                if mark == "D" and (not has_unlimited or name not in UNLIMITED):
                    continue
                for run in program_runs(runs, normalization, beta, name):
                    marker = "x" if run["diverged"] else mark
                    colour = plotting.PROGRAM_COLOURS[program].lower()
                    expected.append((position, marker, colour, 100 * run["test_accuracy"]))
        assert len(found) == len(expected)
        assert all(point in found for point in expected)


def test_means_are_bars_and_natives_is_a_level(drawn: Drawn) -> None:
    for axes, normalization, beta in panels(drawn):
        bars = {}
        for line in axes.lines:
            if line.get_marker() == "None" and len(line.get_xdata()) == 2 and line.get_linestyle() == "-":
                bars.setdefault(round(sum(line.get_xdata()) / 2), set()).add(round(line.get_ydata()[0], 9))
        for position, program in enumerate(PROGRAMS):
            names = [name for name in (program, f"{program}_unlimited") if name == program or name in UNLIMITED]
            found = [program_runs(drawn.study.runs, normalization, beta, name) for name in names]
            means = {round(100 * sum(run["test_accuracy"] for run in part) / len(part), 9) for part in found if part}
            assert bars[position] == means
        (level,) = [line for line in axes.lines if line.get_linestyle() == "--"]
        native = program_runs(drawn.study.runs, normalization, beta, "native")
        assert level.get_ydata()[0] == pytest.approx(100 * sum(run["test_accuracy"] for run in native) / len(native))


def test_diverged_runs_are_counted_above_their_program(drawn: Drawn) -> None:
    for axes, normalization, beta in panels(drawn):
        expected = []
        for position, program in enumerate(PROGRAMS):
            for name in (program, f"{program}_unlimited"):
                runs = (
                    program_runs(drawn.study.runs, normalization, beta, name) if name in (*PROGRAMS, *UNLIMITED) else []
                )
                if any(run["diverged"] for run in runs):
                    expected.append((position, f"{sum(run['diverged'] for run in runs)}/{len(runs)}"))
        counts = [(text.get_position()[0], text.get_text()) for text in axes.texts if "/" in text.get_text()]
        assert counts == expected


def test_dots_are_the_parts_of_the_programs(drawn: Drawn) -> None:
    columns = len(betas(drawn.study.runs))
    for axes in drawn.figure.axes[-columns:]:
        filled = {round(line.get_xdata()[0]): set(line.get_ydata()) for line in axes.lines
                  if line.get_color() == "0.15" and len(line.get_xdata())}  # fmt: skip
        rows = list(PARTS)[::-1]
        for position, program in enumerate(PROGRAMS.values()):
            parts = {row for row, part in enumerate(rows) if levels(program)[part]}
            assert filled.get(position, set()) == parts
    labels = [label.get_text() for label in drawn.figure.axes[-columns].get_yticklabels()]
    assert [label[-1] for label in labels] == rows


def test_every_accuracy_is_on_the_axes(drawn: Drawn) -> None:
    accuracies = 100 * drawn.study.runs.test_accuracy
    for axes, _, _ in panels(drawn):
        low, high = axes.get_ylim()
        assert low < accuracies.min() < accuracies.max() < high
        assert len([tick for tick in axes.get_yticks() if low <= tick <= high]) >= 3


def test_the_figure_says_what_it_shows(drawn: Drawn) -> None:
    runs = drawn.study.runs
    count = plotting.run_count(pd.Series([runs.seed.nunique()]))
    title = f"{plotting.condition_title(CONDITION)}: {count} of each program"
    assert drawn.figure.get_suptitle().replace("\n", " ") == title
    columns = betas(runs)
    assert [axes.get_title() for axes in drawn.figure.axes[: len(columns)]] == [
        f"β = {plotting.place_label(beta)}" for beta in columns
    ]
    names = legend(drawn.figure)
    assert ("a run that diverged" in names) == runs.diverged.any()
    assert ("a run whose pooling cannot overflow" in names) == runs.rule.str.endswith("_unlimited").any()
    assert_readable(drawn.figure)


def test_the_data_are_the_runs(drawn: Drawn) -> None:
    runs, data = drawn.study.runs, drawn.data
    native = runs.rule == "native"
    assert len(data) == (~native).sum() + native.sum() * len(betas(runs))
    hybrids = data[data.program != "native"].assign(rule=[rules([row.beta], [row.program])[0]
                                                          for row in data[data.program != "native"].itertuples()])  # fmt: skip
    keys = ["normalization", "rule", "seed"]
    both = hybrids.merge(runs, on=keys, suffixes=("", "_run"), validate="one_to_one")
    assert (both.test_accuracy == both.test_accuracy_run).all()
    assert (both.diverged == both.diverged_run).all()
    assert (both.beta == both.rule.map(lambda rule: parse_rule(rule).beta)).all()


def test_a_beta_without_a_whole_factorial_is_left_out(study) -> None:
    """And a normalization that lacks a beta has no panel there."""
    made = study(overflow_diverges, rule=rules([10, 1000]), seed=[0])
    runs = made.runs
    part = runs[~((runs.normalization == "none") & (runs.rule == "hybrid-10-forward"))]
    figure, data = draw(script.plot, part, CONDITION)
    assert [axes.get_visible() for axes in figure.axes[:4]] == [False, True, True, True]
    assert set(zip(data.normalization, data.beta, strict=True)) == {
        ("none", 1000),
        ("batch_norm", 10),
        ("batch_norm", 1000),
    }
    figure, data = draw(script.plot, runs[runs.rule != "hybrid-10-forward"], CONDITION)
    assert set(data.beta) == {1000}
    assert_readable(figure)


def test_the_script_writes_what_the_function_draws(study, run_script, tmp_path) -> None:
    diverges, factors = CASES["one beta, one run"]
    made = study(diverges, **factors)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    run_script("maxpool/factorial", input={"runs": made.folder / "runs.csv"}, output=output,
               params={"group": CONDITION}, log=[str(tmp_path / "job.log")])  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {*(f"a.{suffix}" for suffix in FORMATS), "job.log"}
    assert pd.read_csv(output["csv"]).program.tolist() == list(PROGRAMS)
