"""Time and memory of a training step of every architecture at every precision that this machine's device can do.

Each case runs in a process of its own, so that its memory is seen alone. Images are random, 3 x 32 x 32 (LeNet-5:
1 x 28 x 28); rule native, batch norm, SGD. Of one CPU thread the processor's time is taken, which is the time that a step takes
alone, so that a busy machine disturbs less.
"""

import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pandas as pd
import torch

from nonsmooth import optimizers, provenance, training
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
    clock = time.process_time if (settings.device, settings.threads) == ("cpu", 1) else time.perf_counter
    training.configure(settings)
    precision = PRECISIONS[precision_name]
    dataset = "mnist_5k" if architecture == "lenet5" else "cifar10"
    cell = TrainingCell(
        dataset=dataset,
        architecture=architecture,
        normalization="batch_norm",
        precision=precision_name,
        learning_rate=1e-3,
    )
    before = provenance.usage(device.type)
    model = training.initial_model(cell).to(device)
    optimizer, scaler = optimizers.build_optimizer(cell, model), precision.loss_scaler(device)
    shape = (1, 28, 28) if architecture == "lenet5" else (3, 32, 32)
    images = torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    labels = (torch.arange(BATCH) % 10).to(device)
    seconds: list[float] = []
    for number in range(STEPS + 1):
        started = clock()
        with precision.arithmetic(device):
            training.step(model, optimizer, scaler, precision, images, labels)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number > 0:
            seconds.append(clock() - started)
        if sum(seconds) > BUDGET:
            break
    started = clock()
    with torch.no_grad(), precision.evaluation.arithmetic(device):
        model.eval()(precision.cast_batch(images))
    if device.type == "cuda":
        torch.cuda.synchronize()
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
