"""Images per second of LeNet-5 on a CPU: the project beside a plain program, an epoch of each in turn.

The plain program is what one would write first, and what was published: a DataLoader that transforms images one by one, PyTorch's own
16-bit kernels, a loss that is read at every step. Both pool by the same rule; the ratio is that of the medians of one run.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cross_entropy
from torchvision import transforms

from nonsmooth import datasets, images, provenance, timing, training
from nonsmooth.cells import TrainingCell
from nonsmooth.datasets import DATASETS
from nonsmooth.files import atomic
from nonsmooth.joblog import job_log
from nonsmooth.pooling import MaxPool2d
from nonsmooth.pooling.composed import composed_max_pool2d
from nonsmooth.pooling.windows import Geometry
from nonsmooth.precision import PRECISIONS
from nonsmooth.rules import Hybrid, Native, parse_rule

CPU = torch.device("cpu")
PRECISION_NAMES = ("float16", "bfloat16", "float32", "float64")
RULES = ("native", "hybrid-10-composed")
# A slow case is measured until it has used this many seconds, once at least.
BUDGET, ROUNDS = 20.0, 5


class PlainImages(torch.utils.data.Dataset):
    """Images as torchvision's datasets give them."""

    def __init__(self, name: str, path: str) -> None:
        self.images, self.labels = datasets.load(name, path)
        mean, std = DATASETS[name].mean, DATASETS[name].std
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        # Channels last, as an image file is read.
        return self.transform(np.array(self.images[number]).transpose(1, 2, 0)), int(self.labels[number])


def plain_epoch(cell: TrainingCell, path: str) -> Callable[[], None]:
    """An epoch of the plain program."""
    model = training.initial_model(cell)
    # Without the project's compiled kernels.
    match parse_rule(cell.rule):
        case Native():
            timing.pool_by_pytorch(model)
        case Hybrid(beta, "composed"):
            for pool in [module for module in model.modules() if isinstance(module, MaxPool2d)]:
                geometry = Geometry.of(pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
                pool.forward = partial(composed_max_pool2d, geometry=geometry, beta=beta)
    dtype = PRECISIONS[cell.precision].dtype
    optimizer = torch.optim.SGD(model.parameters(), cell.learning_rate, cell.momentum, weight_decay=cell.weight_decay)
    loader = torch.utils.data.DataLoader(PlainImages(cell.dataset, path), cell.batch_size, shuffle=True)

    def run() -> None:
        model.train()
        total = 0.0
        for batch, labels in loader:
            optimizer.zero_grad()
            loss = cross_entropy(model(batch.to(dtype)), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()

    return run


def project_epoch(cell: TrainingCell, path: str) -> Callable[[], None]:
    """An epoch of training as a cell's job does it, with its trace, but no test pass, which the plain program has not either."""
    data = images.load(cell.dataset, cell.architecture, path, CPU)
    trainer = training.Trainer(
        cell, data, data.subset(torch.zeros(1, dtype=torch.int64)), PRECISIONS[cell.precision], CPU, traced=True
    )
    rows = trainer.epochs()
    return lambda: next(rows)


def cases(path: str) -> Iterator[tuple[str, str, str, Callable[[], None]]]:
    """Rule, precision, program, and an epoch of it."""
    for rule in RULES:
        for precision in PRECISION_NAMES:
            cell = TrainingCell(
                dataset="mnist_5k",
                architecture="lenet5",
                rule=rule,
                precision=precision,
                learning_rate=0.01,
                weight_decay=5e-4,
                epochs=1000,
            )
            yield rule, precision, "plain", plain_epoch(cell, path)
            yield rule, precision, "project", project_epoch(cell, path)


def measure(path: str, rounds: int, count: int) -> pd.DataFrame:
    """Median images per second of each case, its quartiles, and the ratio to the plain program of the same rule and precision."""
    running = list(cases(path))
    seconds = timing.in_turn([run for *_, run in running], rounds, BUDGET, time.perf_counter)
    rows = []
    for times, (rule, precision, program, _) in zip(seconds, running, strict=True):
        low, median, high = (count / pd.Series(times)).quantile([0.25, 0.5, 0.75])
        rows.append({"rule": rule, "precision": precision, "program": program, "images_per_second": median,
                     "quartile1": low, "quartile3": high, "rounds": len(times)})  # fmt: skip
    table = pd.DataFrame(rows)
    plain = table[table.program == "plain"].set_index(["rule", "precision"]).images_per_second
    keys = pd.MultiIndex.from_frame(table[["rule", "precision"]])
    return table.assign(ratio_to_plain=table.images_per_second / plain.loc[keys].to_numpy()).round(2)


if __name__ == "__main__":
    with job_log(snakemake.log[0]), TemporaryDirectory() as folder:
        # The job holds every core so that nothing of ours disturbs it, and computes as a cell does.
        threads = snakemake.params.settings["threads"]
        training.configure(training.Settings(threads=threads))
        # Not an input of the job, which would be repeated whenever that is made again.
        path = f"{folder}/train.npy"
        datasets.prepare("mnist_5k", "train", path)
        table = measure(path, ROUNDS, len(datasets.load("mnist_5k", path)[1]))
        table = table.assign(**provenance.benchmark("cpu", threads))
        with atomic(snakemake.output[0]) as temporary:
            table.to_csv(temporary, index=False)
