"""Search the learning rate of one set-up: the table of trials, and the rate found. An interrupted search goes on."""

from pathlib import Path

import torch

from nonsmooth import images, training, tuning
from nonsmooth.cells import TrainingCell
from nonsmooth.files import atomic, require_writable, write_json
from nonsmooth.joblog import job_log
from nonsmooth.leases import lease


def search(
    cell: TrainingCell,
    train_path: str,
    settings: training.Settings,
    trials: int,
    journals: Path,
    table: Path,
    chosen: Path,
    workers: int = 0,
) -> None:
    settings = settings.on_this_machine()
    data = images.load(cell.dataset, cell.architecture, train_path, torch.device(settings.device), workers)
    # A search of other settings has another journal, so that what is already there is neither mixed in nor lost.
    journal = journals / f"{tuning.identity(cell, settings)[:16]}.journal"
    study = tuning.search(cell, data, settings, trials, journal)
    with atomic(table) as temporary:
        tuning.trial_table(study).to_csv(temporary, index=False)
    # Four digits, which is what a person copies into a configuration.
    rate = float(f"{study.best_params['learning_rate']:.4g}")
    write_json(chosen, {"learning_rate": rate, "accuracy": study.best_value, "cell": cell.to_dict()})


if __name__ == "__main__":
    with job_log(snakemake.log[0]), lease(snakemake.resources.gpu_slots, snakemake.config["jobs_per_gpu"]):
        require_writable(snakemake.output.chosen)
        settings = training.Settings(**snakemake.params.settings)
        search(
            TrainingCell.from_dict(snakemake.params.cell),
            snakemake.input[0],
            settings,
            snakemake.params.trials,
            Path(snakemake.params.journals),
            Path(snakemake.output.trials),
            Path(snakemake.output.chosen),
            workers=snakemake.threads - settings.threads,
        )
