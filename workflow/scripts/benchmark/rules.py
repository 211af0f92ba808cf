"""Time of a training step by pooling rule and normalization, as ratios to the native rule with batch norm.

LeNet-5, whose poolings are a large part of a step, is measured with every rule; VGG11, whose convolutions are, with those of the
factorial experiment.
"""

from collections.abc import Iterable

import pandas as pd
import torch

from nonsmooth import provenance, timing, training
from nonsmooth.cells import TrainingCell
from nonsmooth.files import atomic
from nonsmooth.joblog import job_log
from nonsmooth.leases import lease
from nonsmooth.precision import PRECISIONS
from nonsmooth.programs import PROGRAMS
from nonsmooth.rules import EVALUATIONS

BATCH = 128
# A case is measured until it has used this many seconds, once at least.
BUDGET, ROUNDS = 2.0, 20
HYBRIDS = [f"hybrid-1000-{evaluation}" for evaluation in EVALUATIONS]
OTHERS = ["norm-0", "norm-0-composed", "average", "boltzmann-0.1", "logsumexp-0.1", "rounded-3.5", "strided"]
FACTORIAL = [*(name for name in PROGRAMS if name != "native"), "composed_unlimited"]
NETWORKS = {
    "lenet5": ["native", "minimal", *HYBRIDS, *OTHERS],
    "vgg11": ["native", "minimal", *(f"hybrid-1000-{evaluation}" for evaluation in FACTORIAL)],
}


def measure(
    architecture: str, precision: str, rules: Iterable[str], settings: training.Settings, rounds: int
) -> pd.DataFrame:
    """Median seconds of a step of every case, and their ratio to the first one: native with batch norm."""
    device = torch.device(settings.device)
    cases = [("batch_norm", rule) for rule in rules] + [("none", "native")]
    cells = [
        TrainingCell(
            dataset="mnist_5k" if architecture == "lenet5" else "cifar10",
            architecture=architecture,
            normalization=normalization,
            precision=precision,
            rule=rule,
            learning_rate=1e-3,
            batch_size=BATCH,
        )
        for normalization, rule in cases
    ]
    steps = [timing.TrainingStep(cell, device) for cell in cells]
    seconds = timing.in_turn(steps, rounds, BUDGET, timing.clock(device))
    table = pd.DataFrame(cases, columns=["normalization", "rule"])
    table["seconds"] = [pd.Series(times).median() for times in seconds]
    table["ratio"] = table.seconds / table.seconds[0]
    return table.assign(architecture=architecture, precision=precision)


if __name__ == "__main__":
    with job_log(snakemake.log[0]), lease(snakemake.resources.gpu_slots, snakemake.config["jobs_per_gpu"]):
        settings = training.Settings(**snakemake.params.settings).on_this_machine()
        training.configure(settings)
        table = pd.concat(
            measure(architecture, precision.name, rules, settings, ROUNDS)
            for architecture, rules in NETWORKS.items()
            for precision in PRECISIONS.values()
            if settings.device in precision.devices
        )
        table = table[["architecture", "precision", "normalization", "rule", "seconds", "ratio"]].round(6)
        table = table.assign(batch_size=BATCH, **provenance.benchmark(settings.device, settings.threads))
        with atomic(snakemake.output[0]) as temporary:
            table.to_csv(temporary, index=False)
