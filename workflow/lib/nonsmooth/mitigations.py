"""What helps against the published program's collapse, in one table: other poolings and safeguards of the optimizer beside
native and composed max pooling, with the cost of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from nonsmooth.rules import Hybrid, Native, Norm, Rounded, has_choice, parse_rule
from nonsmooth.statistics import t_interval

# What is compared with native pooling under plain SGD of the same.
CONDITION = ("dataset", "architecture", "normalization", "precision", "relu_derivative")
COLUMNS = (*CONDITION, "mitigation", "rule", "optimizer", "beta", "runs", "diverged", "test_accuracy_mean", "test_accuracy_min",
           "test_accuracy_max", "pairs", "difference", "difference_low", "difference_high", "has_choice", "zone_proportion",
           "cost")  # fmt: skip
SAFEGUARDS = {"sgd": "", "sgd_clipped": "gradient clipping", "sgd_scaled": "loss scaling"}
POOLINGS = {"average": "average pooling", "strided": "strided convolution", "norm": "Euclidean-norm pooling",
            "boltzmann": "Boltzmann pooling", "logsumexp": "log-sum-exp pooling"}  # fmt: skip


def mitigation(rule: str, optimizer: str) -> str | None:
    """What a run tries, in words: "none" for native and composed pooling as they are; None if it is not for this table.

    It is for it with another pooling under plain SGD, with composed pooling in float32, and with native or composed pooling under
    a safeguard. `Rounded` is no remedy, and neither is a part of the published program.
    """
    if optimizer not in SAFEGUARDS:
        return None
    safeguard = SAFEGUARDS[optimizer]
    match parse_rule(rule):
        case Native() | Hybrid(evaluation="composed"):
            return safeguard or "none"
        case Hybrid(evaluation="composed_float32") if not safeguard:
            return "pooling in float32"
        case Rounded() | Hybrid():
            return None
        case _ if not safeguard:
            return POOLINGS.get(rule.split("-")[0])
    return None


def compare(runs: pd.DataFrame, proportions: pd.DataFrame | None = None) -> pd.DataFrame:
    """A row per mitigation, what it is applied to, and condition, beside native pooling under plain SGD.

    Args:
        runs: as of `maxpool.read_runs`.
        proportions: as of `zones.tables.proportions`, if zones were measured.

    Returns:
        `CONDITION`, `mitigation`, `rule`, `optimizer` and `beta` (of the hybrid, else NaN); `runs`, `diverged`;
        `test_accuracy_mean`, `_min` and `_max`, in which a diverged run counts with what its weights score; `pairs`, the seeds that
        native was run with, too, and over these `difference` (the mean of accuracy less native's), with its 95 % t interval
        `difference_low` to `difference_high` (NaN for one pair and where a run of either diverged, a point where all differences are
        equal); `has_choice`,
        whether the derivative is a choice anywhere, and `zone_proportion`, the share of minibatches that a choice puts above the
        published threshold, NaN if it was not measured; `cost`, the time of a training step over native's, from the medians of
        images per second, NaN if native was not run on the same device.
    """
    tried = [mitigation(rule, optimizer) for rule, optimizer in zip(runs.rule, runs.optimizer, strict=True)]
    chosen = runs.assign(mitigation=pd.Series(tried, index=runs.index, dtype=object)).dropna(subset="mitigation")
    rows: list[dict[str, Any]] = []
    for condition, group in chosen.groupby(list(CONDITION), sort=False):
        is_native = (group.rule == "native") & (group.optimizer == "sgd")
        for (name, rule, optimizer), mine in group.groupby(["mitigation", "rule", "optimizer"], sort=False):
            rows.append(
                {
                    **dict(zip(CONDITION, condition, strict=True)),
                    "mitigation": name,
                    "rule": rule,
                    "optimizer": optimizer,
                    "beta": mine.beta.iloc[0] if isinstance(parse_rule(rule), Hybrid) else np.nan,
                    "runs": len(mine),
                    "diverged": int(mine.diverged.sum()),
                    "test_accuracy_mean": mine.test_accuracy.mean(),
                    "test_accuracy_min": mine.test_accuracy.min(),
                    "test_accuracy_max": mine.test_accuracy.max(),
                    **_difference(mine, group[is_native]),
                    "has_choice": has_choice(parse_rule(rule)),
                    "zone_proportion": _zone_proportion(mine.iloc[0], proportions),
                    "cost": _cost(mine, group[is_native]),
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def _difference(mine: pd.DataFrame, native: pd.DataFrame) -> dict[str, float]:
    """Accuracy less native's over common seeds, whose runs start from the same weights and see the same batches."""
    pairs = mine.merge(native, on="seed", suffixes=("", "_native"))
    differences = pairs.test_accuracy - pairs.test_accuracy_native
    mean, low, high = t_interval(differences)
    if pairs.diverged.any() or pairs.diverged_native.any():  # far from normal
        low = high = np.nan
    return {"pairs": len(pairs), "difference": mean, "difference_low": low, "difference_high": high}


def _zone_proportion(run: pd.Series, proportions: pd.DataFrame | None) -> float:
    """Of the run's program, at its batch size and without noise; clipping comes after the gradient, loss scaling before it."""
    if proportions is None or run.optimizer == "sgd_scaled" or run.relu_derivative != 0:
        return np.nan
    program, reference = zone_pair(run.rule)
    wanted = {"dataset": run.dataset, "architecture": run.architecture, "normalization": run.normalization,
              "precision": run.precision, "batch_size": run.batch_size, "program": program, "reference": reference,
              "noise": 0, "kernels": "deterministic"}  # fmt: skip
    found = proportions
    for column, value in wanted.items():
        found = found[found[column] == value]
    return found.proportion.iloc[0] if len(found) else np.nan


def zone_pair(rule: str) -> tuple[str, str]:
    """The programs that differ in the choice that `rule` makes: for native minimal beside it, for a norm both derivatives."""
    match parse_rule(rule):
        case Native():
            return "minimal", "native"
        case Norm(evaluation=evaluation):
            return str(Norm(1, evaluation)), str(Norm(0, evaluation))
    return rule, "native"


def _cost(mine: pd.DataFrame, native: pd.DataFrame) -> float:
    if set(mine.device) != set(native.device):
        return np.nan
    return native.images_per_second.median() / mine.images_per_second.median()
