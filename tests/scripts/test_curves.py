"""Loss curves of one condition: means with every run in them, and where they end said only where they end."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from nonsmooth import plotting

from .conftest import CASES, CONDITION, FORMATS, Drawn, assert_readable, draw, legend, load, of_condition

loss = load("maxpool/loss")
EPOCHS = 4


def curves(epochs: pd.DataFrame) -> dict[tuple[str, str], dict]:
    """Losses by normalization and rule: per epoch, one of each run, NaN once a run has stopped."""
    rows = of_condition(epochs)
    found = {}
    for normalization, rule in dict.fromkeys((row["normalization"], row["rule"]) for row in rows):
        mine = [row for row in rows if (row["normalization"], row["rule"]) == (normalization, rule)]
        seeds = {row["seed"] for row in mine}
        by_epoch = [
            [next((row["train_loss"] for row in mine if (row["seed"], row["epoch"]) == (seed, epoch)), math.nan)
             for seed in seeds]
            for epoch in range(1, EPOCHS + 1)
        ]  # fmt: skip
        found[normalization, rule] = {
            "beta": mine[0]["beta"],
            "family": mine[0]["evaluation"] or rule,
            "losses": by_epoch,
            "mean": np.array([sum(losses) / len(losses) for losses in by_epoch]),
            "runs": list(zip(*by_epoch, strict=True)),
        }
    return found


def panels(figure, epochs: pd.DataFrame):
    """The axes of each evaluation and normalization, with the curves that belong there."""
    found = curves(epochs)
    normalizations = list(dict.fromkeys(normalization for normalization, _ in found))
    families = {curve["family"] for curve in found.values()}
    evaluations = [name for name in ("exact", "composed") if name in families] or ["native"]
    axes = iter(figure.axes)
    for evaluation in evaluations:
        for normalization in normalizations:
            panel = next(axes)
            assert panel.get_title() == f"{evaluation}, {plotting.word(normalization)}"
            yield (
                panel,
                [
                    curve
                    for (other, _), curve in found.items()
                    if other == normalization and curve["family"] in ("native", "minimal", evaluation)
                ],
            )
    assert list(axes) == []


@pytest.fixture(scope="module", params=CASES)
def drawn(request: pytest.FixtureRequest, study) -> Drawn:
    """The figure of each case; tests only look at it."""
    diverges, factors = CASES[request.param]
    made = study(diverges, **factors)
    return Drawn(made, *draw(loss.plot, made.epochs, CONDITION))


def test_the_data_are_means_with_every_run(drawn: Drawn) -> None:
    expected = curves(drawn.study.epochs)
    assert len(drawn.data) == EPOCHS * len(expected)
    for row in drawn.data.to_dict("records"):
        curve = expected[row["normalization"], row["rule"]]
        losses = curve["losses"][row["epoch"] - 1]
        finite = [value for value in losses if math.isfinite(value)]
        assert (row["runs"], row["finite_runs"]) == (len(losses), len(finite))
        assert (row["beta"], row["family"]) == (curve["beta"], curve["family"])
        if len(finite) < len(losses):
            assert math.isnan(row["mean"])
            assert math.isnan(row["std"])
        else:
            assert row["mean"] == pytest.approx(statistics.fmean(losses), rel=1e-14)
            std = statistics.stdev(losses) if len(losses) > 1 else math.nan
            assert row["std"] == pytest.approx(std, rel=1e-12, nan_ok=True)


def test_a_mean_does_not_come_back(study) -> None:
    """One run of three stops in the second epoch, and the others go on."""
    epochs = study(lambda cell: 2 if (cell.rule, cell.seed) == ("hybrid-10-exact", 1) else None).epochs
    _, data = draw(loss.plot, epochs, CONDITION)
    stopped = data[data.rule == "hybrid-10-exact"]
    assert stopped["mean"].isna().tolist() == [False, True, True, True] * 2
    assert stopped.finite_runs.tolist() == [3, 2, 2, 2] * 2
    assert data[data.rule != "hybrid-10-exact"]["mean"].notna().all()


def test_a_loss_that_stays_finite_until_the_run_stops_is_lost_too(study) -> None:
    """Weights can overflow in the last step of an epoch."""
    epochs = study(lambda cell: 3 if cell.rule == "hybrid-10-exact" else None).epochs
    epochs = epochs[(epochs.rule != "hybrid-10-exact") | (epochs.epoch < 3)]
    figure, data = draw(loss.plot, epochs, CONDITION)
    assert data[data.rule == "hybrid-10-exact"]["mean"].isna().tolist() == [False, False, True, True] * 2
    assert [text.get_text() for panel in figure.axes for text in panel.texts] == ["NaN in some run: β = 10"] * 2


def test_curves_and_crosses(drawn: Drawn) -> None:
    """A rule that lost no run is a mean; otherwise each run is drawn until its last finite loss."""
    colours = {}
    for panel, expected in panels(drawn.figure, drawn.study.epochs):
        curves, crosses = [], []
        for curve in expected:
            if np.isfinite(curve["mean"]).all():
                curves.append(("-", curve["beta"], tuple(curve["mean"])))
                continue
            for run in curve["runs"]:
                finite = tuple(value for value in run if math.isfinite(value))
                curves.append((":", curve["beta"], finite))
                crosses += [(len(finite), finite[-1])] if 0 < len(finite) < EPOCHS else []
        lines = [line for line in panel.lines if line.get_marker() == "None"]
        assert len(lines) == len(curves)
        for style, beta, losses in curves:
            same = [
                line
                for line in lines
                if line.get_linestyle() == style and list(line.get_ydata()) == pytest.approx(losses, rel=1e-14)
            ]
            assert same
            assert all(list(line.get_xdata()) == list(range(1, len(losses) + 1)) for line in same)
            if losses:
                (colour,) = {to_hex(line.get_color()) for line in same}
                assert colours.setdefault(beta, colour) == colour
        marks = [line for line in panel.lines if line.get_marker() != "None"]
        assert len(marks) == len(crosses)
        for mark in marks:
            assert (mark.get_xdata()[0], mark.get_ydata()[0]) in crosses
    assert len(set(colours.values())) == len(colours)


def test_lost_curves_are_named_and_only_they(drawn: Drawn) -> None:
    for panel, expected in panels(drawn.figure, drawn.study.epochs):
        lost = sorted({curve["beta"] for curve in expected if not np.isfinite(curve["mean"]).all()})
        notes = [text.get_text() for text in panel.texts]
        assert notes == ([f"NaN in some run: β = {'; '.join(map(plotting.beta_label, lost))}"] if lost else [])


def test_the_figure_says_what_it_shows(drawn: Drawn) -> None:
    runs = len({row["seed"] for row in of_condition(drawn.study.epochs)})
    what = "1 run" if runs == 1 else f"mean ± std of {runs} runs"
    assert drawn.figure.get_suptitle() == f"{plotting.condition_title(CONDITION)}: {what}"
    found = curves(drawn.study.epochs).values()
    betas = sorted({curve["beta"] for curve in found})
    assert drawn.figure.legends[0].get_title().get_text() == "β"
    lost = any(not np.isfinite(curve["mean"]).all() for curve in found)
    assert legend(drawn.figure) == [*map(plotting.beta_label, betas), *(["a run,\nbefore NaN"] if lost else [])]
    shown = [panel for panel, _ in panels(drawn.figure, drawn.study.epochs)]
    assert {panel.get_ylabel() for panel in shown} <= {"training loss", ""}
    assert shown[0].get_ylabel() == "training loss"
    assert shown[-1].get_xlabel() == "epoch"
    assert all(panel.get_yscale() == "log" for panel in shown)
    assert_readable(drawn.figure)


def test_the_script_writes_what_the_function_draws(study, run_script, tmp_path) -> None:
    made = study()
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    run_script(
        "maxpool/loss",
        input={"epochs": made.folder / "epochs.csv"},
        output=output,
        wildcards=CONDITION | {"run": "tiny"},
        log=[str(tmp_path / "job.log")],
    )
    assert {path.name for path in tmp_path.iterdir()} == {*(f"a.{suffix}" for suffix in FORMATS), "job.log"}
    again = pd.read_csv(output["csv"])
    assert len(again) == EPOCHS * len(curves(made.epochs))
    assert set(again.normalization) == {"none", "batch_norm"}
