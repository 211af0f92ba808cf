"""Images per second of several cells at once on this machine, each in a process of its own, as Snakemake runs them."""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
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
SECONDS = 10


def train_for(seconds: float, begin: float, path: str, settings: training.Settings) -> float:
    """Images per second of one cell that trains from the time `begin` on, or when it is ready, for so many seconds."""
    device = torch.device(settings.device)
    training.configure(settings)
    data = images.load(CELL.dataset, CELL.architecture, path, device)
    few = data.subset(torch.zeros(1, dtype=torch.int64))
    epochs = training.Trainer(CELL, data, few, PRECISIONS[CELL.precision], device, traced=True).epochs()
    next(epochs)  # warms up
    if time.time() > begin:
        raise RuntimeError(f"not ready {time.time() - begin:.0f} s after the beginning; is the machine busy?")
    time.sleep(begin - time.time())
    count, started = 0, time.perf_counter()
    while (taken := time.perf_counter() - started) < seconds:
        next(epochs)
        count += len(data)
    return count / taken


def measure(cells: int, path: str, settings: training.Settings, seconds: float, ready: float) -> dict[str, float]:
    """Sum and smallest of the rates of so many cells at once."""
    with ProcessPoolExecutor(cells, mp_context=get_context("spawn")) as processes:
        begin = time.time() + ready
        running = [processes.submit(train_for, seconds, begin, path, settings) for _ in range(cells)]
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
        rows = [measure(cells, path, settings, SECONDS, ready=15.0 + 5.0 * cells) for cells in snakemake.params.cells]
        table = pd.DataFrame(rows)
        table = table.assign(
            ratio_to_one=(table.images_per_second / table.images_per_second[0]).round(2),
            cores=provenance.machine()["cores"],
            **provenance.benchmark(settings.device, settings.threads),
        )
        with atomic(snakemake.output[0]) as temporary:
            table.to_csv(temporary, index=False)
