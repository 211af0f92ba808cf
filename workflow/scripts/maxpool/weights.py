"""Train the two programs of a cell: distance and accuracies per epoch, and the record of outcomes and provenance."""

import logging
from pathlib import Path
from typing import Any

import torch

from nonsmooth import images, training
from nonsmooth.cells import WeightsCell
from nonsmooth.checkpoints import Checkpoint
from nonsmooth.config import checkpoints_settings
from nonsmooth.files import require_writable, write_json, write_rows
from nonsmooth.joblog import job_log
from nonsmooth.leases import lease
from nonsmooth.weights import train_pair


def weights(
    cell: WeightsCell,
    train_path: str,
    test_path: str,
    settings: training.Settings,
    epochs: Path,
    record: Path,
    workers: int = 0,
    saving: dict[str, Any] | None = None,
) -> None:
    def log(row: dict) -> None:
        logging.info(", ".join(f"{key} {value:.6g}" for key, value in row.items() if value is not None))

    settings = settings.on_this_machine()
    train_set, test_set = (
        images.load(cell.dataset, cell.architecture, path, torch.device(settings.device), workers)
        for path in (train_path, test_path)
    )
    path = epochs.with_name("checkpoint.pt")
    with Checkpoint(path, training.checkpoint_identity(cell, settings), **(saving or {})) as checkpoint:
        run = train_pair(cell, train_set, test_set, settings, on_epoch=log, checkpoint=checkpoint)
        write_rows(epochs, run.metrics)
        write_json(record, run.record)
        checkpoint.remove()


if __name__ == "__main__":
    with job_log(snakemake.log[0]), lease(snakemake.resources.gpu_slots, snakemake.config["jobs_per_gpu"]):
        require_writable(snakemake.output.record)
        settings = training.Settings.of_job(snakemake.params.settings, snakemake.threads)
        weights(
            WeightsCell.from_dict(snakemake.params.cell),
            snakemake.input.train,
            snakemake.input.test,
            settings,
            Path(snakemake.output.epochs),
            Path(snakemake.output.record),
            workers=snakemake.threads - settings.threads,
            saving=checkpoints_settings(snakemake.config),
        )
