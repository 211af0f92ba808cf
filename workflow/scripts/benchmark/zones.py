"""Time of comparing two programs on a minibatch, as ratios to a plain pass of the same network, with and without replays.

Rounds measure the plain pass, then the comparison with its replays, so that a noisy machine disturbs all alike. Each case
runs in a process of its own, so that its memory is seen alone.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pandas as pd
import torch

from nonsmooth import provenance, training
from nonsmooth.cells import Program, ZoneCell
from nonsmooth.datasets import DATASETS
from nonsmooth.files import atomic
from nonsmooth.joblog import job_log
from nonsmooth.leases import lease
from nonsmooth.precision import PRECISIONS
from nonsmooth.zones.measure import Comparison
from nonsmooth.zones.run import initial_network

BATCH, ROUNDS = 128, 3
NETWORKS = (("lenet5", "none"), ("lenet5", "batch_norm"), ("vgg11", "none"))
# Of images as natural as can be drawn at random: smooth, without flat regions.
SMOOTHING = 3


def images_like(dataset: str, size: int, generator: torch.Generator) -> torch.Tensor:
    """Random images of low frequency, as float32 (BATCH, C, size, size)."""
    noise = torch.randn(BATCH, DATASETS[dataset].shape[0], size, size, generator=generator)
    kernel = (SMOOTHING, SMOOTHING)
    return torch.nn.functional.avg_pool2d(noise, kernel, 1, SMOOTHING // 2, count_include_pad=False) * SMOOTHING


def measure(architecture: str, normalization: str, precision: str, settings: training.Settings, rounds: int) -> dict:
    """Medians over rounds: seconds of a plain pass, and of a pair and of all replays as ratios to it; memory of the process."""
    training.configure(settings)
    device = torch.device(settings.device)
    dataset, size = ("mnist_5k", 28) if architecture == "lenet5" else ("cifar10", 32)
    cell = ZoneCell(
        dataset=dataset, architecture=architecture, normalization=normalization, precision=precision, batch_size=BATCH
    )
    comparison = Comparison(initial_network(cell), Program("minimal"), Program(), PRECISIONS[precision], device)
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(BATCH) % 10).to(device)
    rows = []
    for number in range(rounds + 1):
        images = images_like(dataset, size, generator).to(device)
        started = comparison.clock()
        comparison.plain_pass(images, labels)
        plain = comparison.clock() - started
        row = comparison.measure(images, labels).row
        if number > 0:  # the first round warms up
            pair, replays = row["seconds_pair"] / plain, row["seconds_replays"] / plain
            rows.append({"plain_s": plain, "pair": pair, "with_replays": pair + replays})
    found = pd.DataFrame(rows).median()
    used = provenance.usage(device.type)
    return {
        "architecture": architecture,
        "normalization": normalization,
        "precision": precision,
        **found,
        "peak_memory_mib": used["peak_memory_mib"],
        "peak_gpu_memory_mib": used.get("peak_gpu_memory_mib"),
    }


def measure_all(settings: training.Settings, rounds: int) -> pd.DataFrame:
    rows = []
    for architecture, normalization in NETWORKS:
        for precision in PRECISIONS.values():
            if settings.device in precision.devices:
                case = (architecture, normalization, precision.name, settings, rounds)
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                    rows.append(process.submit(measure, *case).result())
    return pd.DataFrame(rows)


if __name__ == "__main__":
    with job_log(snakemake.log[0]), lease(snakemake.resources.gpu_slots, snakemake.config["jobs_per_gpu"]):
        settings = training.Settings(**snakemake.params.settings).on_this_machine()
        table = measure_all(settings, ROUNDS).round(6)
        table = table.assign(batch_size=BATCH, **provenance.benchmark(settings.device, settings.threads))
        with atomic(snakemake.output[0]) as temporary:
            table.to_csv(temporary, index=False)
