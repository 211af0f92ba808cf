"""Measure the errors of composed pooling at what enters the poolings of a network before training."""

import pandas as pd
import torch

from nonsmooth import images
from nonsmooth.cells import TrainingCell
from nonsmooth.datasets import DATASETS
from nonsmooth.joblog import job_log
from nonsmooth.pooling_errors import CPU, composed_errors
from nonsmooth.tables import write_csv


def measure(settings: dict, prepared: str, output: str) -> None:
    """Each precision and seed on the minibatch that training takes first."""
    dataset, architecture = settings["dataset"], settings["architecture"]
    data = images.load(dataset, architecture, prepared, CPU)
    tables = []
    for seed in settings["seeds"]:
        draws = torch.Generator().manual_seed(seed)
        batch, labels = next(data.batches(settings["batch_size"], draws, DATASETS[dataset].augmentation))
        for precision in settings["precisions"]:
            cell = TrainingCell(
                dataset=dataset,
                architecture=architecture,
                normalization=settings["normalization"],
                precision=precision,
                seed=seed,
            )
            tables.append(composed_errors(cell, batch, labels, settings["betas"]))
    write_csv(pd.concat(tables, ignore_index=True), output)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        torch.set_num_threads(snakemake.threads)
        measure(snakemake.params.pooling_errors, snakemake.input[0], snakemake.output[0])
