"""Images per second of several cells at once on this machine, each in a process of its own, as Snakemake runs them."""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from nonsmooth import datasets, images, provenance, training
from nonsmooth.cells import TrainingCell
from nonsmooth.files import atomic
from nonsmooth.joblog import job_log
from nonsmooth.leases import lease
from nonsmooth.precision import PRECISIONS

CELL = TrainingCell(
    dataset="mnist_5k",
    architecture="lenet5",
    precision="float16",
    rule="hybrid-10-composed",
    learning_rate=0.01,
    weight_decay=5e-4,
    epochs=10**6,
)
# How long cells train, and wait for the slowest one to be ready.
SECONDS, LONGEST_WAIT = 10, 600


def meet_at(barrier: Barrier) -> None:
    """Where this process is to wait for the others."""
    global all_ready
    all_ready = barrier


def train_for(seconds: float, path: str, settings: training.Settings) -> float:
    """Images per second of one cell that trains for so many seconds, from when the cells of all processes are ready."""
    device = torch.device(settings.device)
    training.configure(settings)
    data = images.load(CELL.dataset, CELL.architecture, path, device)
    few = data.subset(torch.zeros(1, dtype=torch.int64))
    epochs = training.Trainer(CELL, data, few, PRECISIONS[CELL.precision], device, traced=True).epochs()
    next(epochs)  # warms up
    all_ready.wait(LONGEST_WAIT)
    count, started = 0, time.perf_counter()
    while (taken := time.perf_counter() - started) < seconds:
        next(epochs)
        count += len(data)
    return count / taken


def measure(cells: int, path: str, settings: training.Settings, seconds: float) -> dict[str, float]:
    """Sum and smallest of the rates of so many cells at once."""
    spawn = get_context("spawn")
    with ProcessPoolExecutor(cells, spawn, initializer=meet_at, initargs=(spawn.Barrier(cells),)) as processes:
        running = [processes.submit(train_for, seconds, path, settings) for _ in range(cells)]
        rates = [one.result() for one in running]
    return {"cells": cells, "images_per_second": round(sum(rates), 1), "slowest_cell": round(min(rates), 1)}


if __name__ == "__main__":
    with (
        job_log(snakemake.log[0]),
        lease(snakemake.resources.gpu_slots, snakemake.config["jobs_per_gpu"]),
        TemporaryDirectory() as folder,
    ):
        settings = training.Settings(**snakemake.params.settings).on_this_machine()
        # Not an input of the job, which would be repeated whenever that is made again.
        path = f"{folder}/train.npy"
        datasets.prepare(CELL.dataset, "train", path)
        rows = [measure(cells, path, settings, SECONDS) for cells in snakemake.params.cells]
        table = pd.DataFrame(rows)
        table = table.assign(
            ratio_to_one=(table.images_per_second / table.images_per_second[0]).round(2),
            cores=provenance.machine()["cores"],
            **provenance.benchmark(settings.device, settings.threads),
        )
        with atomic(snakemake.output[0]) as temporary:
            table.to_csv(temporary, index=False)
