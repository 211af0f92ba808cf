"""What a cell leaves behind, its record and its tables, checked when they are read."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from nonsmooth.cells import TrainingCell, WeightsCell, ZoneCell
from nonsmooth.files import read_json
from nonsmooth.numerics import NUMERICS_VERSION

REMEDY = "delete it and run snakemake again"


def read_record(
    path: str | Path,
    wanted: TrainingCell | WeightsCell | ZoneCell,
    required: Collection[str],
    unknown: Collection[str] = (),
    made: str = "trained",
) -> tuple[TrainingCell | WeightsCell | ZoneCell, dict[str, Any]]:
    """The cell that the record in `path` is of, and the record.

    Args:
        required: what the record must have.
        unknown: the settings that only the record knows, so that they may differ from those of `wanted`.
        made: what was done with the cell, for messages.

    Raises ValueError that names the file if it is not a record, or of a cell that was made with other settings or
    another numerics version: Snakemake forgets them if its folder is deleted.
    """
    record = read_json(path)
    if not (isinstance(record, dict) and record.keys() >= {*required, "cell", "device", "git", "numerics_version"}):
        raise ValueError(f"{path}: not the record of a cell; {REMEDY}")
    try:
        cell = type(wanted).from_dict(record["cell"])
        _ = record["device"]["name"], record["git"]["commit"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the record of a cell ({error!r}); {REMEDY}") from error
    asked = {**wanted.to_dict(), "numerics_version": NUMERICS_VERSION}
    found = {**cell.to_dict(), "numerics_version": record["numerics_version"]}
    differing = [
        f"{key} {found[key]}, not {asked[key]}" for key in asked if key not in unknown and found[key] != asked[key]
    ]
    if differing:
        raise ValueError(f"{path}: the cell was {made} with {'; '.join(differing)}; {REMEDY}")
    return cell, record


def read_table(path: str | Path, columns: Iterable[str], may_be_empty: bool = False) -> pd.DataFrame:
    """The table in `path`, which has these columns, and a row unless it `may_be_empty`; ValueError that names the file otherwise."""
    try:
        table = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a table ({' '.join(str(error).split())}); {REMEDY}") from error
    missing = [name for name in columns if name not in table]
    if missing or (table.empty and not may_be_empty):
        raise ValueError(f"{path}: no {', '.join(missing) or 'rows'}; {REMEDY}")
    return table
