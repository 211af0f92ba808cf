"""Train one cell: metrics per epoch, and the record of outcome and provenance."""

import csv
import logging
from pathlib import Path

import torch

from nonsmooth import datasets, training
from nonsmooth.cells import TrainingCell
from nonsmooth.files import atomic, write_json
from nonsmooth.joblog import job_log


def train(
    cell: TrainingCell, train_path: str, test_path: str, settings: training.Settings, metrics: Path, record: Path
) -> None:
    def log(row: dict) -> None:
        logging.info(", ".join(f"{key} {value:.6g}" for key, value in row.items()))

    device = torch.device(settings.device)
    train_set, test_set = (
        training.Images.on_device(cell.dataset, *datasets.load(cell.dataset, path), device)
        for path in (train_path, test_path)
    )
    run = training.train(cell, train_set, test_set, settings, on_epoch=log)
    with atomic(metrics) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, run.metrics[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(run.metrics)
    write_json(record, run.record)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        wanted = snakemake.params.settings
        if snakemake.threads != wanted["threads"]:
            raise ValueError(
                f"threads: {wanted['threads']} per cell, but Snakemake gave {snakemake.threads}, and sums depend on it; "
                f"run with --cores {wanted['threads']} or more"
            )
        train(
            TrainingCell.from_dict(snakemake.params.cell),
            snakemake.input.train,
            snakemake.input.test,
            training.Settings(**wanted),
            Path(snakemake.output.metrics),
            Path(snakemake.output.record),
        )
