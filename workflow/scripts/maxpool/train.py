"""Train one cell: metrics per epoch, the record of outcome and provenance, and what its poolings did."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nonsmooth import images, training
from nonsmooth.cells import ACTIVATIONS, LAYERS, SEARCH, TrainingCell
from nonsmooth.checkpoints import Checkpoint
from nonsmooth.config import checkpoints_settings
from nonsmooth.files import read_json, require_writable, write_json, write_rows
from nonsmooth.joblog import job_log
from nonsmooth.leases import lease


def train(
    cell: TrainingCell,
    train_path: str,
    test_path: str,
    settings: training.Settings,
    outputs: dict[str, str],
    workers: int = 0,
    saving: dict[str, Any] | None = None,
) -> None:
    def log(row: dict) -> None:
        logging.info(", ".join(f"{key} {value:.6g}" for key, value in row.items()))

    settings = settings.on_this_machine()
    train_set, test_set = (
        images.load(cell.dataset, cell.architecture, path, torch.device(settings.device), workers)
        for path in (train_path, test_path)
    )
    path = Path(outputs["metrics"]).with_name("checkpoint.pt")
    with Checkpoint(path, training.checkpoint_identity(cell, settings), **(saving or {})) as checkpoint:
        run = training.train(cell, train_set, test_set, settings, on_epoch=log, checkpoint=checkpoint)
        write_rows(outputs["metrics"], run.metrics)
        write_rows(outputs["layers"], run.layers, LAYERS)
        write_rows(outputs["activations"], run.activations, ACTIVATIONS)
        write_json(outputs["record"], run.record)
        checkpoint.remove()


if __name__ == "__main__":
    with job_log(snakemake.log[0]), lease(snakemake.resources.gpu_slots, snakemake.config["jobs_per_gpu"]):
        require_writable(snakemake.output.record)
        settings = training.Settings.of_job(snakemake.params.settings, snakemake.threads)
        cell = TrainingCell.from_dict(snakemake.params.cell)
        if cell.learning_rate == SEARCH:
            cell = replace(cell, learning_rate=read_json(snakemake.input.search[0])["learning_rate"])
        train(
            cell,
            snakemake.input.train,
            snakemake.input.test,
            settings,
            dict(snakemake.output.items()),
            workers=snakemake.threads - settings.threads,
            saving=checkpoints_settings(snakemake.config),
        )
