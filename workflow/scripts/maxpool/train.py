"""Train one cell: metrics per epoch, the record of outcome and provenance, and what its poolings did."""

import logging
from dataclasses import replace

import torch

from nonsmooth import images, training
from nonsmooth.cells import ACTIVATIONS, LAYERS, SEARCH, TrainingCell
from nonsmooth.files import read_json, require_writable, write_json, write_rows
from nonsmooth.joblog import job_log


def train(
    cell: TrainingCell,
    train_path: str,
    test_path: str,
    settings: training.Settings,
    outputs: dict[str, str],
    workers: int = 0,
) -> None:
    def log(row: dict) -> None:
        logging.info(", ".join(f"{key} {value:.6g}" for key, value in row.items()))

    settings = settings.on_this_machine()
    train_set, test_set = (
        images.load(cell.dataset, cell.architecture, path, torch.device(settings.device), workers)
        for path in (train_path, test_path)
    )
    run = training.train(cell, train_set, test_set, settings, on_epoch=log)
    write_rows(outputs["metrics"], run.metrics)
    write_rows(outputs["layers"], run.layers, LAYERS)
    write_rows(outputs["activations"], run.activations, ACTIVATIONS)
    write_json(outputs["record"], run.record)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
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
        )
