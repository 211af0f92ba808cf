"""Tables for readers: one table as CSV, Markdown and LaTeX."""

from __future__ import annotations

import pandas as pd

from nonsmooth.files import atomic, write_text


def write(table: pd.DataFrame, outputs: dict[str, str]) -> None:
    """Write `table` to the paths `csv`, `md` and `tex`; text is never read as numbers or as LaTeX, and NaN is empty."""
    with atomic(outputs["csv"]) as temporary:
        table.to_csv(temporary, index=False)
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
