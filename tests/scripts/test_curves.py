"""Curves of one condition: means with every run in them. A loss ends where a run does, and is said to; an accuracy stays."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from nonsmooth import plotting

from .conftest import CASES, CONDITION, FORMATS, OTHER, Drawn, assert_readable, draw, legend, load, of_condition

script = load("maxpool/curves")
EPOCHS = 4
LOSS, ACCURACY = "train_loss", "test_accuracy"
FEW = ["native", "minimal", "hybrid-10-exact"]
LABELS = {LOSS: "training loss", ACCURACY: "test accuracy (%)"}


def place(row: dict) -> float | str:
    return row["rule"] if math.isnan(row["beta"]) else row["beta"]


def curves(epochs: pd.DataFrame, quantity: str) -> dict[tuple[str, str], dict]:
    """Values by normalization and rule: per epoch, one of each run.

    Once a run has stopped, its loss is NaN and its accuracy stays as it was."""
    rows = of_condition(epochs)
    found = {}
    for normalization, rule in dict.fromkeys((row["normalization"], row["rule"]) for row in rows):
        mine = [row for row in rows if (row["normalization"], row["rule"]) == (normalization, rule)]
        runs = []
        for seed in dict.fromkeys(row["seed"] for row in mine):
            values = [row[quantity] for row in mine if row["seed"] == seed]
            after = values[-1] if quantity == ACCURACY else math.nan
            values += [after] * (EPOCHS - len(values))
            runs.append([100 * value if quantity == ACCURACY else value for value in values])
        found[normalization, rule] = {
            "place": place(mine[0]),
            "family": mine[0]["evaluation"] or ("other" if rule == OTHER else rule),
            "values": list(zip(*runs, strict=True)),
            "mean": np.array([sum(values) / len(values) for values in zip(*runs, strict=True)]),
            "runs": runs,
        }
    return found


def panels(drawn: Drawn):
    """The axes of each evaluation and normalization, with the curves that belong there."""
    found = curves(drawn.study.epochs, drawn.quantity)
    normalizations = list(dict.fromkeys(normalization for normalization, _ in found))
    families = {curve["family"] for curve in found.values()}
    evaluations = [name for name in ("exact", "composed") if name in families] or ["native"]
    axes = iter(drawn.figure.axes)
    for evaluation in evaluations:
        for normalization in normalizations:
            panel = next(axes)
            assert panel.get_title() == f"{evaluation}, {plotting.word(normalization)}"
            yield (
                panel,
                [
                    curve
                    for (other, _), curve in found.items()
                    if other == normalization and curve["family"] in ("native", "minimal", "other", evaluation)
                ],
            )
    assert list(axes) == []


@dataclass(frozen=True)
class DrawnCurves(Drawn):
    quantity: str


DRAWN = [(case, LOSS) for case in CASES if case not in ("published", "two ReLUs", "none diverged", "only exact")]
DRAWN += [(case, ACCURACY) for case in ("one run", "a rule without a beta", "two ReLUs")]


@pytest.fixture(scope="module", params=DRAWN, ids=" ".join)
def drawn(request: pytest.FixtureRequest, study) -> DrawnCurves:
    """The figure of each case; tests only look at it."""
    case, quantity = request.param
    diverges, factors = CASES[case]
    made = study(diverges, **factors)
    return DrawnCurves(made, *draw(script.plot, made.epochs, CONDITION, quantity), quantity)


def test_the_data_are_means_with_every_run(drawn: Drawn) -> None:
    expected = curves(drawn.study.epochs, drawn.quantity)
    assert len(drawn.data) == EPOCHS * len(expected)
    for row in drawn.data.to_dict("records"):
        curve = expected[row["normalization"], row["rule"]]
        values = curve["values"][row["epoch"] - 1]
        finite = [value for value in values if math.isfinite(value)]
        assert (row["runs"], row["finite_runs"]) == (len(values), len(finite))
        assert (row["place"], row["family"]) == (curve["place"], curve["family"])
        if len(finite) < len(values):
            assert math.isnan(row["mean"])
            assert math.isnan(row["std"])
        else:
            assert row["mean"] == pytest.approx(statistics.fmean(values), rel=1e-14)
            std = statistics.stdev(values) if len(values) > 1 else math.nan
            assert row["std"] == pytest.approx(std, rel=1e-12, abs=1e-12, nan_ok=True)
    assert drawn.quantity == LOSS or drawn.data["mean"].notna().all()


def test_a_mean_does_not_come_back(study) -> None:
    """One run of three stops in the second epoch, and the others go on."""
    epochs = study(lambda cell: 2 if (cell.rule, cell.seed) == ("hybrid-10-exact", 1) else None, rule=FEW).epochs
    _, data = draw(script.plot, epochs, CONDITION, LOSS)
    stopped = data[data.rule == "hybrid-10-exact"]
    assert stopped["mean"].isna().tolist() == [False, True, True, True] * 2
    assert stopped.finite_runs.tolist() == [3, 2, 2, 2] * 2
    assert data[data.rule != "hybrid-10-exact"]["mean"].notna().all()


def test_a_loss_that_stays_finite_until_the_run_stops_is_lost_too(study) -> None:
    """Weights can overflow in the last step of an epoch."""
    epochs = study(lambda cell: 3 if cell.rule == "hybrid-10-exact" else None, rule=FEW).epochs
    epochs = epochs[(epochs.rule != "hybrid-10-exact") | (epochs.epoch < 3)]
    figure, data = draw(script.plot, epochs, CONDITION, LOSS)
    assert data[data.rule == "hybrid-10-exact"]["mean"].isna().tolist() == [False, False, True, True] * 2
    assert [text.get_text() for panel in figure.axes for text in panel.texts] == ["NaN in some run: β = 10"] * 2


def test_a_run_that_stopped_keeps_its_accuracy(study) -> None:
    """It is in the mean of every later epoch, as no epoch would change what its weights score."""
    epochs = study(lambda cell: 2 if (cell.rule, cell.seed) == ("hybrid-10-exact", 1) else None, rule=FEW).epochs
    figure, data = draw(script.plot, epochs, CONDITION, ACCURACY)
    assert data["mean"].notna().all()
    assert (data.finite_runs == data.runs).all()
    for normalization in ("none", "batch_norm"):
        mine = of_condition(epochs, {"normalization": normalization, "rule": "hybrid-10-exact"})
        last = {seed: [row["test_accuracy"] for row in mine if row["seed"] == seed][-1] for seed in range(3)}
        (row,) = of_condition(data, {"normalization": normalization, "rule": "hybrid-10-exact", "epoch": EPOCHS})
        assert last[1] == 0.1
        assert row["mean"] == pytest.approx(100 * statistics.fmean(last.values()))
    assert not any(panel.texts for panel in figure.axes)


def test_runs_of_different_lengths_that_were_asked_for_are_not_lost(study) -> None:
    """A rule that another block trains for fewer epochs ends there, whatever is drawn."""
    epochs = study(rule=FEW).epochs
    shorter = (epochs.rule == "minimal") & (epochs.epoch <= 2)
    epochs = epochs[(epochs.rule != "minimal") | shorter].assign(epochs=epochs.epochs.where(~shorter, 2))
    for quantity in (LOSS, ACCURACY):
        figure, data = draw(script.plot, epochs, CONDITION, quantity)
        assert data[data.rule == "minimal"].epoch.tolist() == [1, 2] * 2
        assert data["mean"].notna().all()
        assert not any(panel.texts for panel in figure.axes)


def test_curves_and_crosses(drawn: Drawn) -> None:
    """A rule that lost no run is a mean; otherwise each run is drawn until its last finite loss."""
    colours = {}
    for panel, expected in panels(drawn):
        curves, crosses = [], []
        for curve in expected:
            if np.isfinite(curve["mean"]).all():
                curves.append(("-", curve["place"], tuple(curve["mean"])))
                continue
            for run in curve["runs"]:
                finite = tuple(value for value in run if math.isfinite(value))
                curves.append((":", curve["place"], finite))
                crosses += [(len(finite), finite[-1])] if 0 < len(finite) < EPOCHS else []
        lines = [line for line in panel.lines if line.get_marker() == "None"]
        assert len(lines) == len(curves)
        for style, key, values in curves:
            same = [
                line
                for line in lines
                if line.get_linestyle() == style and list(line.get_ydata()) == pytest.approx(values, rel=1e-14)
            ]
            assert same
            assert all(list(line.get_xdata()) == list(range(1, len(values) + 1)) for line in same)
            if values:
                (colour,) = {to_hex(line.get_color()) for line in same}
                assert colours.setdefault(key, colour) == colour
        marks = [line for line in panel.lines if line.get_marker() != "None"]
        assert len(marks) == len(crosses)
        for mark in marks:
            assert (mark.get_xdata()[0], mark.get_ydata()[0]) in crosses
    assert len(set(colours.values())) == len(colours)


def test_lost_curves_are_named_and_only_they(drawn: Drawn) -> None:
    for panel, expected in panels(drawn):
        lost = [curve["place"] for curve in expected if not np.isfinite(curve["mean"]).all()]
        names = map(plotting.place_label, plotting.place_axis(lost))
        notes = [text.get_text() for text in panel.texts]
        assert notes == ([f"NaN in some run: β = {'; '.join(names)}"] if lost else [])


def test_the_figure_says_what_it_shows(drawn: Drawn) -> None:
    runs = len({row["seed"] for row in of_condition(drawn.study.epochs)})
    what = "1 run" if runs == 1 else f"mean ± std of {runs} runs"
    assert drawn.figure.get_suptitle() == f"{plotting.condition_title(CONDITION)}: {what}"
    found = curves(drawn.study.epochs, drawn.quantity).values()
    places = plotting.place_axis(curve["place"] for curve in found)
    assert drawn.figure.legends[0].get_title().get_text() == "β"
    lost = any(not np.isfinite(curve["mean"]).all() for curve in found)
    assert legend(drawn.figure) == [*map(plotting.place_label, places), *(["a run,\nbefore NaN"] if lost else [])]
    shown = [panel for panel, _ in panels(drawn)]
    label = LABELS[drawn.quantity]
    assert {panel.get_ylabel() for panel in shown} <= {label, ""}
    assert shown[0].get_ylabel() == label
    assert shown[-1].get_xlabel() == "epoch"
    assert all(panel.get_yscale() == ("log" if drawn.quantity == LOSS else "linear") for panel in shown)
    assert_readable(drawn.figure)


def test_an_accuracy_of_nothing_is_on_the_axes(study) -> None:
    """Zero has no logarithm, and a mean less its deviation can be below it."""
    epochs = study(rule=FEW).epochs
    figure, _ = draw(script.plot, epochs.assign(test_accuracy=0.0), CONDITION, ACCURACY)
    low, high = figure.axes[0].get_ylim()
    assert low <= 0 < high
    assert_readable(figure)


def test_one_epoch_is_a_point(study) -> None:
    epochs = study(rule=FEW).epochs
    epochs = epochs[epochs.epoch == 1].assign(epochs=1)
    for quantity in (LOSS, ACCURACY):
        figure, data = draw(script.plot, epochs, CONDITION, quantity)
        assert len(data) == 2 * len(FEW)
        for panel in figure.axes:
            assert {line.get_marker() for line in panel.lines} == {"o"}


@pytest.mark.parametrize(("case", "quantity"), [("one normalization", LOSS), ("only such a rule", ACCURACY)])
def test_the_script_writes_what_the_function_draws(case: str, quantity: str, study, run_script, tmp_path) -> None:
    diverges, factors = CASES[case]
    made = study(diverges, **factors)
    output = {suffix: str(tmp_path / f"a.{suffix}") for suffix in FORMATS}
    _, data = draw(script.plot, made.epochs, CONDITION, quantity)
    run_script(
        "maxpool/curves",
        input={"epochs": made.folder / "epochs.csv"},
        output=output,
        params={"group": CONDITION, "quantity": quantity},
        log=[str(tmp_path / "job.log")],
    )
    assert {path.name for path in tmp_path.iterdir()} == {*(f"a.{suffix}" for suffix in FORMATS), "job.log"}
    again = pd.read_csv(output["csv"], keep_default_na=False, na_values=[""])
    assert len(again) == EPOCHS * len(curves(made.epochs, quantity))
    pd.testing.assert_frame_equal(
        again.drop(columns="place"), data.drop(columns="place"), check_dtype=False, check_exact=True
    )
    assert again.place.astype(str).tolist() == data.place.astype(str).tolist()
