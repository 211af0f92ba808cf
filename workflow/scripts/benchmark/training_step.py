"""Time of training steps and of a VGG-sized layer per precision on a CPU: rounding once against PyTorch's kernels.

What a step cannot do without are its convolutions and matrix products: the same kernels on the same operands, alone. The ratio is
that of the medians to the float32 one of the same run.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nonsmooth import provenance, timing, training
from nonsmooth.cells import TrainingCell
from nonsmooth.files import atomic
from nonsmooth.joblog import job_log
from nonsmooth.precision import PRECISIONS, SIXTEEN_BITS, Precision

CPU = torch.device("cpu")
BATCH = 128
# A slow case is measured until it has used this many seconds, once at least.
BUDGET, ROUNDS = 20.0, 20


class Step(timing.TrainingStep):
    """A training step that can be taken apart."""

    def __init__(self, dataset: str, architecture: str, rule: str, precision: Precision, arithmetic) -> None:
        cell = TrainingCell(
            dataset=dataset,
            architecture=architecture,
            rule=rule,
            precision=precision.name,
            learning_rate=0.01,
            weight_decay=5e-4,
            batch_size=BATCH,
        )
        super().__init__(cell, CPU, arithmetic)

    def update(self) -> None:
        """What the optimizer does in a step, again."""
        with self.arithmetic():
            self.optimizer.step()

    def parts(self) -> dict[str, Callable[[], None]]:
        """Parts of a step, by path: what convolutions and matrix products, poolings, and the optimizer compute."""
        with Recorder() as recorder:  # below the arithmetic, so that it sees which kernels are called
            self()
        return {
            "products": recorder.repeat(lambda name: name.startswith("convolution") or name in ("addmm", "mm")),
            "poolings": recorder.repeat(lambda name: "max_pool2d" in name),
            "update": self.update,
        }


class Recorder(TorchDispatchMode):
    """Keeps the operations that are called while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Callable[[], Any]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        call = partial(func, *args, **kwargs or {})
        self.calls.append((func.overloadpacket.__name__, call))
        return call()

    def repeat(self, wanted: Callable[[str], bool]) -> Callable[[], None]:
        """A function that calls the operations of these names again."""
        calls = [call for name, call in self.calls if wanted(name)]

        @torch.no_grad()
        def run() -> None:
            for call in calls:
                call()

        return run


lenet5_step = partial(Step, "mnist_5k", "lenet5", "native")
# The steps that are taken apart.
STEPS = {
    "lenet5 step": lenet5_step,
    "lenet5 step, exact": partial(Step, "mnist_5k", "lenet5", "hybrid-10-exact"),
    "lenet5 step, composed": partial(Step, "mnist_5k", "lenet5", "hybrid-10-composed"),
    "vgg11 step": partial(Step, "cifar10", "vgg11", "native"),
}


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
    """Name, precision, path and the function to time. The path `project` is all of it, `pytorch` with PyTorch's own kernels."""
    for precision in PRECISIONS.values():
        if "cpu" not in precision.devices:
            continue
        arithmetic = partial(precision.arithmetic, CPU)
        for name, build in STEPS.items():
            step = build(precision, arithmetic)
            yield name, precision.name, "project", step
            for path, run in step.parts().items():
                yield name, precision.name, path, run
        yield "vgg11 layer", precision.name, "project", vgg11_layer(precision, arithmetic)
        if precision.dtype in SIXTEEN_BITS:
            step = lenet5_step(precision, nullcontext)
            timing.pool_by_pytorch(step.model)
            yield "lenet5 step", precision.name, "pytorch", step
            yield "vgg11 layer", precision.name, "pytorch", vgg11_layer(precision, nullcontext)


def measure(rounds: int) -> pd.DataFrame:
    """Median, quartiles (milliseconds), ratio to float32 and to the whole case in the same precision, of each."""
    running = list(cases())
    seconds = timing.in_turn([run for *_, run in running], rounds, BUDGET, timing.clock(CPU))
    rows = []
    for times, (name, precision, path, _) in zip(seconds, running, strict=True):
        milliseconds = 1000 * pd.Series(times)
        low, median, high = milliseconds.quantile([0.25, 0.5, 0.75])
        rows.append({"case": name, "precision": precision, "path": path, "median_ms": median,
                     "quartile1_ms": low, "quartile3_ms": high, "rounds": len(times)})  # fmt: skip
    table = pd.DataFrame(rows)
    whole = table[table.path == "project"].set_index(["case", "precision"]).median_ms
    in_float32 = whole.xs("float32", level="precision")
    whole = whole.reindex(pd.MultiIndex.from_frame(table[["case", "precision"]])).to_numpy()
    return table.assign(
        ratio_to_float32=table.median_ms / table.case.map(in_float32), ratio_to_whole=table.median_ms / whole
    ).round(3)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        # The job holds every core so that nothing of ours disturbs it, and computes as a cell does.
        threads = snakemake.params.settings["threads"]
        training.configure(training.Settings(threads=threads))
        table = measure(ROUNDS).assign(**provenance.benchmark("cpu", threads))
        with atomic(snakemake.output[0]) as temporary:
            table.to_csv(temporary, index=False)
