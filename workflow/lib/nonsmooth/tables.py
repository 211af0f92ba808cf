"""Tables for readers as files: CSV, Markdown and LaTeX of the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike

import pandas as pd

from nonsmooth.files import atomic, write_text


def write_csv(table: pd.DataFrame, path: str | PathLike[str]) -> None:
    """Write all digits of `table`; the file appears when it is whole."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def write(table: pd.DataFrame, outputs: Mapping[str, str | PathLike[str]]) -> None:
    """Write `table` to `csv`, `md` and `tex` of `outputs`: numbers with two decimals but in CSV, text as it is, nothing for NaN."""
    write_csv(table, outputs["csv"])
    # tabulate writes a NaN as "nan", and would read the numbers in text with two decimals.
    text = [position for position, name in enumerate(table) if not pd.api.types.is_numeric_dtype(table[name])]
    markdown = (
        table.astype(object)
        .where(table.notna(), None)
        .to_markdown(index=False, floatfmt=".2f", missingval="", disable_numparse=text if len(table) else True)
    )
    write_text(outputs["md"], markdown + "\n")
    latex = table.style.hide(axis="index").format(precision=2, na_rep="", escape="latex")
    latex = latex.format_index(escape="latex", axis="columns").to_latex(hrules=True, environment="longtable")
    write_text(outputs["tex"], latex)
