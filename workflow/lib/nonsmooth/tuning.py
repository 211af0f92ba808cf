"""The learning-rate search of the published set-up: Optuna, log-uniform, with pruning.

A search scores a rate by the accuracy on images held out of the training split, so that the test split stays unseen.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import torch
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from nonsmooth import training
from nonsmooth.cells import SEARCH, TrainingCell
from nonsmooth.files import content_hash
from nonsmooth.images import Images, StreamedImages
from nonsmooth.numerics import NUMERICS_VERSION

logger = logging.getLogger(__name__)

LOWEST, HIGHEST = 1e-5, 1e-1
HELD_OUT = 5  # every fifth training image is held out
# A trial is pruned where its accuracy is below the median of earlier ones after this many epochs or later, once
# Optuna has five finished trials. ASSUME: the published search pruned by the median, which is Optuna's default.
WARMUP_EPOCHS = 2


def search(
    cell: TrainingCell,
    data: Images | StreamedImages,
    settings: training.Settings,
    trials: int,
    journal: str | Path | None = None,
) -> optuna.Study:
    """Search the learning rate of `cell`; `study.best_params["learning_rate"]` is the result.

    A search that was interrupted goes on after its last finished trial and ends with the same trials as one that was
    not: the draw of a trial depends on the seed, its number and the finished trials before it.

    Args:
        cell: the condition; each trial trains it for its epochs with another learning rate. Its seed also seeds the draws.
        data: the training split.
        settings: device, threads, determinism.
        trials: number of rates tried.
        journal: file that keeps the trials; None keeps nothing. It may hold a search of fewer trials, which is extended.

    Raises ValueError if the journal holds the search of another cell, or is damaged.
    """
    held_out = torch.arange(len(data)) % HELD_OUT == HELD_OUT - 1
    fit, check = data.subset(~held_out), data.subset(held_out)

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", LOWEST, HIGHEST, log=True)

        def report(row: dict) -> None:
            trial.report(row["test_accuracy"], row["epoch"])
            if trial.should_prune():
                raise optuna.TrialPruned

        tried = replace(cell, learning_rate=rate)
        return training.train(tried, fit, check, settings, on_epoch=report).metrics[-1]["test_accuracy"]

    study = _open(identity(cell, settings), journal)
    while (number := len(finished(study))) < trials:
        # A killed trial stays unfinished, and is not to count as a bad one.
        seed = (cell.seed * 10007 + number) % 2**32
        study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=False)
        study.optimize(objective, n_trials=1)
        trial = finished(study)[-1]
        logger.info("trial %d of %d: rate %.4g, held-out accuracy %.4f, %s", number + 1, trials,
                    trial.params["learning_rate"], trial.value, trial.state.name.lower())  # fmt: skip
    # A journal may hold more trials than were asked for now.
    result = optuna.create_study(direction="maximize")
    result.add_trials(finished(study)[:trials])
    return result


def identity(cell: TrainingCell, settings: training.Settings) -> str:
    """What trials depend on, as a hash: searches that differ in it have nothing to do with each other."""
    return content_hash([replace(cell, learning_rate=SEARCH).to_dict(), vars(settings), NUMERICS_VERSION])


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Its trials that came to an end, in order; a killed trial stays unfinished for ever and counts for nothing."""
    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def trial_table(study: optuna.Study) -> pd.DataFrame:
    """One row per finished trial: `trial` (from 1), `learning_rate`, `epochs` trained, held-out `accuracy` of the last of
    them, `pruned`, and whether it was `chosen`."""
    rows = [
        {
            "trial": position,
            "learning_rate": trial.params["learning_rate"],
            "epochs": len(trial.intermediate_values),
            "accuracy": trial.intermediate_values[max(trial.intermediate_values)],
            "pruned": trial.state is TrialState.PRUNED,
            "chosen": trial.number == study.best_trial.number,
        }
        for position, trial in enumerate(finished(study), start=1)
    ]
    return pd.DataFrame(rows)


def _open(searched: str, journal: str | Path | None) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = None
    try:
        if journal is not None:
            # Optuna's lock is a link to the journal's path, which has to be absolute.
            path = Path(journal).resolve()
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut_half_line(path)
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(
            study_name="learning_rate",
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_warmup_steps=WARMUP_EPOCHS),
            storage=storage,
            load_if_exists=True,
        )
    except OSError:
        raise
    except Exception as error:  # a damaged journal fails in many ways inside Optuna
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{journal}: not a journal of trials ({reason}); delete it to search again") from error
    if study.user_attrs.get("search", searched) != searched:
        raise ValueError(f"{journal}: holds the search of a cell with other settings; delete it to search again")
    study.set_user_attr("search", searched)
    return study


def _cut_half_line(path: Path) -> None:
    """Remove what a killed process began to write."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])
