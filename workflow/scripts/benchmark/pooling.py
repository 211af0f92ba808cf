"""Time of max pooling, forward and backward: native, exact and composed, plain and compiled, as ratios to PyTorch's own, and to the time
that the bytes of exact pooling take to copy.

Every round runs each program twice, in turn, so that a noisy machine disturbs all alike, and times the second run, so that none
pays for what another left in the caches. On a GPU a batch is so large that kernels take longer than to launch them. Inputs are what a ReLU leaves of normal numbers, so that windows tie at zero. In 16
bits, too, native is PyTorch's own kernel.
"""

from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from nonsmooth import provenance, timing, training
from nonsmooth.files import atomic
from nonsmooth.joblog import job_log
from nonsmooth.leases import lease
from nonsmooth.pooling import Hybrid, Native, max_pool2d
from nonsmooth.pooling.compiled import gpu_kernels
from nonsmooth.pooling.composed import composed_max_pool2d
from nonsmooth.pooling.exact import ExactMaxPool2d
from nonsmooth.pooling.kernels import TYPES, kernels
from nonsmooth.pooling.windows import Geometry

BETA = 10
CPU = torch.device("cpu")
BATCHES = {"cpu": 128, "cuda": 2048}
ROUNDS = 30
TILING, OVERLAPPING = Geometry.of(2, None, 0, 1, False), Geometry.of(3, 2, 1, 1, False)
# LeNet-5's first pooling, VGG11's first and third, and the first one of a ResNet.
CASES = (
    ((6, 24, 24), TILING),
    ((64, 32, 32), TILING),
    ((256, 8, 8), TILING),
    ((64, 32, 32), OVERLAPPING),
)


def programs(geometry: Geometry, device: torch.device = CPU) -> dict[str, Callable[[Tensor], Tensor]]:
    """What is timed, by name; composed needs windows that tile the input, and compiled a compiler, and composed compiled a CPU."""
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "native": lambda input: torch.nn.functional.max_pool2d(input, *geometry),
        "exact": lambda input: ExactMaxPool2d.apply(input, geometry, BETA)[0],
    }
    if geometry == TILING:
        found["composed"] = lambda input: composed_max_pool2d(input, geometry, BETA)
    if (kernels if device.type == "cpu" else gpu_kernels)() is not None:
        found["exact compiled"] = lambda input: max_pool2d(input, *geometry, rule=Hybrid(BETA))
        if geometry == TILING and device.type == "cpu":
            found["native compiled"] = lambda input: max_pool2d(input, *geometry, rule=Native())
            found["composed compiled"] = lambda input: max_pool2d(input, *geometry, rule=Hybrid(BETA, "composed"))
    return found


def copy_bandwidth(device: torch.device, rounds: int) -> float:
    """Bytes that PyTorch's copy reads and writes in a second; the median of `rounds`."""
    clock = timing.clock(device)
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(rounds):
        started = clock()
        target.copy_(source)
        seconds.append(clock() - started)
    return 2 * source.nbytes / pd.Series(seconds).median()


def measure(
    size: tuple[int, ...],
    geometry: Geometry,
    dtype: torch.dtype,
    rounds: int,
    bandwidth: float,
    device: torch.device = CPU,
) -> pd.DataFrame:
    """Median and quartiles (milliseconds) of each program, and the ratios of its median to that of PyTorch's own pooling, and to the
    time of as many bytes at `bandwidth` as exact pooling reads and writes: values, gradients, and a code of 2 bytes per window,
    forward and backward."""
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(size, generator=generator).relu().to(device, dtype).requires_grad_()
    grad = torch.randn_like(torch.nn.functional.max_pool2d(input, *geometry))
    running, clock = programs(geometry, device), timing.clock(device)
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds):
        for name, pool in running.items():
            for _ in range(2):
                started = clock()
                torch.autograd.grad(pool(input), input, grad)
                ended = clock()
            seconds[name].append(ended - started)
    quartiles = (1000 * pd.DataFrame(seconds)).quantile([0.5, 0.25, 0.75]).T.set_axis(
        ["median_ms", "quartile1_ms", "quartile3_ms"], axis=1
    )  # fmt: skip
    case = {
        "shape": "x".join(map(str, size)),
        "kernel": geometry.kernel[0],
        "stride": geometry.stride[0],
        "padding": geometry.padding[0],
        "dtype": TYPES[dtype],
    }
    table = quartiles.rename_axis("program").reset_index().assign(**case)
    of_copy_ms = 1000 * 2 * (input.nbytes + grad.nbytes + 2 * grad.numel()) / bandwidth
    return table[[*case, *table.columns[: -len(case)]]].assign(
        ratio_to_native=table.median_ms / quartiles.median_ms["native"],
        ratio_to_copy=table.median_ms / of_copy_ms,
        rounds=rounds,
    )


if __name__ == "__main__":
    with job_log(snakemake.log[0]), lease(snakemake.resources.gpu_slots, snakemake.config["jobs_per_gpu"]):
        # The job holds every core so that nothing of ours disturbs it, and computes as a cell does.
        settings = training.Settings(**snakemake.params.settings).on_this_machine()
        training.configure(settings)
        device = torch.device(settings.device)
        bandwidth = copy_bandwidth(device, ROUNDS)
        table = pd.concat(
            measure((BATCHES[device.type], *size), geometry, dtype, ROUNDS, bandwidth, device)
            for size, geometry in CASES
            for dtype in TYPES
        )
        table = table.assign(**provenance.benchmark(settings.device, settings.threads))
        with atomic(snakemake.output[0]) as temporary:
            table.round(3).to_csv(temporary, index=False)
