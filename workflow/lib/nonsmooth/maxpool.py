"""The MaxPool study's measurements and tables (arXiv 2401.02736): runs, their summary, and ties in one image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from nonsmooth import training
from nonsmooth.cells import TrainingCell
from nonsmooth.files import read_json
from nonsmooth.precision import PRECISIONS
from nonsmooth.rules import Hybrid, parse_rule, rule_beta

# What tells one condition from another; runs of a condition differ by their seed.
CONDITION = ("dataset", "architecture", "normalization", "optimizer", "precision", "rule")


def read_runs(
    metrics: Iterable[str | Path], records: Iterable[str | Path], benchmarks: Iterable[str | Path]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per run, and one row per run and epoch, from the files of the cells, in the same order.

    Raises ValueError that names a file that cannot be read.
    """
    runs, epochs = [], []
    for metrics_path, record_path, benchmark_path in zip(metrics, records, benchmarks, strict=True):
        record = read_json(record_path)
        cell = TrainingCell.from_dict(record["cell"])
        rows = _read_table(metrics_path)
        benchmark = _read_table(benchmark_path, sep="\t").iloc[-1]
        rule = parse_rule(cell.rule)
        identity = {
            **{name: getattr(cell, name) for name in CONDITION},
            "beta": rule_beta(rule),
            "evaluation": rule.evaluation if isinstance(rule, Hybrid) else "",
            "seed": cell.seed,
        }
        last = rows.iloc[-1]
        runs.append(
            {
                **identity,
                "test_accuracy": last.test_accuracy,
                "test_loss": last.test_loss,
                "train_accuracy": last.train_accuracy,
                "train_loss": last.train_loss,
                "diverged": record["diverged"],
                "first_nonfinite_step": record["first_nonfinite_step"],
                "steps": record["steps"],
                "skipped_steps": record["skipped_steps"],
                "epochs_run": record["epochs_run"],
                **cell.settings,
                "images_per_second": rows.images_per_second.median(),
                "job_seconds": benchmark.s,
                "peak_memory_mib": benchmark.max_rss,
                "device": record["device"]["name"],
                "weights_sha256": record["weights_sha256"],
                "config_hash": record["config_hash"],
                "commit": record["git"]["commit"],
            }
        )
        epochs.append(rows.assign(**identity))
    runs_table = pd.DataFrame(runs).astype({"first_nonfinite_step": "Int64"})
    return runs_table, pd.concat(epochs, ignore_index=True)


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """Final test accuracy per condition: mean, sample standard deviation, min, max, runs, diverged runs.

    A diverged run counts with the accuracy that its weights score. The deviation of one run is empty.
    """
    keys = [*CONDITION, "beta", "evaluation"]
    return (
        runs.groupby(keys, sort=False, dropna=False)
        .agg(
            test_accuracy_mean=("test_accuracy", "mean"),
            test_accuracy_std=("test_accuracy", "std"),
            test_accuracy_min=("test_accuracy", "min"),
            test_accuracy_max=("test_accuracy", "max"),
            runs=("seed", "size"),
            diverged=("diverged", "sum"),
        )
        .reset_index()
    )


def costs(runs: pd.DataFrame) -> pd.DataFrame:
    """What was run, on what, and how long it took, per dataset, architecture, optimizer and precision.

    `images_per_second` is the median over runs of training alone; `job_seconds` is the sum over jobs,
    process start included; `peak_memory_mib` is the largest.
    """
    return (
        runs.groupby(["dataset", "architecture", "optimizer", "precision"], sort=False)
        .agg(
            runs=("seed", "size"),
            epochs=("epochs", "max"),
            device=("device", lambda names: ", ".join(sorted(set(names)))),
            images_per_second=("images_per_second", "median"),
            job_seconds=("job_seconds", "sum"),
            peak_memory_mib=("peak_memory_mib", "max"),
        )
        .reset_index()
    )


