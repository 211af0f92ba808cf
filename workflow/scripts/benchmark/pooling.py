"""Time of max pooling, forward and backward, on a CPU: native, exact and composed, plain and compiled, as ratios to PyTorch's own.

Every round runs each program twice, in turn, so that a noisy machine disturbs all alike, and times the second run, so that none
pays for what another left in the caches. Inputs are what a ReLU leaves of normal numbers, so that windows tie at zero. In 16
bits, too, native is PyTorch's own kernel.
"""

import time
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from nonsmooth import provenance, training
from nonsmooth.files import atomic
from nonsmooth.joblog import job_log
from nonsmooth.pooling import Hybrid, Native, max_pool2d
from nonsmooth.pooling.composed import composed_max_pool2d
from nonsmooth.pooling.exact import ExactMaxPool2d
from nonsmooth.pooling.kernels import TYPES, kernels
from nonsmooth.pooling.windows import Geometry

BETA = 10
TILING, OVERLAPPING = Geometry.of(2, None, 0, 1, False), Geometry.of(3, 2, 1, 1, False)
# LeNet-5's first pooling, VGG11's first and third, and the first one of a ResNet.
CASES = (
    ((128, 6, 24, 24), TILING),
    ((128, 64, 32, 32), TILING),
    ((128, 256, 8, 8), TILING),
    ((128, 64, 32, 32), OVERLAPPING),
)


def programs(geometry: Geometry) -> dict[str, Callable[[Tensor], Tensor]]:
    """What is timed, by name; composed needs windows that tile the input, and compiled a compiler."""
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "native": lambda input: torch.nn.functional.max_pool2d(input, *geometry),
        "exact": lambda input: ExactMaxPool2d.apply(input, geometry, BETA)[0],
    }
    if geometry == TILING:
        found["composed"] = lambda input: composed_max_pool2d(input, geometry, BETA)
    if kernels() is not None:
        found["exact compiled"] = lambda input: max_pool2d(input, *geometry, rule=Hybrid(BETA))
        if geometry == TILING:
            found["native compiled"] = lambda input: max_pool2d(input, *geometry, rule=Native())
            found["composed compiled"] = lambda input: max_pool2d(input, *geometry, rule=Hybrid(BETA, "composed"))
    return found


def measure(size: tuple[int, ...], geometry: Geometry, dtype: torch.dtype, rounds: int) -> pd.DataFrame:
    """Median and quartiles (milliseconds) of each program, and the ratio of its median to that of PyTorch's own pooling."""
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(size, generator=generator).relu().to(dtype).requires_grad_()
    grad = torch.randn_like(torch.nn.functional.max_pool2d(input, *geometry))
    running = programs(geometry)
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds):
        for name, pool in running.items():
            for _ in range(2):
                started = time.perf_counter()
                torch.autograd.grad(pool(input), input, grad)
            seconds[name].append(time.perf_counter() - started)
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
    ratio = quartiles.median_ms / quartiles.median_ms["native"]
    return table[[*case, *table.columns[: -len(case)]]].assign(ratio_to_native=ratio.to_numpy(), rounds=rounds)


if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        # The job holds every core so that nothing of ours disturbs it, and computes as a cell does.
        training.configure(training.Settings(threads=snakemake.params.threads))
        torch.utils.deterministic.fill_uninitialized_memory = False
        rounds = snakemake.params.rounds
        table = pd.concat([measure(*case, dtype, rounds) for case in CASES for dtype in TYPES])
        table = table.assign(**provenance.benchmark("cpu", snakemake.params.threads))
        with atomic(snakemake.output[0]) as temporary:
            table.round(3).to_csv(temporary, index=False)
