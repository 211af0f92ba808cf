"""The MaxPool study's tables (arXiv 2401.02736): runs, their summary and costs, and distances of weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nonsmooth.cells import (
    ACTIVATIONS,
    CONDITION,
    GROUP,
    LAYERS,
    SEARCH,
    SETUP,
    WEIGHTS_FACTORS,
    TrainingCell,
    WeightsCell,
)  # fmt: skip
from nonsmooth.programs import is_against_beta
from nonsmooth.records import REMEDY, read_record, read_table
from nonsmooth.rules import Hybrid, parse_rule, rule_beta
from nonsmooth.statistics import welch_interval

# What the tables take from the files of a cell.
MEASURED = ("epoch", "test_accuracy", "test_loss", "train_accuracy", "train_loss", "images_per_second")
RECORDED = {"cell", "diverged", "first_nonfinite_step", "steps", "skipped_steps", "epochs_run", "device",
            "process_seconds", "peak_memory_mib", "weights_sha256", "config_hash", "git", "numerics_version"}  # fmt: skip
# The same of a cell of weights.
MEASURED_WEIGHTS = (
    "epoch", "distance_l1", "distance_linf", "weights_l1", "program_test_accuracy", "reference_test_accuracy",
    "program_train_loss", "reference_train_loss", "seconds",
)  # fmt: skip
RECORDED_WEIGHTS = {"cell", "program", "reference", "device", "config_hash", "git", "numerics_version"}

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


def read_runs(
    cells: Iterable[TrainingCell],
    metrics: Iterable[str | Path],
    records: Iterable[str | Path],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per run, and one row per run and epoch, from the files of the cells, in the same order.

    The column `epochs` of both is what was asked for; a run whose weights are not finite stops before it.

    Raises ValueError that names a file that cannot be read, lacks what a cell writes into it, or is of a cell that
    was trained with other settings or another numerics version: Snakemake forgets them if its folder is deleted.
    """
    runs, epochs = [], []
    for wanted, metrics_path, record_path in zip(cells, metrics, records, strict=True):
        # A cell depends on the file of its search.
        unknown = {"learning_rate"} if wanted.learning_rate == SEARCH else ()
        cell, record = read_record(record_path, wanted, RECORDED, unknown)
        rows = read_table(metrics_path, MEASURED)
        if len(rows) != record["epochs_run"]:
            raise ValueError(
                f"{metrics_path}: {len(rows)} epochs, and {record['epochs_run']} in {Path(record_path).name}; {REMEDY}"
            )
        identity = _identity(cell)
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
                "job_seconds": record["process_seconds"],
                "peak_memory_mib": record["peak_memory_mib"],
                "peak_gpu_memory_mib": record.get("peak_gpu_memory_mib"),
                "device": record["device"]["name"],
                "weights_sha256": record["weights_sha256"],
                "config_hash": record["config_hash"],
                "commit": record["git"]["commit"],
            }
        )
        epochs.append(rows.assign(**identity, epochs=cell.epochs))
    runs_table = pd.DataFrame(runs).astype({"first_nonfinite_step": "Int64", "peak_gpu_memory_mib": "Float64"})
    return runs_table, pd.concat(epochs, ignore_index=True)