def ties(image: torch.Tensor, model: nn.Module, precision_name: str) -> dict[str, np.ndarray]:
    """The tied maxima in the windows of a network's first max pooling, for one image.

    Args:
        image: normalised float32 (C, H, W).
        model: a float32 network; it is cast to the precision in place.

    Returns:
        `activations` (channels, H', W') float64: the input of the pooling; `tied` of the same shape: is it one
        of k > 1 equal maxima of its window; `maxima` and `count` (channels, rows, columns): the value and
        the number k of maxima of each window.
    """
    precision = PRECISIONS[precision_name]
    seen: list[tuple[nn.MaxPool2d, torch.Tensor]] = []
    precision.cast_model(model).eval()
    pool = next(module for module in model.modules() if isinstance(module, nn.MaxPool2d))
    hook = pool.register_forward_pre_hook(lambda module, inputs: seen.append((module, inputs[0].detach())))
    with torch.no_grad(), precision.arithmetic(torch.device("cpu")):
        model(precision.cast_batch(image[None]))
    hook.remove()
    values = seen[0][1][0].double()
    size, stride = (n if isinstance(n, int) else n[0] for n in (pool.kernel_size, pool.stride))
    if size != stride or any(n % size for n in values.shape[-2:]):
        raise ValueError("ties: only for windows that tile their input")
    windows = values.unfold(-2, size, size).unfold(-2, size, size)
    maxima = windows.amax((-2, -1))
    is_maximum = values == maxima.repeat_interleave(size, -2).repeat_interleave(size, -1)
    count = (windows == maxima[..., None, None]).sum((-2, -1))
    is_tied = is_maximum & (count > 1).repeat_interleave(size, -2).repeat_interleave(size, -1)
    arrays = {"activations": values, "tied": is_tied, "maxima": maxima, "count": count}
    return {name: array.numpy() for name, array in arrays.items()}


def tie_counts(measured: dict[str, dict[str, np.ndarray]]) -> pd.DataFrame:
    """Per precision: windows, tied windows, tied at zero, tied above zero, and the mean size of a tie."""
    rows: list[dict[str, Any]] = []
    for precision, arrays in measured.items():
        tied = arrays["count"] > 1
        rows.append(
            {
                "precision": precision,
                "windows": tied.size,
                "tied": int(tied.sum()),
                "tied_at_zero": int((tied & (arrays["maxima"] == 0)).sum()),
                "tied_above_zero": int((tied & (arrays["maxima"] > 0)).sum()),
                "mean_size_of_ties": float(arrays["count"][tied].mean()) if tied.any() else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def initial_network(architecture: str, dataset: str, seed: int) -> nn.Module:
    """The network that a cell with this seed starts from, in float32 with the native rule and no normalization."""
    cell = TrainingCell(dataset, architecture, "none", "sgd", "float32", "native", seed, 1, 1, 1.0, 0.0, 0.0, 1.0)
    return training.initial_model(cell)


def _read_table(path: str | Path, sep: str = ",") -> pd.DataFrame:
    try:
        table = pd.read_csv(path, sep=sep)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a table ({error}); delete it and run snakemake again") from error
    if table.empty:
        raise ValueError(f"{path}: no rows; delete it and run snakemake again")
    return table


def select(table: pd.DataFrame, condition: dict[str, Any]) -> pd.DataFrame:
    """The rows of `table` whose columns have the values of `condition`."""
    chosen = pd.Series(True, index=table.index)
    for column, value in condition.items():
        chosen &= table[column] == value
    return table[chosen]


def conditions(runs: pd.DataFrame, factors: Sequence[str]) -> list[tuple[str, ...]]:
    """The distinct combinations of `factors`, in order of appearance."""
    return list(runs[list(factors)].drop_duplicates().itertuples(index=False, name=None))


# The published experiments (figures and tables) of the study.
EXPERIMENTS = {
    "intro": "a function that is zero everywhere and whose computed derivative is not",
    "ties": "tied window maxima in one image",
    "differences": "histograms of the difference between two backward rules, per precision",
    "thresholds": "the threshold that separates rounding from different derivatives",
    "factors": "share of minibatches with different gradients by depth, batch size and batch norm",
    "weights": "distance between networks trained with different rules, per epoch",
    "accuracy": "final test accuracy against beta",
    "loss": "training loss per epoch by beta",
    "imagenet": "ResNet-50 on ImageNet in mixed precision",
    "normpool": "Euclidean-norm pooling and its derivative at zero",
}
