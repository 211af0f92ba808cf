"""The learning-rate search: seeded, on images held out of the training split, with pruning."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from optuna.trial import TrialState

from nonsmooth import training, tuning
from nonsmooth.cells import TrainingCell
from nonsmooth.training import Images, Run, Settings

MakeCell = Callable[..., TrainingCell]


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def summary(study: optuna.Study) -> list[tuple]:
    return [(trial.params, trial.value, trial.intermediate_values, trial.state) for trial in study.trials]


def test_a_seeded_search_repeats(make_cell: MakeCell, train_set: Images) -> None:
    cell = make_cell(precision="float16", rule="hybrid-10-exact", normalization="batch_norm", batch_size=32)
    first = tuning.search(cell, train_set, Settings(), trials=3, epochs=1)
    assert summary(tuning.search(cell, train_set, Settings(), trials=3, epochs=1)) == summary(first)
    rates = [trial.params["learning_rate"] for trial in first.trials]
    assert len(set(rates)) == 3
    assert all(tuning.LOWEST <= rate <= tuning.HIGHEST for rate in rates)
    assert first.best_value == max(trial.value for trial in first.trials) <= 1
    assert first.best_params["learning_rate"] in rates
    other = tuning.search(replace(cell, seed=1), train_set, Settings(), trials=3, epochs=1)
    assert [trial.params["learning_rate"] for trial in other.trials] != rates


class Fake:
    """Takes the place of `training.train`: accuracy is given per trial, and calls are kept."""

    def __init__(self, accuracies: list[float]) -> None:
        self.accuracies, self.calls, self.epochs = accuracies, [], []

    def __call__(self, cell: TrainingCell, fit: Images, check: Images, settings: Settings, on_epoch: Callable) -> Run:
        accuracy = self.accuracies[len(self.calls)]
        self.calls.append((cell, fit, check, settings))
        self.epochs.append(0)
        run = Run()
        for epoch in range(1, cell.epochs + 1):
            self.epochs[-1] = epoch
            run.metrics.append({"epoch": epoch, "test_accuracy": accuracy + epoch / 1000})
            on_epoch(run.metrics[-1])
        return run


def test_held_out_images_are_every_fifth_and_never_trained_on(
    make_cell: MakeCell, train_set: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Number the images, so that they can be told apart.
    images = torch.arange(len(train_set), dtype=torch.uint8).view(-1, 1, 1, 1).expand_as(train_set.images)
    fake = Fake([0.5, 0.6])
    monkeypatch.setattr(training, "train", fake)
    settings = Settings(threads=1)
    cell = make_cell(rule="hybrid-1000-composed", learning_rate=0.5, epochs=100, seed=3)
    study = tuning.search(cell, replace(train_set, images=images), settings, trials=2, epochs=7)
    for (tried, fit, check, given), trial in zip(fake.calls, study.trials, strict=True):
        fitted, checked = (set(data.images[:, 0, 0, 0].tolist()) for data in (fit, check))
        assert checked == set(range(4, 200, 5))
        assert fitted == set(range(200)) - checked
        for data in (fit, check):
            assert torch.equal(data.labels, train_set.labels[data.images[:, 0, 0, 0].long()])
        # A fifth of each class, since the split is sorted by class.
        assert check.labels.bincount().tolist() == [4] * 10
        assert tried == replace(cell, rule="native", epochs=7, learning_rate=trial.params["learning_rate"])
        assert given is settings


def test_a_trial_below_the_median_is_pruned_from_its_second_epoch_on(
    make_cell: MakeCell, train_set: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once five trials are finished. Optuna counts `n_warmup_steps=2` from 0, and epochs start at 1."""
    fake = Fake([0.5, 0.6, 0.7, 0.8, 0.9, 0.1, 0.95])
    monkeypatch.setattr(training, "train", fake)
    study = tuning.search(make_cell(), train_set, Settings(), trials=7, epochs=6)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED, TrialState.COMPLETE]
    assert fake.epochs == [6] * 5 + [2, 6]
    assert study.best_trial.number == 6
    assert study.best_value == 0.95 + 6 / 1000


def test_pruning_stops_a_real_run(make_cell: MakeCell, train_set: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a pruner that finds every accuracy too low."""
    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda **_: optuna.pruners.ThresholdPruner(lower=1.1))
    study = tuning.search(make_cell(batch_size=160), train_set, Settings(), trials=1, epochs=3)
    (trial,) = study.trials
    assert trial.state is TrialState.PRUNED
    assert list(trial.intermediate_values) == [1]


def test_a_preset_without_rates_can_be_searched(tmp_path, monkeypatch, capsys, prepared) -> None:
    """The rates are what a search is for; a missing image file is one line."""
    root = Path(__file__).resolve().parents[2]
    preset = yaml.safe_load((root / "config/config.yaml").read_text())
    del preset["learning_rates"]
    preset["maxpool"]["train"] = [preset["maxpool"]["train"][0] | {"normalization": ["none"]}]
    (tmp_path / "preset.yaml").write_text(yaml.safe_dump(preset))
    found: list[TrainingCell] = []

    def search(cell, data, settings, trials, epochs):
        found.append(cell)
        study = optuna.create_study(direction="maximize")
        study.enqueue_trial({"learning_rate": 0.0123})
        study.optimize(lambda trial: trial.suggest_float("learning_rate", 1e-5, 1e-1), n_trials=1)
        return study

    monkeypatch.setattr(tuning, "search", search)
    arguments = ["tuning", "--config", str(tmp_path / "preset.yaml"), "--schema"]
    arguments += [str(root / "workflow/schemas/config.schema.yaml"), "--prepared"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist_5k").symlink_to(prepared)
    monkeypatch.setattr(sys, "argv", [*arguments, str(tmp_path / "data")])
    tuning.main()
    assert [cell.rule for cell in found] == ["native"]
    assert "optimizer: sgd, precision: float16, value: 0.0123}" in capsys.readouterr().out

    monkeypatch.setattr(sys, "argv", [*arguments, str(tmp_path)])
    with pytest.raises(SystemExit):
        tuning.main()
    assert "there is no such prepared split of mnist_5k" in capsys.readouterr().err