def read_traces(
    cells: Iterable[TrainingCell], layers: Iterable[str | Path], activations: Iterable[str | Path]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the poolings of all cells did (`nonsmooth.traces`), from the files of the cells, in the same order.

    Returns:
        One row per run, epoch and layer; and one per run and step, `max_activation` the largest over its layers, NaN if one is.
        A network without poolings has none.

    Raises ValueError that names a file that cannot be read or lacks a column.
    """
    tables = {"layers": [], "activations": []}
    for cell, layers_path, activations_path in zip(cells, layers, activations, strict=True):
        identity = _identity(cell)
        by_layer = read_table(layers_path, LAYERS, may_be_empty=True)
        by_step = read_table(activations_path, ACTIVATIONS, may_be_empty=True)
        largest = by_step.groupby("step", as_index=False).max_activation.agg(lambda values: values.max(skipna=False))
        tables["layers"].append(by_layer.assign(**identity))
        tables["activations"].append(largest.assign(**identity))
    names = list(identity)
    return tuple(
        pd.concat(tables[kind], ignore_index=True)[[*names, *columns]]
        for kind, columns in (("layers", LAYERS), ("activations", ("step", "max_activation")))
    )


def _identity(cell: TrainingCell) -> dict[str, Any]:
    """What tells a run from all others, with the numbers of its rule."""
    rule = parse_rule(cell.rule)
    return {
        **{name: getattr(cell, name) for name in CONDITION},
        "beta": rule_beta(rule),
        "evaluation": rule.evaluation if isinstance(rule, Hybrid) else "",
        "seed": cell.seed,
    }


def read_weights(
    cells: Iterable[WeightsCell],
    epochs: Iterable[str | Path],
    records: Iterable[str | Path],
) -> pd.DataFrame:
    """One row per cell of weights and epoch, with the cell's factors, from the files of the cells, in the same order.

    Raises ValueError as `read_runs` does.
    """
    tables = []
    for wanted, epochs_path, record_path in zip(cells, epochs, records, strict=True):
        _, record = read_record(record_path, wanted, RECORDED_WEIGHTS)
        rows = read_table(epochs_path, MEASURED_WEIGHTS)
        if len(rows) != wanted.epochs + 1:
            raise ValueError(f"{epochs_path}: {len(rows)} rows, not {wanted.epochs + 1}, epoch 0 included; {REMEDY}")
        try:
            diverged = {f"{side}_diverged": record[side]["diverged"] for side in ("program", "reference")}
        except (KeyError, TypeError) as error:
            raise ValueError(f"{record_path}: not the record of a cell ({error!r}); {REMEDY}") from error
        tables.append(rows[list(MEASURED_WEIGHTS)].assign(**wanted.factors, **diverged))
    table = pd.concat(tables, ignore_index=True)
    return table[[*WEIGHTS_FACTORS, *MEASURED_WEIGHTS, "program_diverged", "reference_diverged"]]


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
    process start included; `peak_memory_mib` and `peak_gpu_memory_mib` are the largest.
    """
    return (
        runs.groupby(list(GROUP), sort=False)
        .agg(
            runs=("seed", "size"),
            epochs=("epochs", "max"),
            device=("device", lambda names: ", ".join(sorted(set(names)))),
            images_per_second=("images_per_second", "median"),
            job_seconds=("job_seconds", "sum"),
            peak_memory_mib=("peak_memory_mib", "max"),
            peak_gpu_memory_mib=("peak_gpu_memory_mib", "max"),
        )
        .reset_index()
    )


def compare(runs: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Ours beside the published final test accuracy, per condition that was published and run here.

    A condition matches if dataset, training split, architecture, normalization, optimizer, precision and beta are the
    published ones and ReLU'(0) is 0. Exact and composed are both beside the one that was published, which is composed; what is not
    `against_beta` is left out.

    Returns:
        A row per condition of ours: the factors, `beta`, `evaluation`, and for `ours` and `published` (as prefix) `_mean`,
        `_std`, `_runs`, `_diverged` and `_epochs`; `difference` of the means with Welch's 95 % interval `difference_low` to
        `difference_high`, which is empty where one of both has one run. Accuracies are fractions.
    """
    ours = (
        against_beta(runs[runs.relu_derivative == 0])
        .groupby([*CONDITION, "beta", "evaluation", "train_split"], sort=False, dropna=False)
        .agg(
            ours_mean=("test_accuracy", "mean"),
            ours_std=("test_accuracy", "std"),
            ours_runs=("seed", "size"),
            ours_diverged=("diverged", "sum"),
            ours_epochs=("epochs", "max"),
        )
        .reset_index()
    )
    names = {
        "test_accuracy_mean": "mean",
        "test_accuracy_std": "std",
        "runs": "runs",
        "diverged": "diverged",
        "epochs": "epochs",
    }
    theirs = published.rename(columns={old: f"published_{new}" for old, new in names.items()})
    theirs = theirs.drop(columns=["test_accuracy_min", "test_accuracy_max"]).astype({"beta": float})
    both = ours.merge(theirs, on=[*SETUP, "beta", "train_split"], how="inner")
    low, high = welch_interval(
        (both.ours_mean, both.published_mean),
        (both.ours_std, both.published_std),
        (both.ours_runs, both.published_runs),
    )
    difference = both.ours_mean - both.published_mean
    return both.drop(columns="train_split").assign(difference=difference, difference_low=low, difference_high=high)


def select(table: pd.DataFrame, condition: dict[str, Any]) -> pd.DataFrame:
    """The rows of `table` whose columns have the values of `condition`."""
    chosen = pd.Series(True, index=table.index)
    for column, value in condition.items():
        chosen &= table[column] == value
    return table[chosen]


def conditions(runs: pd.DataFrame, factors: Sequence[str]) -> list[tuple[str, ...]]:
    """The distinct combinations of `factors`, in order of appearance."""
    return list(runs[list(factors)].drop_duplicates().itertuples(index=False, name=None))


def with_program(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with the column `program`: `native`, or the evaluation of a hybrid rule, which other rules do not have."""
    return table.assign(program=table.evaluation.where(table.rule != "native", "native"))


def against_beta(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `table`, by `rule` and `optimizer`, that are in figures of accuracy against beta and beside published values."""
    pairs = list(zip(table.rule, table.optimizer, strict=True))
    is_in = {pair: is_against_beta(*pair) for pair in set(pairs)}
    return table[pd.Series([is_in[pair] for pair in pairs], table.index, dtype=bool)]
