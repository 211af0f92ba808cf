"""Time of a training step by pooling rule and normalization, as ratios to the native rule with batch norm.

Every round measures each case once, in turn, so that a noisy machine disturbs all alike, by the clock of `architectures.py`. LeNet-5, whose poolings are a large
part of a step, is measured with every rule; VGG11, whose convolutions are, with those of the factorial experiment.
"""

import time
from collections.abc import Callable, Iterable

import pandas as pd
import torch

from nonsmooth import optimizers, provenance, training
from nonsmooth.cells import TrainingCell
from nonsmooth.files import atomic
from nonsmooth.joblog import job_log
from nonsmooth.leases import lease
from nonsmooth.precision import PRECISIONS
from nonsmooth.programs import PROGRAMS
from nonsmooth.rules import EVALUATIONS

BATCH = 128
# A case is measured until it has used this many seconds, once at least.
BUDGET = 2.0
HYBRIDS = [f"hybrid-1000-{evaluation}" for evaluation in EVALUATIONS]
OTHERS = ["norm-0", "norm-0-composed", "average", "boltzmann-0.1", "logsumexp-0.1", "rounded-3.5", "strided"]
FACTORIAL = [*(name for name in PROGRAMS if name != "native"), "composed_unlimited"]
NETWORKS = {
    "lenet5": ["native", "minimal", *HYBRIDS, *OTHERS],
    "vgg11": ["native", "minimal", *(f"hybrid-1000-{evaluation}" for evaluation in FACTORIAL)],
}


def training_step(
    architecture: str, normalization: str, precision_name: str, rule: str, device: torch.device
) -> Callable[[], None]:
    """A training step by SGD on random images, as in `architectures.py`."""
    precision = PRECISIONS[precision_name]
    cell = TrainingCell(
        dataset="mnist_5k" if architecture == "lenet5" else "cifar10",
        architecture=architecture,
        normalization=normalization,
        precision=precision_name,
        rule=rule,
        learning_rate=1e-3,
    )
    model = training.initial_model(cell).to(device)
    optimizer, scaler = optimizers.build_optimizer(cell, model), precision.loss_scaler(device)
    shape = (1, 28, 28) if architecture == "lenet5" else (3, 32, 32)
    images = torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    labels = (torch.arange(BATCH) % 10).to(device)

    def run() -> None:
        with precision.arithmetic(device):
            training.step(model, optimizer, scaler, precision, images, labels)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def measure(
    architecture: str, precision: str, rules: Iterable[str], settings: training.Settings, rounds: int
) -> pd.DataFrame:
    """Median seconds of a step of every case, and their ratio to the first one: native with batch norm."""
    device = torch.device(settings.device)
    clock = time.process_time if (settings.device, settings.threads) == ("cpu", 1) else time.perf_counter
    cases = [("batch_norm", rule) for rule in rules] + [("none", "native")]
    running = [training_step(architecture, normalization, precision, rule, device) for normalization, rule in cases]
    seconds: list[list[float]] = [[] for _ in cases]
    for number in range(rounds + 1):
        for times, run in zip(seconds, running, strict=True):
            if sum(times) < BUDGET:
                started = clock()
                run()
                if number > 0:  # the first round warms up
                    times.append(clock() - started)
    table = pd.DataFrame(cases, columns=["normalization", "rule"])
    table["seconds"] = [pd.Series(times).median() for times in seconds]
    table["ratio"] = table.seconds / table.seconds[0]
    return table.assign(architecture=architecture, precision=precision)


if __name__ == "__main__":
    with job_log(snakemake.log[0]), lease(snakemake.resources.gpu_slots, snakemake.config["jobs_per_gpu"]):
        settings = training.Settings(**snakemake.params.settings).on_this_machine()
        training.configure(settings)
        table = pd.concat(
            measure(architecture, precision.name, rules, settings, snakemake.params.rounds)
            for architecture, rules in NETWORKS.items()
            for precision in PRECISIONS.values()
            if settings.device in precision.devices
        )
        table = table[["architecture", "precision", "normalization", "rule", "seconds", "ratio"]].round(6)
        table = table.assign(batch_size=BATCH, **provenance.benchmark(settings.device, settings.threads))
        with atomic(snakemake.output[0]) as temporary:
            table.to_csv(temporary, index=False)
