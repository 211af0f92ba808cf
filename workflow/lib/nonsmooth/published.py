"""The results published with arXiv 2401.02736, under the names used here; data/published/README.md has the source."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nonsmooth.cells import SETUP

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).resolve().parents[3] / "data/published"

ARCHITECTURES = {"lenet": "lenet5"}
PRECISIONS = {"16": "float16", "32": "float32", "64": "float64", "mixed": "mixed16"}
# What was trained on, where it is not `train`.
TRAIN_SPLITS = {"svhn": "extra"}
NORMALIZATIONS = {"False": "none", "True": "batch_norm"}


def learning_rates() -> dict[tuple[str, ...], float]:
    """The searched learning rates by dataset, architecture, normalization, optimizer and precision."""
    with (FOLDER / "learning_rates.csv").open(newline="") as file:
        return {tuple(_setup(row).values()): float(row["learning_rate"]) for row in csv.DictReader(file)}


def training() -> pd.DataFrame:
    """Final test accuracy by set-up and beta: the columns of `SETUP`, `train_split`, `beta`, `epochs`, `runs`,
    `diverged`, `test_accuracy_mean`, `_std`, `_min` and `_max` (fractions)."""
    import pandas as pd

    table = pd.read_csv(FOLDER / "training.csv", dtype={"precision": str, "batch_norm": str})
    setups = pd.DataFrame([_setup(row) for row in table.to_dict("records")])
    setups["train_split"] = setups.dataset.map(TRAIN_SPLITS).fillna("train")
    return pd.concat([setups, table.drop(columns=[name for name in ("batch_norm", *SETUP) if name in table])], axis=1)


def zones() -> pd.DataFrame:
    """The share of minibatches (a fraction) in which minimal and native differ by more than the published threshold:
    `dataset`, `architecture`, `normalization`, `precision`, `batch_size`, `factor` (what the published panel varies),
    `proportion`, `note`."""
    import pandas as pd

    table = pd.read_csv(FOLDER / "zones.csv", dtype={"precision": str, "batch_norm": str}, keep_default_na=False)
    return pd.DataFrame(
        {
            "dataset": "cifar10",
            "architecture": table.architecture,
            "normalization": table.batch_norm.map(NORMALIZATIONS),
            "precision": table.precision.map(PRECISIONS),
            "batch_size": table.batch_size,
            "factor": table.factor.replace("batch_norm", "normalization"),
            "proportion": table.proportion_percent / 100,
            "note": table.note,
        }
    )


def _setup(row: dict[str, Any]) -> dict[str, str]:
    return {
        "dataset": row["dataset"],
        "architecture": ARCHITECTURES.get(row["architecture"], row["architecture"]),
        "normalization": NORMALIZATIONS[row["batch_norm"]],
        "optimizer": row["optimizer"],
        "precision": PRECISIONS[row["precision"]],
    }
