"""The factorial experiment: what each part of the published program does to a run, alone and together with the others.

Runs of one seed share initial weights and batches, so that a seed is a block with a whole factorial in it: effects are
computed seed by seed, and their spread over seeds gives the interval. A run that diverged counts with the accuracy it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd

from nonsmooth.cells import SETUP
from nonsmooth.maxpool import with_program
from nonsmooth.programs import PROGRAMS, at, levels
from nonsmooth.rules import EVALUATIONS
from nonsmooth.statistics import t_interval

# What tells one experiment from another; native, which has no beta, is in those of every beta.
EXPERIMENT = (*SETUP, "relu_derivative", "beta")
# The factors that are crossed; see `programs.levels`.
DESIGNS = ("F,B,J", "F,B,J,R", "F,B,J,W")
RESPONSES = ("test_accuracy", "diverged")

# Every program that the five factors describe, by name. A pooling in float32 altogether is another one.
CROSSED = {**PROGRAMS, **{name: found for name, found in EVALUATIONS.items() if not found.wide_forward}}
NAMES = {evaluation: name for name, evaluation in CROSSED.items()}

CELL_COLUMNS = (
    *EXPERIMENT, "program", "F", "B", "J", "R", "W", "test_accuracy_mean", "test_accuracy_low", "test_accuracy_high",
    "test_accuracy_min", "test_accuracy_max", "runs", "diverged", "difference", "difference_low", "difference_high",
)  # fmt: skip
EFFECT_COLUMNS = (*EXPERIMENT, "response", "design", "effect", "estimate", "low", "high", "n")


def cells_table(runs: pd.DataFrame) -> pd.DataFrame:
    """What each program scored, wherever all of `PROGRAMS` were run with a common seed.

    Args:
        runs: as `maxpool.read_runs` returns it; `evaluation` of rules that are not hybrid may be "" or NaN.

    Returns:
        A row per experiment and program, `CELL_COLUMNS`: mean of the final test accuracy (a fraction) over the common seeds with
        its t interval, range, runs and diverged runs; `difference` from native, paired by seed, with its interval.
    """
    rows = []
    for experiment, programs in experiments(runs):
        accuracies = programs.pivot_table(index="seed", columns="program", values="test_accuracy")
        for name, evaluation in CROSSED.items():
            mine = programs[programs.program == name]
            if mine.empty:
                continue
            accuracy = accuracies[name].dropna()
            mean, low, high = t_interval(accuracy)
            difference = t_interval(accuracy - accuracies.native[accuracy.index])
            rows.append((*experiment.values(), name, *levels(evaluation).values(), mean, low, high, accuracy.min(),
                         accuracy.max(), len(mine), int(mine.diverged.sum()), *difference))  # fmt: skip
    return pd.DataFrame(rows, columns=list(CELL_COLUMNS))


def effects_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Main effects and interactions of the parts, and of range and backward width where these were varied.

    A main effect is the mean over the levels of the other factors of y(1) - y(0). An interaction of two factors is half the
    difference between the effects of one at the two levels of the other, and so on: every contrast is a signed sum of
    the 2^k cells over 2^(k - 1) (Box, Hunter and Hunter, *Statistics for Experimenters*). It is computed for each seed that has all cells.

    Args:
        runs: as of `cells_table`.

    Returns:
        A row per experiment, response, design and effect, `EFFECT_COLUMNS`: mean over `n` seeds and its t interval. The response
        is the final test accuracy, a fraction, or `diverged`, 0 or 1.
    """
    rows = []
    for experiment, programs in experiments(runs):
        for design in DESIGNS:
            factors = design.split(",")
            names = [NAMES[at(**dict(zip(factors, cell, strict=True)))] for cell in cells_of(factors)]
            seeds = complete(programs, names)
            for response, effect in product(RESPONSES, contrasts(factors).items()) if seeds else ():
                values = programs.pivot_table(index="seed", columns="program", values=response).loc[seeds, names]
                estimates = values.to_numpy(float) @ effect[1]
                rows.append((*experiment.values(), response, design, effect[0], *t_interval(estimates), len(seeds)))
    return pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))


def experiments(runs: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Every condition and beta with a whole factorial of F, B and J, and its runs of the seeds that have one.

    The runs have one more column, `program`; native's are in the experiments of every beta.
    """
    runs = with_program(runs)
    runs = runs[runs.program.isin(list(CROSSED))]
    condition = list(EXPERIMENT[:-1])
    for values, found in runs.groupby(condition, sort=False):
        native = found[found.program == "native"]
        for beta, hybrids in found[found.program != "native"].groupby("beta"):
            programs = pd.concat([native, hybrids])
            seeds = complete(programs, PROGRAMS)
            if seeds:
                yield {**dict(zip(condition, values, strict=True)), "beta": beta}, programs[programs.seed.isin(seeds)]


def complete(programs: pd.DataFrame, names: Iterable[str]) -> list[int]:
    """The seeds for which each of the programs called `names` was run."""
    wanted = set(names)
    ran = programs[programs.program.isin(wanted)].groupby("seed").program.nunique()
    return list(ran.index[ran == len(wanted)])


def cells_of(factors: Sequence[str]) -> list[tuple[int, ...]]:
    """The cells of a two-level factorial of these factors, the last of which changes fastest."""
    return list(product((0, 1), repeat=len(factors)))


def contrasts(factors: Sequence[str]) -> dict[str, np.ndarray]:
    """Every main effect and interaction, such as `F:J`, as weights of `cells_of` the factors."""
    signs = 2 * np.array(cells_of(factors)) - 1
    chosen = [subset for size in range(1, len(factors) + 1) for subset in combinations(range(len(factors)), size)]
    return {
        ":".join(factors[i] for i in subset): signs[:, subset].prod(axis=1) / 2 ** (len(factors) - 1)
        for subset in chosen
    }
