"""The learning-rate search of the published set-up: Optuna, log-uniform, with pruning.

A search trains with the native rule and scores a rate by the accuracy on images held out of the training split,
so that the test split stays unseen.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace

import optuna
import torch

from nonsmooth import datasets, training
from nonsmooth.cells import TrainingCell
from nonsmooth.config import CONDITION, read, training_cells

LOWEST, HIGHEST = 1e-5, 1e-1
HELD_OUT = 5  # every fifth training image is held out


def search(
    cell: TrainingCell, data: training.Images, settings: training.Settings, trials: int = 10, epochs: int = 10
) -> optuna.Study:
    """Search the learning rate of `cell`; `study.best_params["learning_rate"]` is the result.

    Args:
        cell: the condition; its rule, learning rate and epochs are replaced, its seed also seeds the sampler.
        data: the training split.
        trials, epochs: number of rates tried, and epochs for each; a trial whose accuracy is below the median
            of the earlier trials at the same epoch stops early.
    """
    held_out = torch.arange(len(data), device=data.labels.device) % HELD_OUT == HELD_OUT - 1
    fit, check = (replace(data, images=data.images[mask], labels=data.labels[mask]) for mask in (~held_out, held_out))

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", LOWEST, HIGHEST, log=True)

        def report(row: dict) -> None:
            trial.report(row["test_accuracy"], row["epoch"])
            if trial.should_prune():
                raise optuna.TrialPruned

        tried = replace(cell, rule="native", learning_rate=rate, epochs=epochs)
        return training.train(tried, fit, check, settings, on_epoch=report).metrics[-1]["test_accuracy"]

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=cell.seed),
        pruner=optuna.pruners.MedianPruner(n_warmup_steps=2),
    )
    study.optimize(objective, n_trials=trials)
    return study


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m nonsmooth.tuning",
        description="Search a learning rate for every condition of a preset and print entries for learning_rates.",
    )
    parser.add_argument("--config", default="config/config.yaml")
    parser.add_argument("--schema", default="workflow/schemas/config.schema.yaml")
    parser.add_argument("--prepared", default="data/prepared", help="folder of prepared data")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    try:
        search_all(arguments)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(1, f"{error}\n")


def search_all(arguments: argparse.Namespace) -> None:
    """Search for every condition of a preset, and print each result as soon as it is there."""
    config = read(arguments.config, arguments.schema, needs_rates=False)
    settings = training.Settings(config["device"], config["threads"], config["deterministic"])
    conditions: dict[tuple, TrainingCell] = {}
    for cell in training_cells(config, needs_rates=False):
        conditions.setdefault(tuple(getattr(cell, factor) for factor in CONDITION), replace(cell, seed=0))
    for condition, cell in conditions.items():
        path = f"{arguments.prepared}/{cell.dataset}/train.npy"
        data = training.Images.on_device(
            cell.dataset, *datasets.load(cell.dataset, path), torch.device(settings.device)
        )
        study = search(cell, data, settings, arguments.trials, arguments.epochs)
        rate = study.best_params["learning_rate"]
        entry = ", ".join(f"{key}: {value}" for key, value in zip(CONDITION, condition, strict=True))
        print(f"  - {{{entry}, value: {rate:.4g}}}  # held-out accuracy {study.best_value:.3f}", flush=True)


if __name__ == "__main__":
    main()
