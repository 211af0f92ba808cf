"""Time and memory of a training step of every architecture at every precision that this machine's device can do.

Each case runs in a process of its own, so that its memory is seen alone. Images are random, 3 x 32 x 32 (LeNet-5:
1 x 28 x 28); rule native, batch norm, SGD.
"""

import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pandas as pd
import torch

from nonsmooth import provenance, timing, training
from nonsmooth.architectures import ARCHITECTURES
from nonsmooth.cells import TrainingCell
from nonsmooth.files import atomic
from nonsmooth.joblog import job_log
from nonsmooth.leases import lease
from nonsmooth.pooling import MaxPool2d
from nonsmooth.precision import PRECISIONS

BATCH = 128
# Steps are repeated for this many seconds after one to warm up, and this often at most.
BUDGET, STEPS = 2.0, 20


def measure(architecture: str, precision_name: str, settings: training.Settings) -> dict:
    """Median seconds of a training step, its quartiles, those of a test step and of the start, and the memory of the process."""
    device = torch.device(settings.device)
    training.configure(settings)
    clock = timing.clock(device)
    precision = PRECISIONS[precision_name]
    cell = TrainingCell(
        dataset="mnist_5k" if architecture == "lenet5" else "cifar10",
        architecture=architecture,
        normalization="batch_norm",
        precision=precision_name,
        learning_rate=1e-3,
        batch_size=BATCH,
    )
    before = provenance.usage(device.type)
    step = timing.TrainingStep(cell, device)
    (seconds,) = timing.in_turn([step], STEPS, BUDGET, clock)
    model = step.model
    started = clock()
    with torch.no_grad(), precision.evaluation.arithmetic(device):
        model.eval()(precision.cast_batch(step.images))
    test_seconds = clock() - started
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    used = provenance.usage(device.type)
    return {
        "architecture": architecture,
        "precision": precision_name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(median, 6),
        "quartile1": round(low, 6),
        "quartile3": round(high, 6),
        "steps": len(seconds),
        "images_per_second": round(BATCH / median, 1),
        "test_seconds": round(test_seconds, 6),
        "start_seconds": before["process_seconds"],
        "poolings": sum(isinstance(module, MaxPool2d) for module in model.modules()),
        "peak_memory_mib": used["peak_memory_mib"],
        "memory_before_mib": before["peak_memory_mib"],
        "peak_gpu_memory_mib": used.get("peak_gpu_memory_mib"),
    }


def measure_all(settings: training.Settings) -> pd.DataFrame:
    device = torch.device(settings.device)
    rows = []
    for architecture in ARCHITECTURES:
        for precision in PRECISIONS.values():
            if device.type in precision.devices:
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                    rows.append(process.submit(measure, architecture, precision.name, settings).result())
    return pd.DataFrame(rows)


if __name__ == "__main__":
    with job_log(snakemake.log[0]), lease(snakemake.resources.gpu_slots, snakemake.config["jobs_per_gpu"]):
        settings = training.Settings(**snakemake.params.settings).on_this_machine()
        table = measure_all(settings)
        table = table.assign(batch_size=BATCH, **provenance.benchmark(settings.device, settings.threads))
        with atomic(snakemake.output[0]) as temporary:
            table.to_csv(temporary, index=False)
