"""Time of a training step and of a VGG-sized layer per precision on a CPU: rounding once against PyTorch's kernels.

The ratio is that of the medians to the float32 one of the same run.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pandas as pd
import torch
from torch import nn

from nonsmooth import provenance, timing, training
from nonsmooth.cells import TrainingCell
from nonsmooth.files import atomic
from nonsmooth.joblog import job_log
from nonsmooth.precision import PRECISIONS, SIXTEEN_BITS, Precision

CPU = torch.device("cpu")
BATCH = 128
# A slow case is measured until it has used this many seconds, once at least.
BUDGET, ROUNDS = 20.0, 20


def lenet5_step(precision: Precision, arithmetic) -> Callable[[], None]:
    """A training step of LeNet-5 on random images of MNIST's shape."""
    cell = TrainingCell(
        dataset="mnist_5k",
        architecture="lenet5",
        precision=precision.name,
        learning_rate=0.01,
        weight_decay=5e-4,
        batch_size=BATCH,
    )
    return timing.TrainingStep(cell, CPU, arithmetic)


def vgg11_layer(precision: Precision, arithmetic) -> Callable[[], None]:
    """Forward and backward of VGG11's second convolution, 64 to 128 channels on 16 x 16."""
    generator = torch.Generator().manual_seed(0)
    layer = precision.cast_model(nn.Conv2d(64, 128, 3, padding=1))
    images = precision.cast_batch(torch.randn(BATCH, 64, 16, 16, generator=generator)).requires_grad_()
    gradient = precision.cast_batch(torch.randn(BATCH, 128, 16, 16, generator=generator))

    def run() -> None:
        with arithmetic():
            output = layer(images)
            output.backward(gradient.to(output.dtype))

    return run


def cases() -> Iterator[tuple[str, str, str, Callable[[], None]]]:
    """Name, precision, path and the function to time."""
    for name, build in (("lenet5 step", lenet5_step), ("vgg11 layer", vgg11_layer)):
        for precision in PRECISIONS.values():
            if "cpu" not in precision.devices:
                continue
            yield name, precision.name, "project", build(precision, lambda p=precision: p.arithmetic(CPU))
            if precision.dtype in SIXTEEN_BITS:
                yield name, precision.name, "pytorch", build(precision, nullcontext)


def measure(rounds: int) -> pd.DataFrame:
    """Median, quartiles (milliseconds) and ratio to float32 of each case."""
    running = list(cases())
    seconds = timing.in_turn([run for *_, run in running], rounds, BUDGET, timing.clock(CPU))
    rows = []
    for times, (name, precision, path, _) in zip(seconds, running, strict=True):
        milliseconds = 1000 * pd.Series(times)
        low, median, high = milliseconds.quantile([0.25, 0.5, 0.75])
        rows.append({"case": name, "precision": precision, "path": path, "median_ms": median,
                     "quartile1_ms": low, "quartile3_ms": high, "rounds": len(times)})  # fmt: skip
    table = pd.DataFrame(rows)
    reference = table[table.precision == "float32"].set_index("case").median_ms
    return table.assign(ratio_to_float32=table.median_ms / table.case.map(reference)).round(3)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        # The job holds every core so that nothing of ours disturbs it, and computes as a cell does.
        threads = snakemake.params.settings["threads"]
        training.configure(training.Settings(threads=threads))
        table = measure(ROUNDS).assign(**provenance.benchmark("cpu", threads))
        with atomic(snakemake.output[0]) as temporary:
            table.to_csv(temporary, index=False)
